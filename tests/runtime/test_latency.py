"""Latencies are measured in turn, and their ratios can be trusted."""

import time

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import ExecutionError
from graphopt.runtime.latency import summarize
from graphopt.runtime.rounds import Plan, measure

QUICK = Plan(
    repetitions=4, max_repetitions=4, max_seconds=5, warm_up_seconds=0, slice_seconds=0
)


def matmuls(count: int, name: str = "m") -> ir.Model:
    lines = "\n".join(f"v{n + 1} = MatMul (v{n}, v{n})" for n in range(count))
    return graphs.load(f"{name} (float[64, 64] v0) => (float[64, 64] v{count}) {{ {lines} }}")


FEED = {"v0": np.zeros((64, 64), np.float32)}


def test_models_take_turns_forwards_and_backwards():
    calls = []
    runs = [lambda at, n=n: calls.append((n, at)) for n in range(3)]
    times = measure(runs, QUICK, lambda value: None)
    assert times.shape == (3, 4)
    warm_up = calls[:6]
    assert [n for n, _ in warm_up] == [0, 0, 1, 1, 2, 2]
    assert [n for n, _ in calls[6:]] == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]
    # All models of a round get the same feed.
    assert [at for _, at in calls[6:]] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_short_runs_are_repeated_until_they_can_be_timed():
    count = 0

    def run(at):
        nonlocal count
        count += 1
        time.sleep(0.001)

    plan = Plan(
        repetitions=5,
        max_repetitions=5,
        max_seconds=9,
        warm_up_seconds=0.02,
        slice_seconds=0.01,
    )
    times = measure([run], plan, lambda value: None)
    assert count > 5 * 5
    assert 0.001 <= np.median(times) < 0.005


def test_measuring_stops_when_the_ratio_is_known(monkeypatch):
    plan = Plan(
        repetitions=30, max_repetitions=300, precision=0.05, warm_up_seconds=0, slice_seconds=0
    )
    steady = iter(np.arange(10_000.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(steady) / 1e6)
    times = measure([lambda at: None, lambda at: None], plan, lambda value: None)
    assert times.shape == (2, 30)


def test_measuring_goes_on_while_the_ratio_is_not_known(monkeypatch):
    plan = Plan(
        repetitions=10, max_repetitions=50, precision=0.01, warm_up_seconds=0, slice_seconds=0
    )
    rng = np.random.default_rng(0)
    now = 0.0

    def clock():
        nonlocal now
        now += rng.uniform(1e-6, 1e-5)
        return now

    monkeypatch.setattr("time.perf_counter", clock)
    times = measure([lambda at: None, lambda at: None], plan, lambda value: None)
    assert times.shape == (2, 50)


def test_slow_models_are_measured_as_often_as_the_time_allows(monkeypatch):
    plan = Plan(repetitions=30, max_seconds=100, min_repetitions=5)
    seconds = iter(np.arange(0, 1e6, 20.0))  # each look at the clock is 20 s later
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    times = measure([lambda at: None], plan, lambda value: None)
    assert times.shape == (1, 5)


def test_figures():
    times = np.array([[1.0, 2.0, 4.0, 2.0, 2.0], [0.5, 1.0, 1.0, 1.0, 2.0]])
    first, second = summarize(times)
    assert (first.median_ms, first.minimum_ms, first.quartiles_ms) == (
        2000,
        1000,
        (2000, 2000),
    )
    assert (first.ratio, first.ratio_quartiles) == (1, (1, 1))
    # The ratios are those of the rounds: 0.5, 0.5, 0.25, 0.5, 1.
    assert (second.ratio, second.ratio_quartiles) == (0.5, (0.5, 0.5))
    assert second.repetitions == 5


def test_a_model_of_ten_times_the_work_takes_longer(shared_runtime):
    one, ten = shared_runtime.latency(
        [matmuls(2), matmuls(20)], FEED, repetitions=10, max_seconds=2
    )
    assert one.ratio == 1
    assert 4 < ten.ratio < 20
    assert ten.ratio_quartiles[0] <= ten.ratio <= ten.ratio_quartiles[1]
    assert ten.minimum_ms <= ten.quartiles_ms[0] <= ten.median_ms <= ten.quartiles_ms[1]


def test_several_feeds_and_progress(shared_runtime):
    seen = []
    shared_runtime.latency(
        [matmuls(20)],
        [FEED, FEED],
        repetitions=40,
        progress=lambda done, planned: seen.append((done, planned)),
    )
    assert seen
    assert all(0 < done <= planned for done, planned in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_processes_are_ended_after_measuring(runtime):
    runtime.latency([matmuls(1)], FEED, repetitions=2, max_seconds=1)
    assert runtime._busy == runtime._idle == []


def test_a_model_that_does_not_run_is_named(shared_runtime):
    with pytest.raises(ExecutionError, match="'bad'"):
        shared_runtime.latency([matmuls(1, "bad")], {"v0": np.zeros(3, np.float32)})

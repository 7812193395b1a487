"""Statistics of a model's activations, from samples."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import graphs
import numpy as np
import pytest

from graphopt.calibration.channels import ChannelStatistics
from graphopt.calibration.collect import accumulate, collect
from graphopt.calibration.statistics import TensorStatistics
from graphopt.errors import ExecutionError, SamplesError
from graphopt.passbase import Context
from graphopt.runtime import Runtime
from graphopt.samples import Samples

MODEL = """g (float[n,m] x) => (float[n,m] z) { y = Mul(x, x) z = Sqrt(y) }"""


def feeds(count: int = 40) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    # Ragged: no two shapes in a row are the same.
    return [
        {"x": rng.standard_normal((1, 3 + i % 5)).astype(np.float32)} for i in range(count)
    ]


def test_inputs_inner_values_and_outputs(context: Context) -> None:
    samples = Samples.from_feeds(feeds())
    found = collect(graphs.load(MODEL), ["x", "y", "z"], samples, context)
    x = np.concatenate([feed["x"].ravel() for feed in feeds()])
    for name, values in (("x", x), ("y", x * x), ("z", np.abs(x))):
        assert found[name].count == x.size
        assert found[name].low == pytest.approx(values.min(), rel=1e-6)
        assert found[name].high == pytest.approx(values.max(), rel=1e-6)


def test_workers_find_what_one_finds(context: Context) -> None:
    model = graphs.load(MODEL)
    alone = collect(model, ["x", "y"], Samples.from_feeds(feeds()), context)
    with ProcessPoolExecutor(2) as executor:
        context.executor = executor
        spread = collect(model, ["x", "y"], Samples.from_feeds(feeds()), context)
    for name, stats in alone.items():
        assert np.array_equal(spread[name].histogram.counts, stats.histogram.counts)
        assert spread[name].row_highs.mean() == stats.row_highs.mean()
        assert (spread[name].low, spread[name].high) == (stats.low, stats.high)


def test_no_sample_is_refused(context: Context) -> None:
    with pytest.raises(SamplesError, match="there is no feed"):
        collect(graphs.load(MODEL), ["y"], Samples.from_feeds([]), context)


def test_samples_without_elements_are_refused(context: Context) -> None:
    nothing = Samples.from_feeds([{"x": np.zeros((0, 3), np.float32)}] * 2)
    with pytest.raises(SamplesError, match="every array is empty"):
        collect(graphs.load(MODEL), ["y"], nothing, context)


def test_nan_in_a_sample_is_refused_by_input_and_index(context: Context) -> None:
    bad = [*feeds(3), {"x": np.full((1, 3), np.nan, np.float32)}]
    with pytest.raises(SamplesError, match=r"input 'x' of sample 3 holds NaN"):
        collect(graphs.load(MODEL), ["y"], Samples.from_feeds(bad), context)


def test_overflow_inside_the_model_is_remembered_with_its_sample(context: Context) -> None:
    big = [*feeds(2), {"x": np.full((1, 3), 1e30, np.float32)}]
    found = collect(graphs.load(MODEL), ["y"], Samples.from_feeds(big), context)
    assert found["y"].not_finite == 3
    assert found["y"].first_not_finite == 2


def test_workers_of_any_kind_leave_the_empty_accumulators_alone(context: Context) -> None:
    empty = {"y": ChannelStatistics()}
    with ThreadPoolExecutor(2) as executor:
        context.executor = executor
        samples = Samples.from_feeds(
            [{"x": np.full((2, 3), i, np.float32)} for i in range(40)]
        )
        found = accumulate(graphs.load(MODEL), empty, samples, context)["y"]
    assert empty["y"].count == 0
    assert found.count == 80
    assert found.high.tolist() == [39**2] * 3


def test_feeds_looked_at_together_are_as_feeds_one_by_one(context: Context) -> None:
    """Small values of many feeds are joined: shapes change, and an infinity comes between."""
    shapes = [(1, 3)] * 5 + [(2, 3)] * 3 + [(1, 4)] + [(1, 3)] * 3
    rng = np.random.default_rng(3)
    feeds = [{"x": rng.standard_normal(shape).astype(np.float32)} for shape in shapes]
    feeds[9]["x"][0, 1] = 1e30  # its square is infinite
    model = graphs.load(MODEL)
    alone = TensorStatistics()
    with context.runtime.session(model, outputs=["y"]) as session:
        for index, feed in enumerate(feeds):
            alone.update(session.run(feed)["y"], index)
    found = collect(model, ["y"], Samples.from_feeds(feeds), context)["y"]
    assert (found.count, found.zeros, found.low, found.high) == (
        (alone.count, alone.zeros, alone.low, alone.high)
    )
    assert (found.not_finite, found.first_not_finite) == (1, 9)
    np.testing.assert_array_equal(found.histogram.counts, alone.histogram.counts)
    np.testing.assert_array_equal(found.row_lows.parts, alone.row_lows.parts)
    assert found.row_highs.count == alone.row_highs.count == 15


class Fussy:
    """An accumulator that takes in no second feed."""

    def update(self, values: np.ndarray, feed: int) -> None:
        if feed:
            raise ValueError(f"{values.shape} is too much")

    def merge(self, other: Fussy) -> None:
        raise AssertionError


def test_accumulator_that_fails_is_an_error_and_leaves_the_process_usable(
    context: Context,
) -> None:
    model, samples = graphs.load(MODEL), Samples.from_feeds(feeds(3))
    with pytest.raises(ExecutionError, match=r"\(1, 4\) is too much"):
        accumulate(model, {"y": Fussy()}, samples, context)
    assert collect(model, ["y"], samples, context)["y"].count == 3 + 4 + 5


@pytest.mark.parametrize("good", [0, 1, 5])
def test_feeds_that_end_in_an_error_leave_the_session_usable(
    good: int, context: Context
) -> None:
    """Whether it is the samples, the model or the accumulator, with answers still to come."""
    model = graphs.load(MODEL)
    empty = {"y": TensorStatistics()}

    def broken() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        yield from enumerate(feeds(good))
        raise SamplesError("shape", "no more")

    misshapen = [*enumerate(feeds(good)), (good, {"x": np.zeros(3, np.float32)})]
    with context.runtime.session(model, outputs=["y"]) as session:
        with pytest.raises(SamplesError, match="no more"):
            session.observe(broken(), empty)
        with pytest.raises(ExecutionError, match="Invalid rank"):
            session.observe([*misshapen, *enumerate(feeds(3))], empty)
        found = session.observe(enumerate(feeds(7)), empty)["y"]
        np.testing.assert_array_equal(session.run(feeds(1)[0])["y"], feeds(1)[0]["x"] ** 2)
    assert found.count == sum(feed["x"].size for feed in feeds(7))
    assert empty["y"].count == 0


def test_interrupt_between_feeds_ends_the_process(context: Context) -> None:
    def interrupted() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        yield from enumerate(feeds(3))
        raise KeyboardInterrupt

    model = graphs.load(MODEL)
    with context.runtime.session(model, outputs=["y"]) as session:
        with pytest.raises(KeyboardInterrupt):
            session.observe(interrupted(), {"y": TensorStatistics()})
        assert not session.is_open
    assert collect(model, ["y"], Samples.from_feeds(feeds(2)), context)["y"].count == 7


def test_each_feed_is_told_to_accumulators_that_keep_them_apart(context: Context) -> None:
    found = accumulate(
        graphs.load(MODEL), {"x": ChannelStatistics()}, Samples.from_feeds(same()), context
    )
    assert found["x"].by_feed.keys() == {0, 1, 2}


def same() -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((1, 3), i, np.float32)} for i in range(3)]


@pytest.mark.parametrize("name", ["x", "y"])
def test_memory_does_not_depend_on_how_many_large_feeds_there_are(name: str) -> None:
    """Neither where they are looked at, nor where all that is, is small."""
    large = {"x": np.ones((1, 1 << 20), np.float32)}
    model = graphs.load("g (float[n,m] x) => (float[n,1] y) { y = ReduceMax(x) }")

    def peak_kb(count: int) -> int:
        with Runtime() as runtime, runtime.session(model) as session:
            session.observe(((index, large) for index in range(count)), {name: Nothing()})
            status = pathlib.Path(f"/proc/{session._process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    assert peak_kb(24) < peak_kb(4) + 32 * 1024


class Busy(Executor):
    """Has no worker that is free."""

    def __init__(self) -> None:
        self.futures: list[Future] = []
        self.paths: list[pathlib.Path] = []

    def submit(self, function: object, /, path: str, *arguments: object) -> Future:
        assert pathlib.Path(path).is_file()
        self.paths.append(pathlib.Path(path))
        self.futures.append(Future())
        return self.futures[-1]


def test_samples_that_end_in_an_error_leave_no_work_to_the_workers(context: Context) -> None:
    def broken() -> Iterator[dict[str, np.ndarray]]:
        yield from feeds(40)
        raise OSError("no more")

    context.executor = workers = Busy()
    with pytest.raises(OSError, match="no more"):
        collect(graphs.load(MODEL), ["y"], Samples.from_feeds(broken()), context)
    assert [future.cancelled() for future in workers.futures] == [True, True]
    folder = workers.paths[0].parent.parent
    assert folder.name.startswith(".graphopt-stage-")  # were this killed, the next removes it
    assert not folder.exists()


class Nothing:
    """Looks at nothing."""

    def update(self, values: np.ndarray, feed: int) -> None:
        pass

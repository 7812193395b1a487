"""How many samples a model is judged on: no more than it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.auto_judge import Judge

from graphopt.passbase import Context
from graphopt.runtime import Runtime, Session
from graphopt.samples import Samples
from graphopt.scores import metric_of

COUNT = 12
ORIGINAL = "g (float[N,8] x) => (float[N,8] y) { y = Identity(x) }"
WRONG = "g (float[N,8] x) => (float[N,8] y) { y = Neg(x) }"
CLOSE = """g (float[N,8] x) => (float[N,8] y) <float small = {0.05}>
    { t = Sin(x) a = Mul(t, small) y = Add(x, a) }"""


def load(text: str) -> ir.Model:
    return graphs.load(text)


def _is_odd(index: int) -> bool:
    return index % 2 == 1


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the runs of models."""
    done: list[int] = []
    run = Session.run

    def counted(self: Session, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        done.append(1)
        return run(self, feed)

    monkeypatch.setattr(Session, "run", counted)
    return done


@pytest.fixture
def judge_by() -> Iterator[Callable[..., Judge]]:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((2, 8)).astype(np.float32)} for _ in range(COUNT)]

    def make(metric: object = "cosine") -> Judge:
        samples = Samples.from_feeds(feeds)
        progress = Context().progress
        return Judge(load(ORIGINAL), samples, _is_odd, metric_of(metric), runtime, progress)

    with Runtime() as runtime:
        yield make


def test_original_is_run_once_on_every_sample(judge_by, runs: list[int]) -> None:
    judge = judge_by()
    assert len(runs) == COUNT
    assert judge.evidence.value == 1
    assert judge.evidence.samples == COUNT // 2


def test_what_cannot_reach_the_target_is_not_run_to_the_end(judge_by, runs) -> None:
    judge = judge_by()
    runs.clear()
    found = judge.quality(load(WRONG), 0.99)
    assert len(runs) == 1
    assert found.proven < 0.99


def test_whole_looks_at_all_that_is_held_out(judge_by, runs) -> None:
    judge = judge_by()
    runs.clear()
    found = judge.quality(load(WRONG), 0.99, is_whole=True)
    assert len(runs) == found.samples == COUNT // 2
    assert found.value == pytest.approx(-1)


def test_what_reaches_it_is_run_on_all_samples(judge_by, runs) -> None:
    judge = judge_by()
    runs.clear()
    found = judge.quality(load(CLOSE), 0.99)
    assert len(runs) == COUNT
    assert found.samples == COUNT // 2
    assert found.proven >= 0.99


def test_samples_that_calibrate_are_left_early_too(judge_by, runs) -> None:
    def score(outputs, reference, index) -> float:
        return 1.0 if index % 2 else 0.5

    judge = judge_by(score)
    runs.clear()
    found = judge.quality(load(CLOSE), 0.99)
    # Of the original they are worth 0.5 as well: nothing is lost, but no 0.99 is reached.
    assert found.proven < 0.99
    assert len(runs) == COUNT // 2 + 1


def test_what_loses_the_same_everywhere_is_not_given_up(judge_by) -> None:
    """With the rest right the answers would differ more, and show less than they do."""

    def score(outputs, reference) -> float:
        return 1.0 if np.array_equal(outputs["y"], reference["y"]) else 0.992

    found = judge_by(score).quality(load(CLOSE), 0.991)
    assert found.samples == COUNT // 2
    assert found.proven == pytest.approx(0.992)

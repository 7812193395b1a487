"""Statistics of a model's activations, from samples."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import graphs
import numpy as np
import pytest

from graphopt.calibration.channels import ChannelStatistics
from graphopt.calibration.collect import accumulate, collect
from graphopt.errors import SamplesError
from graphopt.passbase import Context
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

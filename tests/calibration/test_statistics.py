"""Statistics depend on the values alone, and take a bounded amount of memory."""

from __future__ import annotations

import pickle

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from graphopt.calibration.histogram import BINS, Histogram
from graphopt.calibration.statistics import ExactSum, TensorStatistics

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=FLOATS
)


def statistics_of(*arrays: np.ndarray) -> TensorStatistics:
    stats = TensorStatistics()
    for feed, array in enumerate(arrays):
        stats.update(array, feed)
    return stats


def facts(stats: TensorStatistics) -> tuple[object, ...]:
    histogram = stats.histogram
    return (
        stats.count,
        stats.zeros,
        stats.low,
        stats.high,
        stats.not_finite,
        histogram.exponent,
        histogram.start,
        histogram.counts.tolist(),
        stats.row_lows.parts.tolist(),
        stats.row_highs.parts.tolist(),
        stats.row_lows.count,
    )


@hypothesis.given(st.lists(ARRAYS, min_size=1, max_size=4), st.randoms())
def test_same_for_any_split_and_order(arrays: list[np.ndarray], random) -> None:
    width = arrays[0].shape[1]
    rows = [row[None] for array in arrays for row in np.resize(array, (len(array), width))]
    whole = statistics_of(np.concatenate(rows))
    shuffled = random.sample(rows, len(rows))
    middle = len(rows) // 2
    first, second = statistics_of(*shuffled[:middle]), statistics_of(*shuffled[middle:])
    first.merge(second)
    assert facts(first) == facts(whole)


@hypothesis.given(ARRAYS)
def test_counts_are_those_of_the_values(values: np.ndarray) -> None:
    stats = statistics_of(values)
    assert stats.count == values.size
    assert stats.zeros == np.count_nonzero(values == 0)
    assert (stats.low, stats.high) == (values.min(), values.max())
    histogram = stats.histogram
    expected = np.zeros(BINS, np.int64)
    for value in values.ravel().astype(np.float64):
        expected[int(value / histogram.width) - histogram.start] += 1
    np.testing.assert_array_equal(histogram.counts, expected)


@hypothesis.given(ARRAYS)
def test_grid_is_as_fine_as_it_can_be(values: np.ndarray) -> None:
    histogram = statistics_of(values).histogram
    low, high = min(float(values.min()), 0), max(float(values.max()), 0)
    hypothesis.assume(high - low > 1e-29)  # from there on the width has its lower limit
    finer = histogram.width / 2
    assert int(high / finer) - int(low / finer) >= BINS


def test_growing_range_gives_the_counts_of_the_coarse_grid() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((8, 100)).astype(np.float32) * 10.0**k for k in range(-6, 7)]
    grown = statistics_of(*arrays)
    shrunk = statistics_of(*arrays[::-1])
    assert facts(grown) == facts(shrunk)


@hypothesis.given(hnp.arrays(np.float32, st.integers(0, 60), elements=FLOATS))
def test_sum_is_exact(values: np.ndarray) -> None:
    from fractions import Fraction

    total = ExactSum()
    total.add(values)
    expected = sum(map(Fraction, map(float, values))) / max(len(values), 1)
    assert total.mean() == float(expected)


@hypothesis.given(
    st.lists(hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=4)), max_size=5)
)
def test_many_at_once_are_as_one_by_one(arrays: list[np.ndarray]) -> None:
    """Whatever is in them, NaN and infinities included."""
    together = TensorStatistics()
    together.update_many(arrays, range(10, 10 + len(arrays)))
    alone = TensorStatistics()
    for feed, array in enumerate(arrays, 10):
        alone.update(array, feed)
    assert facts(together) == facts(alone)
    assert together.first_not_finite == alone.first_not_finite


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_number_that_float32_does_not_hold_is_of_its_feed() -> None:
    stats = TensorStatistics()
    stats.update_many([np.array([1.0]), np.array([1e300])], [4, 5])
    assert (stats.count, stats.not_finite, stats.first_not_finite) == (2, 1, 5)


def test_ragged_arrays_are_one_tensor() -> None:
    stats = statistics_of(np.ones((2, 3)), np.full((1, 7), 2.0), np.zeros(()), np.ones((4, 0)))
    assert (stats.count, stats.low, stats.high) == (14, 0, 2)
    assert stats.row_highs.mean() == (1 + 1 + 2 + 0) / 4


def test_what_is_not_finite_is_counted_apart() -> None:
    stats = TensorStatistics()
    stats.update(np.array([[1.0, 2.0]]), 3)
    stats.update(np.array([[np.nan, -5.0], [np.inf, -np.inf]]), 4)
    stats.update(np.array([[np.inf]]), 7)
    assert stats.not_finite == 4
    assert stats.first_not_finite == 4
    assert (stats.low, stats.high) == (-5, 2)
    assert stats.histogram.counts.sum() == 3
    assert stats.row_lows.count == 2


def test_first_feed_with_nan_survives_merging() -> None:
    first, second = statistics_of(np.ones(1)), TensorStatistics()
    second.update(np.array([np.nan]), 5)
    first.merge(second)
    assert first.first_not_finite == 5


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.ones((1, 1)), np.full(4, -3e38)])
def test_constant_values(values: np.ndarray) -> None:
    stats = statistics_of(values)
    assert stats.low == stats.high == np.float32(values.flat[0])
    assert stats.histogram.counts.sum() == values.size


def test_memory_is_bounded() -> None:
    stats = TensorStatistics()
    rng = np.random.default_rng(0)
    for feed in range(50):
        stats.update(rng.standard_normal((16, 1000)).astype(np.float32) * 2**feed, feed)
    assert len(pickle.dumps(stats)) <= 64 * 1024


def test_update_does_not_keep_or_change_its_argument() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    stats = statistics_of(values)
    values[:] = 100
    assert stats.high == 5


def test_tiny_values_beside_huge_ones_count_as_zero() -> None:
    histogram = Histogram()
    histogram.update(np.array([1e30], np.float32), 1e30, 1e30)
    histogram.update(np.array([-1e-30, 1e-42], np.float32), -1e-30, 1e-42)
    lower, upper, counts = histogram.occupied()
    assert counts.tolist() == [2, 1]
    assert lower[0] < 0 < upper[0] < lower[1] <= 1e30 < upper[1]

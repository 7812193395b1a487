"""The range of a tensor, by every method."""

from __future__ import annotations

import typing

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from graphopt.calibration.qparams import Degenerate, IntType, from_range
from graphopt.calibration.range_methods import Values
from graphopt.calibration.ranges import RangeMethod, choose_range, noise_to_signal, range_of
from graphopt.calibration.statistics import TensorStatistics

ALL = list(typing.get_args(RangeMethod))
U8 = IntType.UINT8


def statistics_of(values: np.ndarray) -> TensorStatistics:
    stats = TensorStatistics()
    stats.update(values)
    return stats


def real_mse(values: np.ndarray, low: float, high: float, kind: IntType = U8) -> float:
    error = from_range(low, high, kind).round_trip(values) - values
    return float(np.mean(np.square(error, dtype=np.float64)))


def normal(outlier: float = 0.0) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    values[0, 0] = max(outlier, values[0, 0])
    return values


def test_minmax_is_the_range() -> None:
    values = normal()
    found = choose_range(statistics_of(values), "minmax", U8)
    assert (found.low, found.high) == (values.min(), values.max())


def test_average_is_the_mean_of_the_rows() -> None:
    values = normal(outlier=40)
    low, high = range_of(statistics_of(values), "average", U8)
    assert low == pytest.approx(values.min(axis=1).mean(), rel=1e-6)
    assert high == pytest.approx(values.max(axis=1).mean(), rel=1e-6)


@pytest.mark.parametrize("share", [99.0, 99.9, 100.0])
def test_percentile_leaves_that_share_inside(share: float) -> None:
    values = normal(outlier=30)
    stats = statistics_of(values)
    low, high = range_of(stats, "percentile", U8, percentile=share)
    # Ends lie on the grid; less than the share is never inside.
    assert np.mean((values >= low) & (values <= high)) * 100 >= share - 1e-9
    low, high = low + stats.histogram.width, high - stats.histogram.width
    assert np.mean((values >= low) & (values <= high)) * 100 <= share


def test_percentile_of_one_sided_values_clips_one_side() -> None:
    values = np.abs(normal(outlier=30))
    low, high = range_of(statistics_of(values), "percentile", U8, percentile=99.0)
    assert low == 0
    assert np.mean(values > high) == pytest.approx(0.01, abs=5e-4)


@pytest.mark.parametrize("kind", list(IntType))
def test_mse_is_close_to_the_best_range_there_is(kind: IntType) -> None:
    values = normal(outlier=30)
    found = choose_range(statistics_of(values), "mse", kind)
    lows = values.min() * np.linspace(0.3, 1.0, 30)
    highs = 30 * np.linspace(0.1, 1.0, 60)
    best = min(real_mse(values, low, high, kind) for low in lows for high in highs)
    assert real_mse(values, found.low, found.high, kind) <= best * 1.02


def test_entropy_clips_a_lonely_outlier_and_keeps_a_plain_range() -> None:
    _, high = range_of(statistics_of(normal(outlier=60)), "entropy", U8)
    assert 3 < high < 12
    values = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    low, high = range_of(statistics_of(values), "entropy", U8)
    assert low < -0.98
    assert high > 0.98


@pytest.mark.parametrize("seed", [2, 3])
def test_of_the_same_entropy_the_widest_range_is_taken(seed: int) -> None:
    """Few values, far apart: many thresholds lie between the last two of them."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 9, 5000).astype(np.float32)
    stats = statistics_of(values)
    stats.update(values * np.float32(rng.uniform(1, 30)), 1)
    wide = Values(stats, U8, False)
    low, high = range_of(stats, "entropy", U8)
    assert low == pytest.approx(wide.low, rel=0.01)
    assert high == pytest.approx(wide.high, rel=0.01)


def test_method_that_is_worse_gives_way_to_minmax() -> None:
    stats = statistics_of(normal(outlier=60))
    assert choose_range(stats, "entropy", U8).method == "minmax"
    assert choose_range(stats, "entropy", U8).high == 60
    assert choose_range(statistics_of(normal(outlier=8)), "mse", U8).method == "mse"


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("outlier", [0, 8, 100, 10_000])
def test_never_worse_than_minmax(method: RangeMethod, outlier: float) -> None:
    values = normal(outlier)
    found = choose_range(statistics_of(values), method, U8)
    # The histogram knows a value to half a bin; a sixteenth of a step adds a thousandth.
    assert real_mse(values, found.low, found.high) <= 1.001 * real_mse(
        values, values.min(), values.max()
    )


@hypothesis.given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from(ALL),
)
def test_range_lies_inside_the_values_and_contains_zero(
    values: np.ndarray, method: RangeMethod
) -> None:
    hypothesis.assume(np.abs(values).max() > 1e-20)
    found = choose_range(statistics_of(values), method, U8)
    assert min(values.min(), 0) <= found.low <= 0 <= found.high <= max(values.max(), 0)
    assert found.low < found.high


def test_auto_is_the_best_of_all() -> None:
    stats = statistics_of(normal(outlier=50))
    errors = [choose_range(stats, method, U8).mse for method in ALL if method != "auto"]
    assert choose_range(stats, "auto", U8).mse == min(errors)


def test_estimated_error_is_the_real_one() -> None:
    values = np.maximum(normal(), 0)
    found = choose_range(statistics_of(values), "mse", U8)
    real = real_mse(values, found.low, found.high)
    assert found.mse == pytest.approx(real, rel=0.02)
    qparams = from_range(found.low, found.high, U8)
    signal = float(np.mean(np.square(values, dtype=np.float64)))
    assert noise_to_signal(statistics_of(values), qparams) == pytest.approx(
        real / signal, rel=0.02
    )


def test_zeros_cost_nothing() -> None:
    values = np.zeros(10_000, np.float32)
    values[:100] = np.linspace(0.5, 1, 100)
    found = choose_range(statistics_of(values), "minmax", U8)
    assert found.mse == pytest.approx(real_mse(values, 0, 1), rel=0.05)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.0, 0.0], "nothing but 0"),
        ([np.nan, np.inf], "no finite value"),
        ([], "no finite value"),
        ([-3e38, 3e38], "too wide"),
    ],
)
@pytest.mark.parametrize("method", ALL)
def test_no_range_has_a_reason(values: list[float], reason: str, method: RangeMethod) -> None:
    with pytest.raises(Degenerate, match=reason):
        choose_range(statistics_of(np.array(values, np.float32)), method, U8)

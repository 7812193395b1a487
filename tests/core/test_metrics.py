"""The figures of a difference are those of their definitions, however the samples come."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.metrics import Difference, DifferenceMeter, Tolerance


def measure(*samples: tuple, tolerance: Tolerance | None = None) -> Difference:
    meter = DifferenceMeter(tolerance)
    for index, (reference, other) in enumerate(samples):
        meter.add(index, np.asarray(reference), np.asarray(other))
    return meter.result()


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_figures():
    found = measure((f32(1, -2, 0), f32(1.5, -2, 0.25)), (f32(4, 4, 4), f32(4, 4, 4)))
    assert (found.elements, found.finite, found.equal) == (6, 6, 4 / 6)
    assert (found.max_abs, found.mean_abs) == (0.5, 0.75 / 6)
    # Of the five elements of the reference that are not 0.
    assert (found.max_rel, found.mean_rel) == (0.5, 0.1)
    assert (found.magnitude, found.worst_sample) == (4, 0)
    assert (found.not_finite, found.lost, found.zero_signs) == (0, 0, 0)
    reference, other = f32(1, -2, 0, 4, 4, 4), f32(1.5, -2, 0.25, 4, 4, 4)
    cosine = reference @ other / np.linalg.norm(reference) / np.linalg.norm(other)
    assert found.cosine == pytest.approx(cosine, abs=1e-7)
    assert found.cosine_min == pytest.approx(5.5 / math.sqrt(5 * (1.5**2 + 4 + 0.25**2)))
    assert found.sqnr_db == pytest.approx(10 * math.log10(53 / 0.3125))
    # The largest element of [1, -2, 0] is at 0 in both, that of [4, 4, 4] too.
    assert found.top1 == 1


def test_what_is_equal_is_equal_in_every_figure():
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    found = measure((x, x.copy()))
    assert (found.equal, found.max_abs, found.max_rel, found.needed) == (1, 0, 0, 0)
    assert found.cosine == pytest.approx(1)
    assert found.sqnr_db == math.inf
    assert found.top1 == 1


def test_the_tolerance_needed():
    tolerance = Tolerance(rtol=0.01, atol=0.5)
    # Element 10, largest element 100: 0.5 + 0.01 * (10 + 10) = 0.7 is allowed.
    found = measure((f32(10, 100), f32(10.7, 100)), tolerance=tolerance)
    assert found.needed == pytest.approx(1, rel=1e-6)
    assert measure((f32(10, 100), f32(8.6, 100)), tolerance=tolerance).needed == pytest.approx(
        2, rel=1e-6
    )
    # 100 allows 0.5 + 0.01 * (100 + 10) = 1.6.
    assert measure((f32(10, 100), f32(10, 101.6)), tolerance=tolerance).needed == (
        pytest.approx(1, rel=1e-6)
    )


def test_the_scale_is_that_of_the_sample():
    """A sample of large values does not hide an error in one of small values."""
    small = (f32(0, 1), f32(1e-3, 1))
    large = (f32(0, 1e6), f32(0, 1e6))
    assert (
        measure(small).needed == measure(large, small).needed == measure(small, large).needed
    )
    assert measure(small).needed > 50


def test_a_tolerance_of_nothing_is_never_enough_for_a_difference():
    assert measure((f32(1), f32(1.0001)), tolerance=Tolerance(0)).needed == math.inf
    assert measure((f32(1), f32(1)), tolerance=Tolerance(0)).needed == 0
    # A sample of zeros allows nothing but zeros.
    assert measure((f32(0, 0), f32(0, 1e-30))).needed == math.inf


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_a_tolerance_is_a_number(bad):
    with pytest.raises(ValueError, match="a tolerance is a number >= 0"):
        Tolerance(rtol=bad)
    with pytest.raises(ValueError, match="a tolerance is a number >= 0"):
        Tolerance(atol=bad)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("reference", "other", "equal", "not_finite", "lost"),
    [
        ([NAN, 1], [NAN, 1], 1, 0, 0),
        ([INF, -INF], [INF, -INF], 1, 0, 0),
        ([INF, 1], [-INF, 1], 0.5, 1, 0),
        ([INF, 1], [NAN, 1], 0.5, 1, 0),
        ([1, 1], [NAN, 1], 0.5, 1, 1),
        ([1, 1], [1, INF], 0.5, 1, 1),
        ([NAN, INF], [1, 1], 0, 2, 0),
    ],
)
def test_nan_and_infinity(reference, other, equal, not_finite, lost):
    found = measure((f32(*reference), f32(*other)))
    assert (found.equal, found.not_finite, found.lost) == (equal, not_finite, lost)
    assert found.max_abs == 0  # of the finite ones


def test_all_nan_are_the_same():
    quiet, payload = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert measure((f32(quiet), f32(payload))).equal == 1


def test_a_sample_with_nan_is_the_worst():
    found = measure((f32(1), f32(9)), (f32(1), f32(NAN)), (f32(1), f32(99)))
    assert found.worst_sample == 1


def test_zeros_of_the_other_sign_are_other_bits_and_no_error():
    found = measure((f32(0, -0.0, 1), f32(-0.0, -0.0, 1)))
    assert (found.zero_signs, found.equal, found.needed, found.max_abs) == (1, 2 / 3, 0, 0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_integers_are_told_apart_though_their_floats_are_not(dtype):
    a = np.array([2**60 + 1, 5], dtype)
    b = np.array([2**60, 5], dtype)
    assert measure((a, b)).equal == 0.5


def test_integers_have_errors_and_no_top():
    found = measure((np.array([[1, 2, 3]]), np.array([[1, 2, 5]])))
    assert (found.equal, found.max_abs, found.top1) == (2 / 3, 2, None)


@pytest.mark.parametrize(
    ("reference", "other", "equal"),
    [
        (np.array(["a", "b"], object), np.array(["a", "c"], object), 0.5),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array("a", object), np.array("a", object), 1),
    ],
)
def test_words_and_truth_values_are_the_same_or_not(reference, other, equal):
    found = measure((reference, reference), (reference, other))
    assert found.equal == (1 + equal) / 2
    assert found.finite == found.elements
    assert found.worst_sample == (1 if equal < 1 else 0)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4, np.int8, np.uint8,
    ],
)  # fmt: skip
def test_every_numeric_type(dtype):
    a = np.array([1, 2, 4, 6]).astype(dtype)
    b = np.array([1, 2, 6, 6]).astype(dtype)
    found = measure((a, b))
    assert (found.equal, found.max_abs, found.magnitude) == (0.75, 2, 6)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_there_is_no_top_of_one(shape):
    assert measure((np.ones(shape, np.float32), np.ones(shape, np.float32))).top1 is None


def test_top1_counts_rows():
    a = np.array([[[1, 5, 2], [3, 1, 1]], [[0, 0, 1], [9, 8, 7]]], np.float32)
    b = a.copy()
    b[0, 0] = [6, 5, 2]
    assert measure((a, b)).top1 == 0.75


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_of_nothing_there_is_nothing(shape):
    found = measure((np.ones(shape, np.float32), np.ones(shape, np.float32)))
    assert found.elements == 0
    assert math.isnan(found.equal)
    assert found.top1 is None


def test_huge_values_do_not_break_the_figures():
    a = np.array([1e308, -1e308])
    found = measure((a, -a))
    assert found.max_abs == INF
    assert found.needed == INF
    assert measure((a, a)).needed == 0
    # What is allowed is infinite here, and so is the error.
    assert measure((a, -a), tolerance=Tolerance(1e10)).needed == INF


@pytest.mark.parametrize("fill", [-1e4, -65504, -1e9, -3.4028234663852886e38])
def test_the_fillings_of_a_mask_do_not_hide_a_wrong_score(fill):
    wrong = (f32(1, 2, fill), f32(2, 1, fill))
    plain = (f32(1, 2, 0), f32(2, 1, 0))
    for figure in ("needed", "cosine", "cosine_min", "sqnr_db", "magnitude"):
        assert getattr(measure(wrong), figure) == getattr(measure(plain), figure)
    assert measure(wrong).needed > 1e3
    # What is not the same is no filling, nor what is smaller, nor what is an integer.
    assert measure((f32(1, 2, -fill), f32(2, 1, -fill * 0.99))).magnitude == f32(-fill)
    assert measure((f32(1, 9999), f32(2, 9999))).magnitude == 9999
    assert measure((np.array([1, 20_000]), np.array([2, 20_000]))).magnitude == 20_000


@pytest.mark.parametrize(
    ("masked", "there"),
    [
        ((-1e4 + 3, -1e4 - 2.5), (-1e4 + 3.001, -1e4 - 2.502)),  # added to the scores
        ((-2e4, -1e4 + 1), (-2e4, -1e4 + 1.001)),  # two masks, and one
        ((-3.4028e38, -3.4e38), (-3.4028234e38, -3.4e38)),  # a rewrite has changed the bits
        ((-1e9 - 64, -1e9), (-1e9, -1e9)),
        ((-65504, -65504 + 4), (-65504, -65504)),
    ],
)
@pytest.mark.parametrize("scores", [(0.5, -2, 0.01), (300, -470, 20), (1e-3, 0, 1e-4)])
def test_a_mask_that_was_added_to_the_scores_does_not_hide_a_wrong_one(masked, there, scores):
    reference, other = f32(*scores, *masked), f32(*scores, *there)
    assert measure((reference, other)).needed <= 1
    plain = measure((f32(*scores), f32(*scores)))
    assert measure((reference, other)).magnitude == max(plain.magnitude, 1)
    other[2] += np.float32(max(abs(score) for score in scores)) / 50
    alone = measure((reference[:3], other[:3]))
    found = measure((reference, other))
    assert found.needed > 1
    assert found.cosine == pytest.approx(alone.cosine, abs=1e-9)
    assert found.sqnr_db == pytest.approx(alone.sqnr_db)


@pytest.mark.parametrize(
    ("reference", "other"),
    [
        ((0, 0.5, 20_000, 15_000.5), (1e-3, 0.5, 20_001, 15_000)),  # coordinates
        ((-20_000, -6_000, -2_000), (-20_001, -6_000, -2_001)),  # no gap
        ((-20_000.5, 600, 1), (-20_000, 600, 1)),  # a gap of 33, and one of 8
        ((-5_000, 620, 1), (-5_001, 621, 1)),
        ((-4_900, 1), (-4_901, 1)),
        ((-20_000,), (-20_001,)),  # there is nothing that it could mask
        ((-30_000, 20_000), (-30_001, 20_001)),
    ],
)
def test_large_numbers_are_no_mask(reference, other):
    found = measure((f32(*reference), f32(*other)))
    gap = 600 in reference
    assert found.magnitude == (600 if gap else max(abs(value) for value in reference))


def test_a_mask_that_is_lost_is_told():
    found = measure((f32(1, 2, -1e4 + 1), f32(1, 2, -50)))
    assert found.magnitude == 2
    assert found.needed > 9_000
    assert found.sqnr_db < 1
    found = measure((f32(1, 2, -50), f32(1, 2, -1e4)))
    assert found.needed > 9_000
    assert found.sqnr_db < 1


@pytest.mark.parametrize("there", [-6e3, -5e5, -8.9e5, -1.11e6, -1e9])
def test_a_large_negative_answer_that_is_wrong_is_no_filling(there):
    """A regression in raw units beside a small number looks like a mask, but for its error."""
    found = measure((f32(-1e6, 3, 5), f32(there, 3, 5)))
    assert found.needed > 900
    assert found.sqnr_db < 20


def test_all_fillings_are_equal():
    found = measure((f32(-1e9, -1e9), f32(-1e9, -1e9)))
    assert (found.equal, found.needed, found.max_abs, found.magnitude) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("reference", "other", "sqnr_db", "max_rel"),
    [
        ([1, 2], [1e200, 2], -INF, 1e200),  # the square of the error is infinite
        ([1e-150, 0], [0, 1e150], -6000, 1),  # the quotient of the energies is 0
        ([1e-300, 1], [1e200, 1], -INF, INF),
        ([0, 0], [1.7e308, 1.7e308], -INF, 0),  # the sum of the errors is infinite
    ],
)
def test_figures_that_cannot_be_represented(reference, other, sqnr_db, max_rel):
    found = measure((np.array(reference, np.float64), np.array(other, np.float64)))
    assert found.sqnr_db == pytest.approx(sqnr_db, abs=30)
    assert found.max_rel == max_rel
    assert found.needed > 1


arrays = hnp.arrays(
    np.float32, (4, 6), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


@given(arrays, arrays, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_figures_do_not_depend_on_how_the_memory_is_bounded(a, b, chunk):
    whole = measure((a, b))
    import graphopt.metrics as metrics

    kept, metrics._CHUNK = metrics._CHUNK, chunk
    try:
        parts = measure((a, b))
    finally:
        metrics._CHUNK = kept
    for name in Difference.__dataclass_fields__:
        want, got = getattr(whole, name), getattr(parts, name)
        if name in ("tolerance", "worst"):
            assert want == got
        else:
            assert got == pytest.approx(want, rel=1e-9, nan_ok=True), name


@given(arrays, arrays)
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_numpy(a, b):
    found = measure((a, b))
    x, y = a.astype(float), b.astype(float)
    error = abs(x - y)
    assert found.max_abs == error.max()
    assert found.mean_abs == pytest.approx(error.mean())
    allowed = 1e-4 * (abs(x) + abs(x).max() / 10)
    if (allowed > 0).all():
        assert found.needed == pytest.approx((error / allowed).max())
    assert found.top1 == (x.argmax(1) == y.argmax(1)).mean()


def test_memory_is_bounded_by_the_chunk():
    import tracemalloc

    a = np.zeros(1 << 24, np.float32)
    meter = DifferenceMeter()
    tracemalloc.start()
    meter.add(0, a, a)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < a.nbytes * 2

"""Scales and zero points, against the operators of onnxruntime that define them."""

from __future__ import annotations

import graphs
import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import strategies as st

from graphopt.calibration.qparams import (
    Degenerate,
    IntType,
    QParams,
    channel_absmax,
    from_range,
    symmetric,
)

FINITE = st.floats(-1e6, 1e6, width=32)


def runtime_round_trip(x: np.ndarray, qparams: QParams) -> tuple[np.ndarray, np.ndarray]:
    kind = qparams.kind.value
    axis = "" if qparams.axis is None else f"<axis = {qparams.axis}>"
    shape = ",".join(map(str, x.shape))
    channels = "" if qparams.axis is None else f"[{qparams.scale.size}]"
    model = graphs.load(
        f"""g (float[{shape}] x, float{channels} s, {kind}{channels} z)
              => ({kind}[{shape}] q, float[{shape}] y)
        {{ q = QuantizeLinear {axis} (x, s, z)
           y = DequantizeLinear {axis} (q, s, z) }}"""
    )
    q, y = graphs.run(model, {"x": x, "s": qparams.scale, "z": qparams.zero_point})
    return q, y


@pytest.mark.parametrize("kind", list(IntType))
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_whole_tensor_is_rounded_as_the_runtime_does(
    kind: IntType, is_symmetric: bool
) -> None:
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    qparams = from_range(-1.5, 2.5, kind, is_symmetric=is_symmetric)
    # Halfway cases, the ends and beyond them.
    x[0] = (np.arange(64) - 32.5) * qparams.scale
    x[1, :4] = [1e30, -1e30, -1.5, 2.5]
    q, y = runtime_round_trip(x, qparams)
    np.testing.assert_array_equal(qparams.quantize(x), q)
    np.testing.assert_array_equal(qparams.dequantize(q), y)


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_rounded_as_the_runtime_does(axis: int) -> None:
    x = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    qparams = symmetric(channel_absmax(x, axis), axis)
    q, y = runtime_round_trip(x, qparams)
    np.testing.assert_array_equal(qparams.quantize(x), q)
    np.testing.assert_array_equal(qparams.dequantize(q), y)


@hypothesis.given(st.tuples(FINITE, FINITE), st.sampled_from(IntType), st.booleans())
def test_range_is_covered_and_zero_is_exact(
    ends: tuple[float, float], kind: IntType, is_symmetric: bool
) -> None:
    low, high = sorted(ends)
    hypothesis.assume(max(-low, high, high - low) > 1e-30)
    qparams = from_range(low, high, kind, is_symmetric=is_symmetric)
    step = float(qparams.scale)
    assert qparams.round_trip(np.zeros(1, np.float32))[0] == 0
    for end in (low, high):
        # Half a step for rounding the value, half a step for rounding the zero point.
        error = abs(float(qparams.round_trip(np.array([end], np.float32))[0]) - end)
        assert error <= step * 1.0001


def test_symmetric_range_has_its_zero_in_the_middle() -> None:
    assert from_range(-1, 2, IntType.INT8, is_symmetric=True).zero_point == 0
    assert from_range(-1, 2, IntType.UINT8, is_symmetric=True).zero_point == 128
    assert from_range(-1, 2, IntType.INT8, is_symmetric=True).scale == np.float32(2 / 127)


def test_scale_and_zero_point_of_a_range_are_scalars() -> None:
    qparams = from_range(0, 1, IntType.UINT8)
    assert qparams.scale.shape == qparams.zero_point.shape == ()
    assert qparams.zero_point == 0


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        (0.0, 0.0, "nothing but 0"),
        (0.0, 1e-40, "nothing but 0"),
        (1.0, -1.0, "not one of finite"),
        (0.0, np.inf, "not one of finite"),
        (np.nan, 1.0, "not one of finite"),
        (-3e38, 3e38, "too wide"),
    ],
)
def test_range_without_a_scale_says_why(low: float, high: float, reason: str) -> None:
    with pytest.raises(Degenerate, match=reason):
        from_range(low, high, IntType.UINT8)


@hypothesis.given(
    hnp.arrays(np.float32, (3, 5), elements=FINITE), st.sampled_from([0, 1, None])
)
def test_symmetric_weight_is_off_by_half_a_step(w: np.ndarray, axis: int | None) -> None:
    qparams = symmetric(channel_absmax(w, axis), axis)
    error = np.abs(qparams.round_trip(w) - w)
    scale = qparams.scale if axis is None else np.expand_dims(qparams.scale, 1 - axis)
    assert np.all(error <= scale * np.float32(0.50001))
    assert np.all(qparams.zero_point == 0)


def test_channel_of_zeros_stays_zero() -> None:
    w = np.array([[0, 0], [1, -2]], np.float32)
    qparams = symmetric(channel_absmax(w, 0), 0)
    np.testing.assert_array_equal(qparams.scale, np.array([1, 2 / 127], np.float32))
    np.testing.assert_array_equal(qparams.round_trip(w)[0], 0)


def test_seven_bits_stay_within_63() -> None:
    w = np.linspace(-3, 2, 9, dtype=np.float32)[None]
    assert np.abs(symmetric(channel_absmax(w, None), None, limit=63).quantize(w)).max() == 63


def test_absmax_of_an_empty_weight_is_zero() -> None:
    assert channel_absmax(np.zeros((0, 3), np.float32), 1).tolist() == [0, 0, 0]


def test_kind_is_that_of_the_zero_point() -> None:
    assert from_range(0, 1, IntType.INT8).kind is IntType.INT8
    assert ir.DataType.from_numpy(IntType.UINT8.dtype) == ir.DataType.UINT8

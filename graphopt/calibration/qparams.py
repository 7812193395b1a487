"""Scales and zero points: the one place that turns a range of numbers into integers.

``q = saturate(round(x / scale) + zero_point)`` and ``x = (q - zero_point) * scale``, rounding
to nearest, ties to even, as QuantizeLinear is defined and onnxruntime computes it.

Reference: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Degenerate", "IntType", "QParams", "channel_absmax", "from_range", "symmetric"]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Smallest scale that is used: below it float32 is subnormal, which some CPUs flush to 0."""


class IntType(enum.Enum):
    """An integer type that tensors are quantized to."""

    INT8 = "int8"
    UINT8 = "uint8"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its numpy type."""
        return np.dtype(self.value)

    @property
    def minimum(self) -> int:
        """Smallest integer."""
        return int(np.iinfo(self.dtype).min)

    @property
    def maximum(self) -> int:
        """Largest integer."""
        return int(np.iinfo(self.dtype).max)


class Degenerate(ValueError):  # noqa: N818  # it is a finding about data, not an error
    """A range from which no scale can be made; its text is a reason."""


@dataclasses.dataclass(frozen=True)
class QParams:
    """How a tensor is turned into integers and back.

    Attributes:
        scale: float32, > 0; 0-d for the whole tensor, ``[C]`` for one a channel.
        zero_point: The integer that stands for 0.0; same shape as ``scale``, type of the
            integers.
        axis: The channel axis; ``None`` where one scale holds for the whole tensor.
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[Any]
    axis: int | None = None

    @property
    def kind(self) -> IntType:
        """Type of the integers."""
        return IntType(self.zero_point.dtype.name)

    def quantize(self, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        """Return the integers that stand for ``x``, an array of any float type."""
        scale, zero_point = self._against(x.ndim)
        # float32, as the runtime computes it: float64 would round ties differently.
        steps = np.rint(np.asarray(x, np.float32) / scale) + zero_point.astype(np.float32)
        kind = self.kind
        clipped: npt.NDArray[Any] = np.clip(steps, kind.minimum, kind.maximum)
        return clipped.astype(kind.dtype)

    def dequantize(self, q: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the numbers that the integers ``q`` stand for."""
        scale, zero_point = self._against(q.ndim)
        steps = q.astype(np.int32) - zero_point.astype(np.int32)
        return np.multiply(steps.astype(np.float32), scale, dtype=np.float32)

    def round_trip(self, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Return ``x`` as it comes back from integers."""
        return self.dequantize(self.quantize(x))

    def _against(self, rank: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def from_range(
    low: float, high: float, kind: IntType, *, is_symmetric: bool = False
) -> QParams:
    """Return the parameters that spread the integers of ``kind`` over ``[low, high]``.

    0.0 always has an integer of its own, so the range is widened to contain it. A symmetric
    range has its zero point in the middle (int8: 0, uint8: 128).

    Raises:
        Degenerate: The range is empty, not finite, or too narrow or wide for float32.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise Degenerate(f"its range [{low:g}, {high:g}] is not one of finite numbers")
    low, high = min(low, 0.0), max(high, 0.0)
    if is_symmetric:
        high = max(-low, high)
        # From the middle up there is one integer less than from the middle down.
        scale = np.float32(high / (kind.maximum - (kind.minimum + kind.maximum + 1) // 2))
    else:
        scale = np.float32((high - low) / (kind.maximum - kind.minimum))
    if low == high or scale < SMALLEST_SCALE:
        raise Degenerate(f"its range [{low:g}, {high:g}] holds nothing but 0")
    if high - low > float(np.finfo(np.float32).max):
        raise Degenerate(f"its range [{low:g}, {high:g}] is too wide for float32")
    if is_symmetric:
        zero_point = (kind.minimum + kind.maximum + 1) // 2
    else:
        zero_point = round(kind.minimum - low / float(scale))
    zero_point = min(max(zero_point, kind.minimum), kind.maximum)
    return QParams(np.array(scale), np.array(zero_point, kind.dtype))


def channel_absmax(w: npt.NDArray[Any], axis: int | None) -> npt.NDArray[np.float32]:
    """Return the largest magnitude in ``w``, of all of it (0-d) or a channel of ``axis``."""
    if w.size == 0:
        return np.zeros(() if axis is None else w.shape[axis], np.float32)
    others = None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    # Without the copy that abs() would make of a large weight.
    absmax = np.maximum(w.max(axis=others), -w.min(axis=others))
    return np.asarray(absmax, np.float32)


def symmetric(
    absmax: npt.NDArray[np.floating[Any]], axis: int | None, limit: int = 127
) -> QParams:
    """Return symmetric int8 parameters: ``absmax`` becomes the integer ``limit``.

    Args:
        absmax: Largest magnitude, >= 0, finite; 0-d or ``[C]``. Where it is 0 the scale is
            1, which represents the zeros exactly.
        axis: Channel axis that ``absmax`` was taken over; ``None`` for a 0-d one.
        limit: Largest integer used: 127, or 63 for 7 bits, whose products cannot saturate
            the 16-bit sums of CPUs without VNNI.
    """
    scale = np.asarray(absmax, np.float32) / np.float32(limit)
    scale = np.where(absmax == 0, np.float32(1), np.maximum(scale, SMALLEST_SCALE))
    return QParams(scale.astype(np.float32), np.zeros(scale.shape, np.int8), axis)

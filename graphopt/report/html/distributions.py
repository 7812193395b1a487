"""How the numbers of a tensor are distributed, in a few bins; read a block at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.calibration.statistics import TensorStatistics

from .content import Bins

__all__ = ["bins_of_statistics", "bins_of_tensor"]

COUNT = 40
"""Bins of a picture that is a hand wide."""

_BLOCK = 1 << 20
"""Elements looked at together."""


def bins_of_tensor(tensor: ir.TensorProtocol) -> Bins | None:
    """Return how the elements of ``tensor`` are distributed; ``None`` if it has no numbers.

    Integers of few values get a bin each.
    """
    if not tensor.size or tensor.dtype == ir.DataType.STRING or _is_complex(tensor.dtype):
        return None
    flat = tensor.numpy().reshape(-1)
    smallest, largest, zeros, finite = math.inf, -math.inf, 0, 0
    for block in _blocks(flat):
        if block.size:
            smallest = min(smallest, float(block.min()))
            largest = max(largest, float(block.max()))
            zeros += block.size - int(np.count_nonzero(block))
            finite += block.size
    if not finite:
        return None
    low, high, count = _grid(smallest, largest, tensor.dtype.is_integer())
    counts = np.zeros(count, np.int64)
    for block in _blocks(flat):
        # A quarter of the time of np.histogram.
        index = ((block - low) * (count / (high - low))).astype(np.intp)
        counts += np.bincount(np.minimum(index, count - 1), minlength=count)
    return Bins(low, high, tuple(counts.tolist()), smallest, largest, zeros / finite)


def bins_of_statistics(statistics: TensorStatistics) -> Bins | None:
    """Return the distribution of what ``statistics`` has seen; ``None`` if that is nothing."""
    finite = statistics.count - statistics.not_finite
    if not finite:
        return None
    smallest, largest = float(statistics.low), float(statistics.high)
    low, high, count = _grid(smallest, largest, whole=False)
    lower, upper, found = statistics.histogram.occupied()
    middle = np.clip((lower + upper) / 2, low, high)
    counts = np.histogram(middle, count, (low, high), weights=found)[0].astype(np.int64)
    return Bins(
        low, high, tuple(counts.tolist()), smallest, largest, statistics.zeros / finite
    )


def _grid(smallest: float, largest: float, whole: bool) -> tuple[float, float, int]:
    if whole and largest - smallest < 256:
        # A bin holds as many integers as the next one, or the picture has stripes.
        step = math.ceil((largest - smallest + 1) / 64)
        count = math.ceil((largest - smallest + 1) / step)
        return smallest - 0.5, smallest - 0.5 + count * step, count
    if smallest == largest:
        margin = abs(smallest) / 2 or 0.5
        return smallest - margin, largest + margin, 1
    return smallest, largest, COUNT


def _blocks(flat: np.ndarray) -> Iterator[np.ndarray]:
    for at in range(0, flat.size, _BLOCK):
        yield _finite(flat[at : at + _BLOCK])


def _finite(block: np.ndarray) -> np.ndarray:
    wide = block.astype(np.float64)
    return wide[np.isfinite(wide)]


def _is_complex(dtype: ir.DataType) -> bool:
    return dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)

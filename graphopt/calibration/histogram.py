"""Counts of values on a grid that never has to be known in advance.

Bin ``i`` holds the values whose quotient by ``2**k`` has the integer part ``i`` (that of 0
reaches from ``-2**k`` to ``2**k``), and ``k`` is the smallest exponent with which all values
fit into ``BINS`` of them. When a value falls outside, ``k`` grows and neighbouring bins are
added up, which gives exactly the counts of the coarser grid, as if it had been there from the
start: ``trunc(trunc(x / 2**k) / 2**m) == trunc(x / 2**(k + m))``. So one pass over the data is
enough, and the result depends on the values alone: not on their order, nor on how they were
cut into batches, nor on how many workers counted them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "Histogram"]

BINS = 4096
"""Bins of a histogram, 32 KiB of counts. At least half of them lie between the smallest and
the largest value: eight or more for each step of an 8-bit tensor."""
_SMALLEST_EXPONENT = -120
"""Bins are not made narrower than 2**-120, so that ``2**-k`` is a float32; what is below is 0
for every purpose here."""
_BLOCK = 1 << 16  # elements counted at a time: their indices stay in the cache


class Histogram:
    """Counts of finite float32 values.

    Attributes:
        low, high: Smallest and largest value, widened to contain 0.
        exponent: ``k``, the width of a bin being ``2**k``.
        start: Index ``i`` of the first bin of ``counts``.
        counts: int64 ``[BINS]``.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.exponent = _SMALLEST_EXPONENT
        self.start = 0
        self.counts = np.zeros(BINS, np.int64)

    def update(self, values: npt.NDArray[np.float32], low: float, high: float) -> None:
        """Count ``values``.

        Args:
            values: One axis, float32, finite.
            low: The smallest of them.
            high: The largest.
        """
        self._widen(low, high)
        # Exact, but for values so small that they count as 0 either way.
        factor = np.float32(math.ldexp(1.0, -self.exponent))
        for at in range(0, values.size, _BLOCK):
            # By way of int32, four times as fast as at once to the integers of bincount.
            index = (values[at : at + _BLOCK] * factor).astype(np.int32)
            index -= self.start
            self.counts += np.bincount(index.astype(np.intp), minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Add the counts of ``other``."""
        self._widen(other.low, other.high)
        self.counts += _moved(other, self.exponent, self.start)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    def occupied(
        self,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the lower ends, the upper ends and the counts of the bins in use."""
        bins = np.flatnonzero(self.counts)
        index = (bins + self.start).astype(np.float64)
        lower = np.where(index > 0, index, index - 1) * self.width
        upper = np.where(index < 0, index, index + 1) * self.width
        return lower, upper, self.counts[bins]

    def _widen(self, low: float, high: float) -> None:
        low, high = min(self.low, low), max(self.high, high)
        if (low, high) == (self.low, self.high):
            return
        exponent = self.exponent
        while _index(high, exponent) - _index(low, exponent) >= BINS:
            exponent += 1
        start = _index(low, exponent)
        self.counts = _moved(self, exponent, start)
        self.low, self.high, self.exponent, self.start = low, high, exponent, start


def _index(value: float, exponent: int) -> int:
    return int(math.ldexp(value, -exponent))


def _moved(histogram: Histogram, exponent: int, start: int) -> npt.NDArray[np.int64]:
    """Return the counts of ``histogram`` on a grid that is as coarse or coarser."""
    bins = np.flatnonzero(histogram.counts)
    # A shift by more bits than an integer has is undefined; 62 leaves nothing as well.
    shift = min(exponent - histogram.exponent, 62)
    index = bins + histogram.start
    target = np.sign(index) * (np.abs(index) >> shift) - start
    moved = np.zeros(BINS, np.int64)
    np.add.at(moved, target, histogram.counts[bins])
    return moved

"""What is remembered of a tensor's values: 36 KiB, however many samples there are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.histogram import Histogram

__all__ = ["ExactSum", "TensorStatistics"]

_MANTISSA_BITS = 24
_SMALLEST_POWER = -149  # of float32: its subnormals are multiples of 2**-149
_FEW = 4  # numbers that are added one by one: what arrays cost is not their length
_POWERS = 254  # from there to the lowest bit of the largest float32


class ExactSum:
    """A sum of float32 numbers without rounding, so that the order does not matter.

    Attributes:
        parts: int64 ``[_POWERS]``: entry ``i`` is a sum of 24-bit integers, each of which
            counts ``2**(i - 149)``. Exact for up to 2**39 numbers.
        count: How many numbers.
    """

    def __init__(self) -> None:
        self.parts = np.zeros(_POWERS, np.int64)
        self.count = 0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Add all of ``values``: finite, one axis."""
        self.count += values.size
        if values.size <= _FEW:
            for value in values.tolist():
                at = max(math.frexp(value)[1] - _MANTISSA_BITS, _SMALLEST_POWER)
                self.parts[at - _SMALLEST_POWER] += int(math.ldexp(value, -at))
            return
        power = np.frexp(values)[1]
        # A subnormal has fewer bits than 24: its lowest one is at the smallest power.
        power = np.maximum(power - _MANTISSA_BITS, _SMALLEST_POWER)
        whole = np.ldexp(values.astype(np.float64), -power)
        # Integers below 2**53 are exact in the float64 that bincount adds up.
        parts = np.bincount(power - _SMALLEST_POWER, weights=whole, minlength=_POWERS)
        self.parts += parts.astype(np.int64)

    def merge(self, other: ExactSum) -> None:
        """Add another sum."""
        self.parts += other.parts
        self.count += other.count

    def mean(self) -> float:
        """Return the mean, correctly rounded; 0 of nothing."""
        total = sum(int(part) << index for index, part in enumerate(self.parts))
        return float(Fraction(total, max(self.count, 1)) * Fraction(2) ** _SMALLEST_POWER)


@dataclasses.dataclass
class TensorStatistics:
    """Statistics of the values that a tensor took; those of two parts can be merged.

    The same values give the same statistics, bit for bit, however they were cut into arrays
    along their first axis and in whatever order they came.

    Attributes:
        count: Elements seen.
        zeros: How many of them were 0.
        low, high: Smallest and largest finite element; ``inf`` and ``-inf`` before the first.
        histogram: Counts of the finite elements.
        row_lows, row_highs: Sum over the rows (entries of the first axis) of the smallest and
            largest element in each.
        not_finite: How many elements were NaN or infinite; nothing else counts them.
        first_not_finite: Index of the first feed that had one; -1: none.
    """

    count: int = 0
    zeros: int = 0
    low: float = np.inf
    high: float = -np.inf
    histogram: Histogram = dataclasses.field(default_factory=Histogram)
    row_lows: ExactSum = dataclasses.field(default_factory=ExactSum)
    row_highs: ExactSum = dataclasses.field(default_factory=ExactSum)
    not_finite: int = 0
    first_not_finite: int = -1

    def update(self, values: npt.NDArray[Any], feed: int = 0) -> None:
        """Take in an array of any shape.

        Args:
            values: Floating-point numbers; the first axis runs over rows.
            feed: Index of the feed it was computed from.
        """
        if values.size == 0:
            return
        rows = np.asarray(values, np.float32).reshape(len(values) if values.ndim else 1, -1)
        lows, highs = rows.min(axis=1), rows.max(axis=1)
        low, high = float(lows.min()), float(highs.max())
        self.count += values.size
        if not (np.isfinite(low) and np.isfinite(high)):
            rows, lows, highs = self._finite_rows(rows, feed)
            if not rows.size:
                return
            low, high = float(lows.min()), float(highs.max())
        flat = rows.reshape(-1)
        self.zeros += flat.size - int(np.count_nonzero(flat != 0))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.histogram.update(flat, low, high)
        self.row_lows.add(lows)
        self.row_highs.add(highs)

    def update_many(self, arrays: Sequence[npt.NDArray[Any]], feeds: Sequence[int]) -> None:
        """Take in arrays, each of which came from another feed; faster if they are small."""
        kinds = {(array.shape[1:], array.dtype) for array in arrays}
        if len(arrays) > 1 and len(kinds) == 1 and all(array.ndim for array in arrays):
            # As it is looked at: of float64, float32 may make an infinity.
            together = np.asarray(np.concatenate(arrays), np.float32)
            # Of what is not finite it has to be known which feed it came from.
            if np.isfinite(together).all():
                self.update(together)
                return
        for array, feed in zip(arrays, feeds, strict=True):
            self.update(array, feed)

    def _finite_rows(
        self, rows: npt.NDArray[np.float32], feed: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the finite elements, and the extremes of the rows that have one."""
        finite = np.isfinite(rows)
        self.not_finite += rows.size - int(np.count_nonzero(finite))
        if self.first_not_finite < 0 or feed < self.first_not_finite:
            self.first_not_finite = feed
        kept = finite.any(axis=1)
        lows = np.where(finite, rows, np.inf).min(axis=1)[kept]
        highs = np.where(finite, rows, -np.inf).max(axis=1)[kept]
        return rows[finite], lows, highs

    def merge(self, other: TensorStatistics) -> None:
        """Add the statistics of other values."""
        self.count += other.count
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.histogram.merge(other.histogram)
        self.row_lows.merge(other.row_lows)
        self.row_highs.merge(other.row_highs)
        self.not_finite += other.not_finite
        known = [i for i in (self.first_not_finite, other.first_not_finite) if i >= 0]
        self.first_not_finite = min(known, default=-1)

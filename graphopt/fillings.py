"""Which elements of an output are the fillings of a mask, and how large the others are.

A score that is masked is no answer, and says so by its size: next to -1e4 or -3e38 every
error of the scores that count would be small. Two kinds of elements are fillings:

1. from 1e4 on, of either sign, what is the same in both outputs, bit for bit;
2. from -5e3 down, what differs by a tenth at most, where a gap lies between such elements
   and all that are no fillings: the least of them is ten times as large as any other. So a
   mask is seen that was added to the scores (-1e4 + score), and one whose bits a rewrite has
   changed. Large negative numbers without a gap are numbers, as are large positive ones:
   coordinates, say, which may be differences of each other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

__all__ = ["Scale", "largest", "same_bits", "scale_of", "wide"]

_FILL = 1e4
"""The least filling in use: -1e4, before -65504 (float16), -1e9 and the least float32."""
_ADDED = 5e3
"""A filling to which a score was added: half of the least one."""
_GAP = 10.0
_LEAST = 1.0
"""What is no filling counts as of this size at least beside those of kind 2: nobody masks
scores of 1e-6 with -1e4."""

Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the elements of one output are in one sample.

    Attributes:
        magnitude: Largest absolute value of the reference, fillings aside.
        fillings: Whether there may be fillings.
        gap: Whether there are some of kind 2.
    """

    magnitude: float
    fillings: bool = False
    gap: bool = False

    def counted(self, reference: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return which elements, given as float64, are no fillings in both outputs."""
        fills = (np.abs(reference) >= _FILL) & (reference == other)
        if self.gap:
            near = np.abs(reference - other) <= np.abs(reference) / _GAP
            fills |= (reference <= -_ADDED) & (other <= -_ADDED) & near
        counted: np.ndarray = ~fills
        return counted


def scale_of(chunks: Iterable[Pair], floats: bool) -> Scale:
    """Return how large the elements of a sample are.

    Args:
        chunks: The parts of the reference, and those of the other output.
        floats: Whether they are floats; other types have no fillings.
    """
    parts = list(chunks)
    most = max((largest(wide(reference)) for reference, _ in parts), default=0.0)
    if not floats or most < _ADDED:
        return Scale(most)
    rest, low, high = 0.0, math.inf, 0.0
    found = False
    for reference, other in parts:
        a = wide(reference)
        a = a[np.isfinite(a) & ((np.abs(a) < _FILL) | ~same_bits(reference, other))]
        far = a[a <= -_ADDED]
        low, high = min(low, -far.max(initial=-math.inf)), max(high, largest(far))
        found = found or far.size < a.size
        rest = max(rest, float(np.max(np.abs(a), where=a > -_ADDED, initial=0.0)))
    gap = found and math.isfinite(low) and low >= _GAP * max(rest, _LEAST)
    return Scale(max(rest, _LEAST) if gap else max(rest, high), gap or most >= _FILL, gap)


def same_bits(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which elements are the same, bit for bit."""
    bits = np.dtype(f"u{reference.dtype.itemsize}")
    same: np.ndarray = reference.view(bits) == other.view(bits)
    return same


def wide(array: np.ndarray) -> np.ndarray:
    """Return the elements as float64."""
    return array.astype(np.float64)


def largest(values: np.ndarray) -> float:
    """Return the largest absolute value of what is finite; 0 where nothing is."""
    return float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))

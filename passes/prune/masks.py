"""Which elements of weights become zero: by threshold, N of M, or in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

__all__ = ["block_mask", "kth_smallest", "n_of_m_mask", "smallest_mask"]

Scores = np.ndarray
"""float32 ``[outputs, inputs]``, >= 0: how much each element matters."""


def smallest_mask(scores: Scores, count: int) -> np.ndarray:
    """Return where the ``count`` smallest scores are, of equal ones the first; bool."""
    flat = scores.reshape(-1)
    mask = np.zeros(flat.size, bool)
    if count > 0:
        threshold = np.partition(flat, count - 1)[count - 1]
        below = flat < threshold
        mask[below] = True
        mask[np.nonzero(flat == threshold)[0][: count - int(below.sum())]] = True
    return mask.reshape(scores.shape)


def kth_smallest(arrays: Callable[[], Iterable[Scores]], k: int) -> tuple[np.float32, int]:
    """Return the ``k``-th smallest score (from 1) of all arrays, and how many are below it.

    The arrays are read twice and never held together: the bits of floats that are not
    negative are in the order of their values, so the upper and the lower half of the bits of
    the answer are found one after the other by counting.

    Args:
        arrays: Called for each reading; gives float32 arrays without NaN.
        k: 1 to the number of scores.
    """
    upper = np.zeros(1 << 16, np.int64)
    for scores in arrays():
        upper += np.bincount(_bits(scores) >> 16, minlength=1 << 16)
    cumulative = np.cumsum(upper)
    high = int(np.searchsorted(cumulative, k))
    below = int(cumulative[high] - upper[high])
    lower = np.zeros(1 << 16, np.int64)
    for scores in arrays():
        bits = _bits(scores)
        lower += np.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16)
    cumulative = below + np.cumsum(lower)
    low = int(np.searchsorted(cumulative, k))
    threshold = np.array(high << 16 | low, np.uint32).view(np.float32)[()]
    return np.float32(threshold), int(cumulative[low] - lower[low])


def _bits(scores: Scores) -> np.ndarray:
    # + 0.0 turns -0.0 into 0.0.
    return (np.ascontiguousarray(scores.reshape(-1), np.float32) + 0.0).view(np.uint32)


def n_of_m_mask(scores: Scores, n: int, m: int) -> np.ndarray:
    """Return what to remove so that of every ``m`` neighbouring inputs ``n`` are left.

    A shorter rest at the end of a row keeps at most ``n`` as well.
    """
    outputs, inputs = scores.shape
    padded = -(-inputs // m) * m
    # What is added at the end is removed first.
    filled = np.full((outputs, padded), -1, np.float32)
    filled[:, :inputs] = scores
    order = np.argsort(filled.reshape(outputs, -1, m), axis=2, kind="stable")
    mask = np.zeros((outputs, padded // m, m), bool)
    np.put_along_axis(mask, order[:, :, : m - n], values=True, axis=2)
    return mask.reshape(outputs, padded)[:, :inputs]


def block_mask(scores: Scores, block: Sequence[int], sparsity: float) -> np.ndarray:
    """Return the blocks ``[outputs, inputs]`` to remove: those with the smallest sums.

    Blocks at the ends may be smaller; they are compared by their means.
    """
    rows, columns = block
    outputs, inputs = scores.shape
    row, column = np.arange(outputs) // rows, np.arange(inputs) // columns
    across = np.add.reduceat(scores, np.arange(0, inputs, columns), axis=1, dtype=np.float64)
    total = np.add.reduceat(across, np.arange(0, outputs, rows), axis=0)
    sizes = np.outer(np.bincount(row), np.bincount(column))
    means = (total / sizes).astype(np.float32)
    return smallest_mask(means, round(sparsity * means.size))[np.ix_(row, column)]

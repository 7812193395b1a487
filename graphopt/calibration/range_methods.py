"""The methods of choosing a range: what each makes of the histogram of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.calibration.qparams import Degenerate, IntType, QParams, from_range
from graphopt.calibration.statistics import TensorStatistics

__all__ = ["METHODS", "Values"]

_Floats: TypeAlias = npt.NDArray[np.float64]


class Values:
    """The histogram of a tensor, and what the methods ask of it."""

    def __init__(self, stats: TensorStatistics, kind: IntType, is_symmetric: bool) -> None:
        self.low, self.high = min(stats.low, 0.0), max(stats.high, 0.0)
        self.kind = kind
        self.is_symmetric = is_symmetric
        self.width = stats.histogram.width
        lower, upper, counts = stats.histogram.occupied()
        # No value lies outside the range, and what is in the bin of 0 counts as 0.
        lower, upper = np.maximum(lower, self.low), np.minimum(upper, self.high)
        self.centers = np.where(lower * upper < 0, 0.0, (lower + upper) / 2)
        # A 0 is represented exactly: only what else is in its bin can be off.
        around_zero = (lower <= 0) & (upper >= 0)
        self.counts = np.where(around_zero, counts - stats.zeros, counts).astype(np.float64)
        self.total = float(max(stats.count - stats.not_finite, 1))
        self.stats = stats

    def mse(self, lows: _Floats, highs: _Floats) -> _Floats:
        """Return the mean squared error of each range, infinite where it has no scale."""
        errors = np.full(len(lows), np.inf)
        for index, (low, high) in enumerate(zip(lows, highs, strict=True)):
            try:
                qparams = from_range(low, high, self.kind, is_symmetric=self.is_symmetric)
            except Degenerate:
                continue
            errors[index] = self.mse_of(qparams)
        return errors

    def mse_of(self, qparams: QParams) -> float:
        """Return the mean squared error that integers cause."""
        scale, zero = float(qparams.scale), float(qparams.zero_point)
        bottom = (self.kind.minimum - zero) * scale
        top = (self.kind.maximum - zero) * scale
        # A bin is taken for its centre; the rest of its width adds the same to every range.
        error = np.clip(np.rint(self.centers / scale) * scale, bottom, top) - self.centers
        return float(np.dot(error * error, self.counts)) / self.total


def _minmax(values: Values, share: float) -> tuple[float, float]:
    del share
    return values.low, values.high


def _average(values: Values, share: float) -> tuple[float, float]:
    del share
    stats = values.stats
    return min(stats.row_lows.mean(), 0.0), max(stats.row_highs.mean(), 0.0)


def _percentile(values: Values, share: float) -> tuple[float, float]:
    """Clip half of the rest on either side; a side without values has none to clip."""
    lower, upper, counts = values.stats.histogram.occupied()
    below = np.cumsum(counts)
    outside = (1 - share) * below[-1]
    one_sided = values.low == 0 or values.high == 0
    part = outside if one_sided else outside / 2
    low = lower[np.searchsorted(below, part, side="right")]
    high = upper[np.searchsorted(below, below[-1] - part, side="left")]
    return max(min(low, 0.0), values.low), min(max(high, 0.0), values.high)


_SHRINK = 2.0 ** -(np.arange(96) / 16)
"""Factors from 1 to 1/64 in steps of 4 %."""
_STRIDE = 4
_REFINE = 2.0 ** (np.arange(-3, 4) / 64)


def _mse(values: Values, share: float) -> tuple[float, float]:
    """Search a common threshold first, then each end by itself."""
    del share
    top = max(-values.low, values.high)

    def best(lows: _Floats, highs: _Floats) -> tuple[float, float]:
        # The error falls and rises once, but for ripples: a coarse look, then a close one.
        coarse = np.arange(0, len(lows), _STRIDE)
        middle = int(coarse[np.argmin(values.mse(lows[coarse], highs[coarse]))])
        close = np.arange(max(middle - _STRIDE, 0), min(middle + _STRIDE + 1, len(lows)))
        index = int(close[np.argmin(values.mse(lows[close], highs[close]))])
        return float(lows[index]), float(highs[index])

    thresholds = top * _SHRINK
    low, high = best(np.maximum(values.low, -thresholds), np.minimum(values.high, thresholds))
    if values.low == 0 or values.high == 0 or values.is_symmetric:
        ends = max(-low, high) * _REFINE
        return best(np.maximum(values.low, -ends), np.minimum(values.high, ends))
    for _ in range(2):
        highs = values.high * _SHRINK
        low, high = best(np.full_like(highs, low), highs)
        lows = values.low * _SHRINK
        low, high = best(lows, np.full_like(lows, high))
    return low, high


_CANDIDATES = 128
"""Thresholds that entropy tries; TensorRT tries each 128-th of the range too."""


def _entropy(values: Values, share: float) -> tuple[float, float]:
    del share
    histogram = values.stats.histogram
    first, last = np.flatnonzero(histogram.counts)[[0, -1]]
    counts = histogram.counts[first : last + 1].astype(np.float64)
    index = np.arange(first, last + 2) + histogram.start
    # Bin 0 is twice as wide as the others; to put its end at 0 shifts nothing else.
    edges = index * values.width
    # 0 stands for itself whatever the range, and says nothing about it.
    at_zero = -(int(first) + histogram.start)
    if 0 <= at_zero < len(counts):
        counts[at_zero] -= values.stats.zeros
    top = max(-values.low, values.high)
    levels = values.kind.maximum - values.kind.minimum + 1
    thresholds = top * np.arange(_CANDIDATES, 0, -1) / _CANDIDATES
    left = np.searchsorted(edges, np.maximum(-thresholds, edges[0]), side="left")
    right = np.searchsorted(edges, np.minimum(thresholds, edges[-1]), side="right") - 1
    # With fewer bins than integers nothing is lost that could be counted.
    wide = right - left >= levels
    if not wide.any():
        return values.low, values.high
    left, right = left[wide], right[wide]
    # Of those that differ by rounding alone the widest, which is the first.
    best = int(np.argmin(np.round(_divergence(counts, left, right, levels), 10)))
    low, high = max(values.low, edges[left[best]]), min(values.high, edges[right[best]])
    return min(low, 0.0), max(high, 0.0)


def _divergence(
    counts: _Floats, left: npt.NDArray[np.intp], right: npt.NDArray[np.intp], levels: int
) -> _Floats:
    """Return KL(P || Q) of each range: P the counts clipped to it, Q these in steps.

    Q is the same for all bins of a step that hold something, so that sums over steps and over
    ranges are all it takes: ``sum p log q`` is that over the steps of ``S log(S / n)``, with S
    values in n such bins.

    Args:
        counts: Values in each bin.
        left: First bin of each range.
        right: The bin behind its last.
        levels: Steps of a range.
    """
    sums, holds = _running(counts), _running((counts > 0).astype(np.float64))
    own = _running(_times_log(counts, counts))
    steps = left[:, None] + np.arange(levels + 1) * (right - left)[:, None] // levels
    inside, filled = np.diff(sums[steps]), np.diff(holds[steps])
    mean = np.divide(inside, filled, out=np.zeros_like(inside), where=filled > 0)
    total, kept = sums[-1], sums[right] - sums[left]
    # What is clipped counts in the first and in the last bin of P, and not in Q.
    p_log_p, p_log_q = own[right] - own[left], _times_log(inside, mean).sum(axis=1)
    for bins, step, clipped in ((left, 0, sums[left]), (right - 1, -1, total - sums[right])):
        there = counts[bins]
        p_log_p += _times_log(there + clipped, there + clipped) - _times_log(there, there)
        # Where only clipped values are, Q has nothing: the smallest count keeps it finite.
        p_log_q += _times_log(clipped, np.where(there > 0, mean[:, step], 0.0))
    with np.errstate(divide="ignore"):
        found = (p_log_p - p_log_q) / total - np.log(total) + np.log(kept)
    return np.where(kept > 0, found, np.inf)


def _running(values: _Floats) -> _Floats:
    """Return the sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _times_log(factor: _Floats, of: _Floats) -> _Floats:
    return factor * np.log(np.maximum(of, 1e-9))


METHODS: dict[str, Callable[[Values, float], tuple[float, float]]] = {
    "minmax": _minmax,
    "average": _average,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
"""Name -> method: ``(values, share inside) -> (low, high)``."""

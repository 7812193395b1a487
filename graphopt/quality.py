"""How much of the original's quality a model keeps, and how sure the samples make us of it.

The figure is the metric's over all samples together. What it may still be wrong by is told by
how much the samples differ: the bound is where the true figure lies above with a probability
of 95 %, by the jackknife (Efron & Stein 1981, "The jackknife estimate of variance") and
Student's distribution. Where the metric counts right and wrong, the bound is not above
Wilson's (1927), for the number of decisions: ten of ten right do not show 99 %.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.scores import ScoreMeter, UserMetric

__all__ = ["Quality", "QualityMeter", "decisions_needed"]

_CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(_CONFIDENCE)
_FIRST_T = {1: 6.314, 2: 2.920}
"""Quantiles of Student's distribution where the series below is off by more than 2 %."""

_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Quality:
    """What samples show of a model's quality.

    Attributes:
        value: The figure.
        bound: What the true figure is above, with 95 % confidence.
        samples: Samples it was judged on.
        decisions: Right and wrong answers it counts; 0: the metric does not count.
        is_flawless: Whether every decision was right: no samples of this number show more.
    """

    value: float
    bound: float
    samples: int
    decisions: int = 0
    is_flawless: bool = False

    @property
    def proven(self) -> float:
        """What to hold against a target: the bound, or the figure where nothing was wrong."""
        return self.value if self.is_flawless else self.bound


def decisions_needed(target: float) -> int:
    """Return how many decisions, all of them right, show a share of ``target``."""
    return math.ceil(_Z * _Z * target / (1 - target)) if target < 1 else 0


class QualityMeter:
    """Takes in the answers of the original and of a model, sample by sample.

    Args:
        metric: A built-in one, or the user's.
    """

    def __init__(self, metric: str | UserMetric) -> None:
        self._metric = metric
        self._scores = None if isinstance(metric, str) else ScoreMeter(metric)
        self._rows: dict[str, list[list[float]]] = {}
        self._samples = 0
        self._has_spread = True
        self._is_lost = False

    def add(
        self,
        index: int,
        feed: Mapping[str, Any],
        reference: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        """Take in one sample."""
        self._samples += 1
        for name, array in reference.items():
            if not isinstance(array, np.ndarray):
                continue
            other = outputs[name]
            if other.shape != array.shape:
                # A count of what was found, say: no figure is made of these, and validation
                # would refuse the model.
                self._is_lost = True
                return
            if array.dtype.kind == "f":
                lost = np.isfinite(array) & ~np.isfinite(other)
                self._is_lost |= bool(lost.any())
            if self._scores is None:
                self._rows.setdefault(name, []).append(_sums(array, other))
        if self._scores is not None and not self._is_lost:
            self._scores.add(index, feed, reference, outputs)

    def result(self) -> Quality:
        """Return what the samples show.

        What became NaN or infinite has no quality, nor has what took another shape.
        """
        if self._is_lost:
            return Quality(-math.inf, -math.inf, self._samples)
        if self._scores is not None:
            return self._of_scores(self._scores)
        found = [self._of_output(np.array(rows)) for rows in self._rows.values()]
        worst = min(found, key=lambda quality: quality.proven, default=None)
        return worst or Quality(1.0, 1.0, self._samples)

    def ceiling(self, best: QualityMeter, count: int) -> Quality:
        """Return what is shown at most, the samples to come answered no better than ``best``.

        Its figure is that of their being answered as well. The spread of the samples says
        nothing yet: were all as far off as those so far, there would be none.

        Args:
            best: The same metric of the original's own answers, sample by sample.
            count: How many samples there will be.
        """
        if self._is_lost:
            return self.result()
        whole = QualityMeter(self._metric)
        whole._samples = count
        whole._has_spread = False
        if self._scores and whole._scores and best._scores:
            seen = self._scores.scores
            whole._scores.scores = seen + best._scores.scores[len(seen) : count]
        for name, rows in best._rows.items():
            seen_rows = self._rows.get(name, [])
            whole._rows[name] = seen_rows + rows[len(seen_rows) : count]
        return whole.result()

    def _bound(self, rows: _Floats, figure: Any, value: float) -> float:
        return _jackknife(rows, figure, value) if self._has_spread else value

    def _of_scores(self, meter: ScoreMeter) -> Quality:
        pairs = np.array(meter.scores)
        value = meter.quality()
        bound = self._bound(pairs, lambda sums: sums[..., 0] / sums[..., 1], value)
        counts = 0
        if np.isin(pairs, (0.0, 1.0)).all():
            counts = int(pairs[:, 1].sum())
            bound = min(bound, _wilson(min(value, 1.0), counts))
        is_flawless = bool(counts) and bool((pairs[:, 0] >= pairs[:, 1]).all())
        return Quality(value, bound, self._samples, counts, is_flawless)

    def _of_output(self, rows: _Floats) -> Quality:
        total = rows.sum(axis=0)
        elements, equal = total[_ELEMENTS], total[_EQUAL]
        if self._metric == "cosine" and total[_ENERGY] and total[_OTHER]:
            value = float(_cosine(total))
            bound = self._bound(rows, _cosine, value)
        elif self._metric == "sqnr" and total[_ENERGY]:
            value = float(_decibels(total))
            bound = self._bound(rows, _decibels, value)
        else:
            # Where there is no top, what is the same counts.
            what = (_TOP, _ROWS) if self._metric == "top1" and total[_ROWS] else ()
            right, all_ = what or (_EQUAL, _ELEMENTS)
            if not total[all_]:
                best = math.inf if self._metric == "sqnr" else 1.0
                return Quality(best, best, self._samples)
            value = float(total[right] / total[all_])
            bound = self._bound(rows, lambda sums: sums[..., right] / sums[..., all_], value)
            count = int(total[all_])
            bound = min(bound, _wilson(value, count))
            is_flawless = value == 1
            if self._metric == "sqnr":
                value, bound = _share_in_decibels(value), _share_in_decibels(bound)
            return Quality(value, bound, self._samples, count, is_flawless)
        return Quality(value, bound, self._samples, 0, bool(equal == elements))


_PRODUCT, _ENERGY, _OTHER, _ERROR, _ROWS, _TOP, _ELEMENTS, _EQUAL = range(8)
"""What is summed up of an output in a sample."""


_BLOCK = 1 << 13
"""Elements added up at a time: they stay in the cache, and OpenBLAS takes one thread. With two
it is 50 times slower where the cores have other work (0.6 against 27 ms for 265,000)."""


def _sums(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> list[float]:
    sums = [0.0] * 8
    sums[_ELEMENTS] = float(reference.size)
    sums[_EQUAL] = float(np.count_nonzero(reference == other))
    if reference.dtype.kind not in "fiu" or reference.size == 0:
        return sums
    flat, others = reference.reshape(-1), other.reshape(-1)
    moments = np.zeros(4)
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        moments += _moments(flat[block], others[block])
    sums[:4] = moments.tolist()
    if reference.dtype.kind == "f" and reference.ndim and reference.shape[-1] >= 2:
        tops = reference.argmax(-1) == other.argmax(-1)
        sums[_ROWS], sums[_TOP] = float(tops.size), float(np.count_nonzero(tops))
    return sums


def _moments(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> _Floats:
    a, b = reference.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.all():
        a, b = a[finite], b[finite]
    error = a - b
    return np.array([a @ b, a @ a, b @ b, error @ error])


def _cosine(sums: _Floats) -> _Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt(sums[..., _ENERGY]) * np.sqrt(sums[..., _OTHER])
        cosines: _Floats = np.minimum(sums[..., _PRODUCT] / lengths, 1.0)
    return cosines


def _decibels(sums: _Floats) -> _Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels: _Floats = 10 * np.log10(sums[..., _ENERGY] / sums[..., _ERROR])
    return decibels


def _share_in_decibels(share: float) -> float:
    """Return a share of right answers in dB: each holds as much as a wrong one takes."""
    return -10 * math.log10(1 - share) if share < 1 else math.inf


def _jackknife(rows: _Floats, figure: Any, value: float) -> float:
    """Return the bound below ``value``, the figure of the sum of ``rows``."""
    count = len(rows)
    if count < 2 or not math.isfinite(value):
        return value
    with np.errstate(divide="ignore", invalid="ignore"):
        without = figure(rows.sum(axis=0) - rows)
    without = without[np.isfinite(without)]
    if not without.size:
        return value
    spread = np.sqrt((count - 1) / count * np.sum(np.square(without - without.mean())))
    return value - _student(count - 1) * float(spread)


def _student(freedom: int) -> float:
    """Return the quantile of Student's distribution (Abramowitz & Stegun 26.7.5)."""
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    return _FIRST_T.get(freedom, _Z + first / freedom + second / freedom**2)


def _wilson(share: float, count: int) -> float:
    if not count:
        return share
    square = _Z * _Z / count
    root = math.sqrt(share * (1 - share) / count + square / (4 * count))
    return (share + square / 2 - _Z * root) / (1 + square)

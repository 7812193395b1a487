"""How far an output of one model is from that of another; streamed, sample by sample."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

__all__ = ["Difference", "DifferenceMeter"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one output is from the reference, over all samples.

    Attributes:
        elements: Elements compared.
        equal: Share of them that are equal (NaN equals NaN).
        max_abs, mean_abs: Largest and mean absolute difference of finite elements.
        max_rel, mean_rel: The same, relative to the reference's element, where it is not 0.
        cosine: Cosine of the two outputs as vectors over all samples; NaN where both are 0.
        sqnr_db: Energy of the reference over that of the difference, in dB; infinite if equal.
        top1: Share of rows with the same largest element in the last axis; ``None`` where it
            has fewer than two elements or the output is no float.
        magnitude: Largest absolute value of the reference.
        worst_sample: Index of the sample with the largest absolute difference.
        not_finite: Elements that are NaN or infinite in one output and not the same in the
            other.
    """

    elements: int
    equal: float
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    cosine: float
    sqnr_db: float
    top1: float | None
    magnitude: float
    worst_sample: int | None
    not_finite: int


class DifferenceMeter:
    """Accumulates the ``Difference`` of one output."""

    def __init__(self) -> None:
        self._elements = self._equal = self._finite = self._nonzero = self._odd = 0
        self._max_abs = self._sum_abs = self._max_rel = self._sum_rel = self._magnitude = 0.0
        self._dot = self._energy = self._other_energy = self._noise = 0.0
        self._rows = self._same_rows = 0
        self._worst: int | None = None

    def add(self, sample: int, reference: np.ndarray, other: np.ndarray) -> None:
        """Take in one sample; both arrays have the same shape."""
        self._elements += reference.size
        if reference.dtype.kind not in "fiubV" or reference.size == 0:
            same = reference == other
            self._equal += int(np.count_nonzero(same))
            if not np.all(same) and self._worst is None:
                self._worst = sample
            return
        a = reference.astype(np.float64)
        b = other.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        self._equal += int(np.count_nonzero(same))
        self._odd += int(np.count_nonzero(~finite & ~same))
        if reference.dtype.kind not in "iub" and a.ndim and a.shape[-1] >= 2:
            rows = a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1])
            self._rows += len(rows[0])
            self._same_rows += int(np.sum(rows[0].argmax(-1) == rows[1].argmax(-1)))
        a, b = a[finite], b[finite]
        if not a.size:
            return
        error = np.abs(a - b)
        worst = float(error.max())
        if worst > self._max_abs or self._worst is None:
            self._worst = sample
        self._finite += a.size
        self._max_abs = max(self._max_abs, worst)
        self._sum_abs += float(error.sum())
        self._magnitude = max(self._magnitude, float(np.abs(a).max()))
        nonzero = a != 0
        relative = error[nonzero] / np.abs(a[nonzero])
        self._nonzero += relative.size
        if relative.size:
            self._max_rel = max(self._max_rel, float(relative.max()))
            self._sum_rel += float(relative.sum())
        self._dot += float(a @ b)
        self._energy += float(a @ a)
        self._other_energy += float(b @ b)
        self._noise += float(error @ error)

    def result(self) -> Difference:
        """Return the figures of what was taken in so far."""
        norm = math.sqrt(self._energy * self._other_energy)
        sqnr: Any = math.inf
        if self._noise > 0:
            sqnr = 10 * math.log10(self._energy / self._noise) if self._energy else -math.inf
        return Difference(
            self._elements,
            self._equal / self._elements if self._elements else math.nan,
            self._max_abs,
            self._sum_abs / self._finite if self._finite else 0.0,
            self._max_rel,
            self._sum_rel / self._nonzero if self._nonzero else 0.0,
            self._dot / norm if norm else math.nan,
            float(sqnr),
            self._same_rows / self._rows if self._rows else None,
            self._magnitude,
            self._worst,
            self._odd,
        )

"""One tensor of two models: how far it is off, measured a part at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from graphopt.metrics import Difference, DifferenceMeter, Tolerance

__all__ = ["Layer", "LayerMeter"]

_CHUNK = 1 << 16
"""Elements that are looked at together: a copy of a large tensor would take as much as it."""
_MOST_NOISE = 300.0
"""Power of ten: of float64 there is more than a float can hold."""

_PART = 0.01
"""What is left of the error without the factor, for a multiple."""
_ROUNDING = 1e-12
"""Of the cosine, at most: an error of that energy is no factor that matters."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One tensor of both models.

    Attributes:
        name: Its name in the original.
        candidate_name: Its name in the candidate.
        op_type: Operator that computes it in the original.
        node: Name of that node.
        difference: How far the candidate's is off; ``None`` where it cannot be measured.
        added_noise: Energy of the error over that of the tensor, less what came in with the
            inputs: what this layer adds. 0 where it adds none.
        range: Least and largest element in the original; ``candidate_range`` in the candidate.
        candidate_range: See ``range``.
        not_finite: Elements of the original that are NaN or infinite;
            ``candidate_not_finite`` in the candidate.
        candidate_not_finite: See ``not_finite``.
        fault: Why it cannot be measured; empty where it can.
    """

    name: str
    candidate_name: str
    op_type: str
    node: str
    difference: Difference | None = None
    added_noise: float = 0.0
    range: tuple[float, float] | None = None
    candidate_range: tuple[float, float] | None = None
    not_finite: int = 0
    candidate_not_finite: int = 0
    fault: str = ""

    @property
    def sqnr_db(self) -> float:
        """Energy of the tensor over that of the error, in dB; infinite where there is none.

        Of truth values and words, which have none: elements over those that are not the same.
        """
        found = self.difference
        if found is None:
            return math.inf
        if found.max_abs or found.zero_signs or not found.equal < 1:
            return found.sqnr_db
        return -10 * math.log10(1 - found.equal)

    @property
    def noise(self) -> float:
        """Energy of the error over that of the tensor."""
        return 10 ** min(-self.sqnr_db / 10, _MOST_NOISE)

    @property
    def is_multiple(self) -> bool:
        """Whether a factor makes nearly all of the error.

        A rewrite may have moved it to another layer.
        """
        found = self.difference
        if found is None or found.not_finite or not found.cosine > 0:
            return False
        return 1 - found.cosine**2 + _ROUNDING < _PART * self.noise

    def exceeds(self, sqnr_db: float | None = None) -> bool:
        """Whether the error is more than the tolerance, or the SQNR less than ``sqnr_db``."""
        if self.difference is None:
            return bool(self.fault)
        if self.difference.not_finite:
            return True
        if sqnr_db is not None:
            return self.sqnr_db < sqnr_db
        return self.difference.needed > 1 or (
            not self.difference.max_abs and self.sqnr_db < math.inf
        )


class LayerMeter:
    """The difference and the ranges of one tensor."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._meter = DifferenceMeter(tolerance)
        self._ranges: list[tuple[float, float] | None] = [None, None]
        self._not_finite = [0, 0]
        self._fault = ""

    def add(self, sample: int, want: object, got: object) -> None:
        """Take in one sample: its index, and what onnxruntime returned for both models."""
        if not (isinstance(want, np.ndarray) and isinstance(got, np.ndarray)):
            self._fault = "it is no tensor"
        elif want.shape != got.shape:
            self._fault = f"its shape is {list(got.shape)} and was {list(want.shape)}"
        elif want.dtype != got.dtype:
            self._fault = f"its type is {got.dtype} and was {want.dtype}"
        if self._fault:
            return
        assert isinstance(want, np.ndarray)
        assert isinstance(got, np.ndarray)
        self._meter.add(sample, want, got)
        for at, array in enumerate((want, got)):
            flat = array.reshape(-1)
            for start in range(0, flat.size, _CHUNK):
                self._look_at(at, flat[start : start + _CHUNK])

    def _look_at(self, at: int, part: np.ndarray) -> None:
        finite = part[np.isfinite(part)] if part.dtype.kind == "f" else part
        self._not_finite[at] += part.size - finite.size
        if finite.size and part.dtype.kind in "fiub":
            low, high = float(finite.min()), float(finite.max())
            old = self._ranges[at] or (low, high)
            self._ranges[at] = (min(low, old[0]), max(high, old[1]))

    def layer(self, name: str, candidate_name: str) -> Layer:
        """Return what was measured; the operator is for the caller to fill in."""
        if self._fault:
            return Layer(name, candidate_name, "", "", fault=self._fault)
        left, right = self._ranges
        return Layer(
            name,
            candidate_name,
            "",
            "",
            self._meter.result(),
            range=left,
            candidate_range=right,
            not_finite=self._not_finite[0],
            candidate_not_finite=self._not_finite[1],
        )

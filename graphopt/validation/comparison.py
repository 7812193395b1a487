"""What a comparison of two models shows, and how it is judged."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from graphopt.metrics import Difference, Tolerance
from graphopt.passbase import Promise
from graphopt.runtime.session import Level

__all__ = ["Comparison", "LevelComparison", "OutputComparison", "judge"]


@dataclasses.dataclass(frozen=True)
class OutputComparison:
    """One output of both models.

    Attributes:
        name: Its name.
        dtype: Its element type.
        difference: How far the candidate is from the original.
        passed: Whether that is within what was promised.
        reason: Why not; empty where it passed.
    """

    name: str
    dtype: str
    difference: Difference
    passed: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class LevelComparison:
    """Both models on all samples, each at one level of onnxruntime's own optimizations.

    Attributes:
        original_level: Level of the original: ``"disable"`` or ``"all"``, the default.
        candidate_level: Level of the candidate.
        promise: What the outputs were judged by.
        outputs: One entry an output.
        reason: Why it did not pass; empty where it did.
        score: Quality by the metric of the user's; ``None`` where there is none.
    """

    original_level: Level
    candidate_level: Level
    promise: Promise
    outputs: tuple[OutputComparison, ...]
    reason: str
    score: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the promise was kept."""
        return not self.reason


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What comparing two models on samples showed.

    Attributes:
        promise: What was promised.
        tolerance: What an output may differ by where it is only computed in another order.
        metric: What a lossy result is judged by: its name.
        target: The least that ``metric`` must be; ``None``: nothing was asked for.
        levels: What was compared; the last one is the candidate as it is deployed.
        samples: How many samples both models ran on.
        described: Where the samples come from.
        reason: Why the promise is not proven to be kept, in one line; empty where it is.
        notes: What the reader has to know to judge the result.
    """

    promise: Promise
    tolerance: Tolerance
    metric: str
    target: float | None
    levels: tuple[LevelComparison, ...]
    samples: int
    described: str
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the promise is proven to be kept."""
        return not self.reason

    @property
    def outputs(self) -> tuple[OutputComparison, ...]:
        """The outputs of the candidate as it is deployed."""
        return self.levels[-1].outputs if self.levels else ()

    @property
    def score_text(self) -> str:
        """Quality by the metric of the user's, in words; empty where there is none."""
        score = self.levels[-1].score if self.levels else None
        return "" if score is None else f"{self.metric}: {score:.6g}"

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has.

        A figure that is not finite is ``None``: ``sqnr_db`` of outputs that are equal,
        ``cosine`` of one that is zero. Keys are only ever added.
        """
        data: dict[str, Any] = _plain(self)
        data["passed"] = self.passed
        for level, entry in zip(self.levels, data["levels"], strict=True):
            entry["passed"] = level.passed
        return data


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Promise):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def judge(
    name: str,
    dtype: str,
    difference: Difference,
    promise: Promise,
    tolerance: Tolerance,
    metric: str = "cosine",
    target: float | None = None,
    allowed: float = 1.0,
) -> OutputComparison:
    """Judge one output.

    Args:
        name: Its name.
        dtype: Its element type.
        difference: How far it is from the original.
        promise: What was promised.
        tolerance: For ``Promise.CLOSE``; that of the meter that measured ``difference``.
        metric: For ``Promise.LOSSY``: what ``target`` is measured in.
        target: The least that ``metric`` must be; ``None``: reported, not judged.
        allowed: For ``Promise.CLOSE``: how many times ``tolerance`` it may differ by.

    Raises:
        ValueError: ``difference`` was measured with another tolerance.
    """
    if tolerance != difference.tolerance:
        raise ValueError(f"measured with {difference.tolerance}, judged by {tolerance}")
    if not difference.elements:
        reason = "it was empty in every sample, which proves nothing"
    elif not difference.finite and not difference.not_finite:
        reason = "it had no finite element in any sample, which proves nothing"
    elif promise is Promise.LOSSY:
        reason = _lossy(difference, metric, target)
    elif difference.not_finite:
        reason = (
            f"{_count(difference.not_finite, difference)} are NaN or infinite in one model "
            "and not the same in the other"
        )
    elif promise is Promise.EXACT or "float" not in dtype:
        # Numbers of things, indices and words are the same or they are not.
        reason = _exact(difference)
    else:
        reason = _close(difference, tolerance, allowed)
    return OutputComparison(name, dtype, difference, not reason, reason)


def _count(number: int, difference: Difference) -> str:
    return f"{number:,} of {difference.elements:,} elements"


def _exact(difference: Difference) -> str:
    different = difference.elements - round(difference.equal * difference.elements)
    if not different:
        return ""
    if different == difference.zero_signs:
        return f"{_count(different, difference)} are zeros of the other sign"
    by = f", by up to {difference.max_abs:.3g}" if difference.max_abs else ""
    return f"{_count(different, difference)} differ{by} {_where(difference)}"


def _where(difference: Difference) -> str:
    return f"(worst in sample {difference.worst_sample})"


def _close(difference: Difference, tolerance: Tolerance, allowed: float) -> str:
    if difference.needed <= allowed:
        return ""
    text = (
        f"it differs by up to {difference.max_abs:.3g} where the largest value is "
        f"{difference.magnitude:.3g} {_where(difference)}"
    )
    if math.isinf(difference.needed):
        return text
    needed, given = tolerance.scaled(difference.needed), tolerance.scaled(allowed)
    return f"{text}; {needed} would have passed, not {given}"


def _lossy(difference: Difference, metric: str, target: float | None) -> str:
    if difference.lost:
        return f"{_count(difference.lost, difference)} became NaN or infinite"
    if target is None or difference.equal == 1:
        return ""
    figures = {
        "cosine": difference.cosine,
        "top1": difference.top1,
        "sqnr": difference.sqnr_db if difference.max_abs else None,
    }
    value = figures[metric]
    if value is None or (math.isnan(value) and not difference.max_abs):
        # Words, truth values, and numbers where there is no top: what is the same counts.
        metric, value = "share of equal elements", difference.equal
    if value >= target:
        return ""
    return f"its {metric} is {value:.6g}, and the target is {target:g}"

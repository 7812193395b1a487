"""The choices of a search for precisions, and what is known of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

__all__ = ["Choice", "Evaluation", "Outcome", "Speed", "pareto_front"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """The precision of every operator.

    Attributes:
        scheme: How operators become integer; empty: none does, this is the original.
        kept: Operators that stay behind, sorted.
    """

    scheme: str = ""
    kept: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Speed:
    """How long a choice takes.

    Attributes:
        ratio: Its latency over the original's, from the same measurement.
        latency_ms: Median of a run.
    """

    ratio: float
    latency_ms: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is known of a choice.

    Attributes:
        choice: The choice.
        quality: Of the original's, on the samples that judge.
        proven: What of that their number shows; this is held against the target.
        size_bytes: Size of the weights.
        speed: ``None``: not measured.
        is_partial: Whether it was given up before the last sample, the target being out of
            reach: quality is that of the samples so far.
    """

    choice: Choice
    quality: float
    proven: float
    size_bytes: int
    speed: Speed | None = None
    is_partial: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        best: The fastest choice that keeps the quality; the original where none is faster.
        evaluations: All that was looked at, in order.
        is_complete: Whether the search came to its end by itself.
        is_interrupted: Whether it was the user who ended it.
    """

    best: Evaluation
    evaluations: tuple[Evaluation, ...]
    is_complete: bool
    is_interrupted: bool = False


def pareto_front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the measured evaluations that no other beats in quality, latency and size."""
    measured = [(e, e.speed.ratio) for e in evaluations if e.speed is not None]
    keys = {e.choice: (-e.quality, ratio, e.size_bytes) for e, ratio in measured}

    def is_beaten(evaluation: Evaluation) -> bool:
        own = keys[evaluation.choice]
        return any(
            other != own and all(x <= y for x, y in zip(other, own, strict=True))
            for other in keys.values()
        )

    front = [(e, ratio) for e, ratio in measured if not is_beaten(e)]
    return [e for e, _ in sorted(front, key=lambda pair: (pair[1], -pair[0].quality))]

"""Parts samples into those that ranges are taken from and those that quality is judged on.

One of every two neighbours judges, by the sequence of Thue and Morse, so that samples that
alternate (a right one, a wrong one, a right one ...) are in both parts. Kinds that take
turns by three or more may be in one part while there are few: the first of three up to 21.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphopt.quality import Quality, decisions_needed
from graphopt.samples import Feed, Samples

__all__ = ["HeldOut"]

_FEW = 8
"""Held-out samples below which the reader is told how few they were."""


class HeldOut:
    """Half of the samples judge; the others calibrate. A single one does both.

    Half of them: a range takes few samples to find, a share of right answers many to show.

    Args:
        samples: All of them.
    """

    def __init__(self, samples: Samples) -> None:
        first = zip(range(2), samples.feeds(), strict=False)
        self._is_alone = sum(1 for _ in first) < 2

        def feeds() -> Iterator[Feed]:
            for index, feed in enumerate(samples.feeds()):
                if self._is_alone or not self.judges(index):
                    yield feed

        self.calibration = Samples.from_feeds(feeds)
        """The samples that calibrate."""

    def judges(self, index: int) -> bool:
        """Whether the sample of this index judges."""
        return self._is_alone or index.bit_count() % 2 == 1

    def calibrating(self, total: int) -> int:
        """Return how many of ``total`` samples calibrate."""
        return 1 if self._is_alone else sum(not self.judges(at) for at in range(total))

    def notes(self, evidence: Quality, target: float) -> list[str]:
        """Return what the reader has to know about the number of samples.

        Args:
            evidence: Quality of the original on the samples that judge.
            target: What was to be shown.
        """
        count, decisions = evidence.samples, evidence.decisions
        if self._is_alone:
            return ["one sample calibrates and judges: no sample was held out"]
        needed = decisions_needed(target) if decisions and target < 1 else 0
        if needed > decisions:
            samples = 2 * math.ceil(needed * count / decisions)
            return [
                f"{count} held-out samples hold {decisions} decisions, too few to show "
                f"{target:g} with 95 % confidence: only choices without any error on them are "
                f"taken; give {samples} samples or more"
            ]
        if count < _FEW:
            return [f"quality was judged on {count} held-out samples only; give more"]
        return []

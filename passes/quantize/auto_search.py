"""Searches for the fastest precisions that keep a quality; runs nothing itself.

A scheme (static, dynamic, ...) says how operators become integer. Within one, operators are
ordered by the harm they are expected to do for what they save. The search

1. looks at each scheme with all operators in integer;
2. where that misses the target, finds by bisection how many of the worst must stay behind;
3. measures the speed of what meets the target, next to the original;
4. from then on improves the fastest: takes operators back into integer, the least harmful
   first, as long as the target holds.

Whatever was found so far can be had at any time; asking for more only makes it better.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

__all__ = ["Choice", "Evaluation", "Measure", "Outcome", "Search", "pareto_front"]

logger = logging.getLogger(__name__)


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
class Evaluation:
    """What is known of a choice.

    Attributes:
        choice: The choice.
        quality: Share of the original's quality.
        size_bytes: Size of the model.
        ratio: Its latency over the original's, from the same measurement; ``None``: not
            measured.
    """

    choice: Choice
    quality: float
    size_bytes: int
    ratio: float | None = None


class Measure(Protocol):
    """Builds choices, and measures them."""

    def quality(self, choice: Choice) -> Evaluation:
        """Return quality and size of a choice."""
        ...

    def ratios(self, choices: Sequence[Choice]) -> list[float]:
        """Return latencies over the original's, all measured in turn."""
        ...


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        best: The fastest choice that keeps the quality; the original where none is faster.
        evaluations: All that was looked at, in order.
        is_complete: Whether the search came to its end by itself.
    """

    best: Evaluation
    evaluations: tuple[Evaluation, ...]
    is_complete: bool


class Search:
    """The search.

    Args:
        rankings: Scheme -> its operators, the one to leave behind first at the front.
        target: Share of the original's quality to keep.
        measure: Builds and measures.
        size_bytes: Size of the original.
        go_on: Returns whether there is time for another evaluation.
        faster_than: Latency over the original's that counts as faster.
    """

    def __init__(
        self,
        rankings: Mapping[str, Sequence[str]],
        target: float,
        measure: Measure,
        size_bytes: int,
        go_on: Callable[[], bool] = lambda: True,
        faster_than: float = 0.97,
    ) -> None:
        self._rankings = {scheme: tuple(names) for scheme, names in rankings.items()}
        self._target = target
        self._measure = measure
        self._go_on = go_on
        self._faster_than = faster_than
        original = Evaluation(Choice(), 1.0, size_bytes, 1.0)
        self._found: dict[Choice, Evaluation] = {original.choice: original}
        self._is_complete = False

    def run(self) -> Outcome:
        """Search until nothing is left to try, time is up, or the user interrupts."""
        try:
            self._search()
            self._is_complete = True
        except (KeyboardInterrupt, _TimeIsUp):
            logger.info("the search stops here; the best so far is kept")
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return the best so far."""
        best = min(
            (e for e in self._found.values() if self._is_good(e)),
            key=lambda e: (e.ratio, e.size_bytes),
            default=self._found[Choice()],
        )
        return Outcome(best, tuple(self._found.values()), self._is_complete)

    def _is_good(self, evaluation: Evaluation) -> bool:
        ratio = evaluation.ratio
        return (
            self._keeps(evaluation)
            and ratio is not None
            and (ratio <= self._faster_than or not evaluation.choice.scheme)
        )

    def _keeps(self, evaluation: Evaluation) -> bool:
        return evaluation.quality >= self._target

    def _search(self) -> None:
        for scheme in self._rankings:
            self._evaluate(Choice(scheme))
        # Something that can be used first; what is nearest to the target comes next.
        self._time()
        order = sorted(self._rankings, key=lambda scheme: -self._found[Choice(scheme)].quality)
        for scheme in order:
            if not self._keeps(self._found[Choice(scheme)]):
                self._bisect(scheme)
                self._time()
        self._improve()

    def _evaluate(self, choice: Choice) -> Evaluation:
        if choice not in self._found:
            if not self._go_on():
                raise _TimeIsUp
            self._found[choice] = self._measure.quality(choice)
        return self._found[choice]

    def _time(self) -> None:
        """Measure the speed of what keeps the quality and has not been measured."""
        waiting = [
            choice
            for choice, found in self._found.items()
            if found.ratio is None and self._keeps(found)
        ]
        if waiting:
            for choice, ratio in zip(waiting, self._measure.ratios(waiting), strict=True):
                self._found[choice] = dataclasses.replace(self._found[choice], ratio=ratio)

    def _bisect(self, scheme: str) -> None:
        """Find how many operators at the front of the ranking must stay behind."""
        names = self._rankings[scheme]
        # With ``fails`` left behind it misses the target; with all of them there is none.
        fails, holds = 0, len(names)
        while holds - fails > 1:
            middle = (fails + holds) // 2
            if self._keeps(self._evaluate(_keep(scheme, names[:middle]))):
                holds = middle
            else:
                fails = middle

    def _improve(self) -> None:
        """Take operators of the fastest choice back, as long as the target holds."""
        best = self.outcome().best.choice
        ranking = self._rankings.get(best.scheme, ())
        kept = set(best.kept)
        for name in reversed([name for name in ranking if name in kept]):
            choice = _keep(best.scheme, kept - {name})
            if self._keeps(self._evaluate(choice)):
                kept.discard(name)
        self._time()


def _keep(scheme: str, names: Sequence[str] | set[str]) -> Choice:
    return Choice(scheme, tuple(sorted(names)))


class _TimeIsUp(Exception):  # noqa: N818  # it is no error
    pass


def pareto_front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the measured evaluations that no other beats in quality, latency and size."""

    def beats(a: Evaluation, b: Evaluation) -> bool:
        one = (-a.quality, a.ratio or 0.0, a.size_bytes)
        other = (-b.quality, b.ratio or 0.0, b.size_bytes)
        return one != other and all(x <= y for x, y in zip(one, other, strict=True))

    measured = [e for e in evaluations if e.ratio is not None]
    front = [e for e in measured if not any(beats(other, e) for other in measured)]
    return sorted(front, key=lambda e: (e.ratio, -e.quality))

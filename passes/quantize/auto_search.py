"""Searches for the fastest precisions that keep a quality; runs nothing itself.

A scheme (static, dynamic, ...) says how operators become integer. The search

1. looks at each scheme with all operators in integer, and measures their speed;
2. where that misses the target, and could be the fastest, orders its operators by the harm
   that each does alone for the work it saves;
3. finds by bisection how many of the worst must stay behind;
4. takes operators back into integer, many at a time and the least harmful first, as long as
   the target holds.

Whatever was found so far can be had at any time; asking for more only makes it better.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from .auto_choice import Choice, Evaluation, Outcome, Speed

if TYPE_CHECKING:
    from graphopt.passbase import Progress

__all__ = ["Measure", "Search"]

logger = logging.getLogger(__name__)


class Measure(Protocol):
    """Builds choices, and measures them."""

    def quality(self, choice: Choice) -> Evaluation:
        """Return quality and size of a choice."""
        ...

    def harm(self, scheme: str, name: str) -> float:
        """Return what one operator alone does in integer, for the work that it saves."""
        ...

    def speeds(self, choices: Sequence[Choice]) -> list[Speed | None]:
        """Return how long choices take, all measured in turn with the original.

        ``None``: that could not be measured.
        """
        ...


class Search:
    """The search.

    Args:
        operators: Scheme -> the operators that can be integer in it; one without any is not
            tried, since a gain of it would be noise.
        target: What is to be kept of the original's quality.
        measure: Builds and measures.
        original: What is known of the original.
        go_on: Returns whether there is time for another evaluation.
        faster_than: Latency over the original's that counts as faster.
        progress: Told about every evaluation.
    """

    def __init__(
        self,
        operators: Mapping[str, Sequence[str]],
        target: float,
        measure: Measure,
        original: Evaluation,
        go_on: Callable[[], bool] = lambda: True,
        faster_than: float = 0.97,
        progress: Progress | None = None,
    ) -> None:
        self._operators = {s: tuple(names) for s, names in operators.items() if names}
        self._target = target
        self._measure = measure
        self._go_on = go_on
        self._faster_than = faster_than
        self._progress = progress
        self._advance: Callable[[], None] = lambda: None
        self._original = original
        self._found: dict[Choice, Evaluation] = {original.choice: original}
        self._untimed: set[Choice] = set()  # what could not be
        self._is_complete = False

    def run(self) -> Outcome:
        """Search until nothing is left to try, time is up, or the user interrupts."""
        interrupted = False
        try:
            self._search()
            self._is_complete = True
        except _TimeIsUp:
            logger.info("time is up; the best so far is kept")
        except KeyboardInterrupt:
            logger.info("interrupted; the best so far is kept")
            interrupted = True
        return dataclasses.replace(self.outcome(), is_interrupted=interrupted)

    def outcome(self) -> Outcome:
        """Return the best so far."""
        good = filter(self._is_good, self._found.values())
        best = min(good, key=_slowness, default=self._original)
        return Outcome(best, tuple(self._found.values()), self._is_complete)

    def _is_good(self, evaluation: Evaluation) -> bool:
        speed = evaluation.speed
        return (
            bool(evaluation.choice.scheme)
            and self._keeps(evaluation)
            and speed is not None
            and speed.ratio <= self._faster_than
        )

    def _keeps(self, evaluation: Evaluation) -> bool:
        return evaluation.proven >= self._target

    def _search(self) -> None:
        with self._phase("everything in integer", len(self._operators)):
            for scheme in self._operators:
                self._evaluate(Choice(scheme))
        # Something that can be used first, and what there is to gain.
        self._time()
        for full in sorted((self._found[Choice(s)] for s in self._operators), key=_slowness):
            # With operators left behind it is not faster than this.
            could_win = _slowness(full) < _slowness(self.outcome().best)
            if could_win and not self._keeps(full):
                ranking = self._rank(full.choice.scheme)
                kept = self._bisect(full.choice.scheme, ranking)
                self._time()
                self._take_back(full.choice.scheme, kept)
                self._time()

    def _evaluate(self, choice: Choice) -> Evaluation:
        if choice not in self._found:
            if not self._go_on():
                raise _TimeIsUp
            self._found[choice] = self._measure.quality(choice)
        self._advance()
        return self._found[choice]

    def _time(self) -> None:
        """Measure the speed of what keeps the quality with the fewest operators in float.

        And of what is all in integer, so that one sees what the quality costs. The fewer there
        are, the better each is known. The best so far is measured again: what was measured
        together compares.
        """
        while waiting := self._waiting():
            best = self.outcome().best.choice
            waiting += [best] if best.scheme else []
            with self._phase(f"measuring {len(waiting)} of them", None):
                speeds = self._measure.speeds(waiting)
            for choice, speed in zip(waiting, speeds, strict=True):
                if speed is None:
                    self._untimed.add(choice)
                else:
                    self._found[choice] = dataclasses.replace(self._found[choice], speed=speed)

    def _waiting(self) -> list[Choice]:
        """Return what is to be timed next."""
        return [
            choice
            for choice, found in self._found.items()
            if found.speed is None
            and choice not in self._untimed
            and found.quality > -math.inf  # what has none may be what cannot be run
            and (not choice.kept or self._is_least(found))
        ]

    def _is_least(self, evaluation: Evaluation) -> bool:
        """Whether it keeps the quality, and nothing that does has more of it in integer.

        What cannot be timed does not count: another has to stand in for it.
        """
        kept = set(evaluation.choice.kept)
        return self._keeps(evaluation) and not any(
            other.choice not in self._untimed
            and other.choice.scheme == evaluation.choice.scheme
            and kept > set(other.choice.kept)
            and self._keeps(other)
            for other in self._found.values()
        )

    def _rank(self, scheme: str) -> list[str]:
        """Return the operators, the one to leave behind first at the front."""
        names = self._operators[scheme]
        harms: dict[str, float] = {}
        with self._phase(f"{scheme}: what each does alone", len(names)):
            for name in names:
                if not self._go_on():
                    raise _TimeIsUp
                harms[name] = self._measure.harm(scheme, name)
                self._advance()
        return sorted(names, key=lambda name: (-harms[name], name))

    def _bisect(self, scheme: str, names: Sequence[str]) -> list[str]:
        """Return how many operators at the front of the ranking must stay behind."""
        # With ``fails`` left behind it misses the target; with all of them there is none.
        fails, holds = 0, len(names)
        with self._phase(f"{scheme}: how many in float", (holds - 1).bit_length()):
            while holds - fails > 1:
                middle = (fails + holds) // 2
                if self._keeps(self._evaluate(_keep(scheme, names[:middle]))):
                    holds = middle
                else:
                    fails = middle
        return list(names[:holds])

    def _take_back(self, scheme: str, names: Sequence[str]) -> None:
        """Take operators that stay behind back into integer, as long as the target holds."""
        kept = set(names)
        # The last ones do the least harm. Parts that are refused are tried half by half.
        parts = [list(reversed(names))]
        with self._phase(f"{scheme}: back into integer", len(names)):
            while parts:
                part = parts.pop()
                if self._keeps(self._evaluate(_keep(scheme, kept - set(part)))):
                    kept -= set(part)
                elif len(part) > 1:
                    middle = (len(part) + 1) // 2
                    parts += [part[middle:], part[:middle]]

    @contextlib.contextmanager
    def _phase(self, text: str, total: int | None) -> Iterator[None]:
        """Show a part of the search, in evaluations done and to come."""
        if self._progress is None or total == 0:
            yield
            return
        task = self._progress.track(f"precisions: {text}", total)
        before, self._advance = self._advance, task.advance
        try:
            yield
        finally:
            self._advance = before
            task.close()


def _slowness(evaluation: Evaluation) -> tuple[float, int]:
    # Latency is known to 1 %: of the same speed the smaller one. What has none could be fast.
    ratio = evaluation.speed.ratio if evaluation.speed is not None else 0.0
    return round(ratio, 2), evaluation.size_bytes


def _keep(scheme: str, names: Sequence[str] | set[str]) -> Choice:
    return Choice(scheme, tuple(sorted(names)))


class _TimeIsUp(Exception):  # noqa: N818  # it is no error
    pass

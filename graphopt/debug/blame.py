"""Finds the one rewrite that turns a right model into a wrong one."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable

from graphopt import pipeline
from graphopt.debug.checks import Check, Verdict, verdict_of
from graphopt.debug.isolated import Workplace
from graphopt.debug.recipe import Attempt, Recipe, attempt
from graphopt.debug.record import Record
from graphopt.debug.search import bisect, gallop
from graphopt.errors import ExecutionError, ValidationError
from graphopt.ledger import Application

__all__ = ["Blame", "blame", "most_checks"]

Report = Callable[[str, Verdict], None]


@dataclasses.dataclass(frozen=True)
class Blame:
    """What was found.

    Attributes:
        number: Number of the rewrite to blame; ``None`` where all rewrites together pass, or
            where a pass breaks the model by other means than rewrites.
        entry: That rewrite; ``None`` where it raised before it was made.
        pass_text: The pass it belongs to, as in a pipeline, or the pass that breaks the model
            without a rewrite; empty where nothing fails.
        verdict: On the model with it.
        rewrites: Rewrites of the whole run, as far as it got.
        checks: Checks that were made.
        good: The last right model, without it.
        bad: The first wrong model, with it; ``None`` where there is none to write.
    """

    number: int | None
    entry: Application | None
    pass_text: str
    verdict: Verdict
    rewrites: int | None
    checks: int
    good: pathlib.Path | None
    bad: pathlib.Path | None

    @property
    def found(self) -> bool:
        """Whether there is something to blame."""
        return bool(self.pass_text)


def most_checks(rewrites: int) -> int:
    """Return how many checks ``blame`` makes at most in a run of so many rewrites."""
    return math.ceil(math.log2(max(rewrites, 1))) + 2


def blame(
    recipe: Recipe,
    check: Check,
    workplace: Workplace,
    folder: pathlib.Path,
    *,
    record: Record | None = None,
    report: Report = lambda what, verdict: None,
) -> Blame:
    """Find the rewrite to blame in about ``log2`` of all the rewrites checks.

    The whole run is checked, then the run without any rewrite, then the runs that a binary
    search asks for.

    Args:
        recipe: The run that goes wrong.
        check: What tells a right model from a wrong one.
        workplace: Where models are made and checked.
        folder: Where ``good.onnx`` and ``bad.onnx`` are left.
        record: What is known already, and where the verdicts are written down.
        report: Called with what was checked and the verdict.

    Raises:
        ValidationError: The original itself does not pass.
    """
    record = record or Record(None, {})
    return _Search(recipe, check, workplace, folder, record, report).run()


class _Search:
    def __init__(
        self,
        recipe: Recipe,
        check: Check,
        workplace: Workplace,
        folder: pathlib.Path,
        record: Record,
        report: Report,
    ) -> None:
        self._recipe = recipe
        self._check = check
        self._workplace = workplace
        self._record = record
        self._report = report
        self._attempts: dict[int | None, Attempt] = {}
        self._verdicts: dict[int | None, Verdict] = {}
        self.good = folder / "good.onnx"
        self.bad = folder / "bad.onnx"
        self._next = folder / "next.onnx"

    def run(self) -> Blame:
        if not self._fails(None):
            return self._result(None, None, "", self._verdicts[None], bad=False)
        if self._fails(0):
            return self._blame_pass()
        rewrites = self._record.facts.get("rewrites")
        if rewrites is None:  # the process died and took the number with it
            good, bad = gallop(0, self._fails)
        else:
            # A run that raised was about to make one more than it had made.
            good, bad = 0, rewrites + (self._verdicts[None].kind == "exception")
        return self._blame_rewrite(bisect(good, bad, self._fails))

    def _fails(self, limit: int | None) -> bool:
        name = "all rewrites" if limit is None else f"{limit} rewrites"
        return not self._judge(name, limit, self._recipe).passed

    def _judge(self, name: str, limit: int | None, recipe: Recipe) -> Verdict:
        def run() -> Verdict:
            made = self._make(limit, recipe)
            if recipe is self._recipe:
                self._attempts[limit] = made
            if limit is None and made.rewrites is not None:
                self._record.facts["rewrites"] = made.rewrites
            if self._next.exists():
                os.replace(self._next, self.good if made.verdict.passed else self.bad)
            elif not made.verdict.passed:
                self.bad.unlink(missing_ok=True)
            return made.verdict

        verdict = self._record.check(name, run)
        self._verdicts[limit] = verdict
        self._report(name, verdict)
        return verdict

    def _make(self, limit: int | None, recipe: Recipe) -> Attempt:
        try:
            return self._workplace.call(attempt, recipe, self._check, limit, self._next)
        except ExecutionError as error:
            return Attempt(verdict_of(error))

    def _blame_rewrite(self, number: int) -> Blame:
        for limit in (number - 1, number):
            if limit not in self._attempts:  # known from the record of an earlier search
                self._attempts[limit] = self._make(limit, self._recipe)
                if self._next.exists():
                    os.replace(self._next, self.bad if limit == number else self.good)
        made = self._attempts[number]
        entry = made.last if made.rewrites == number else None
        name = entry.pass_name if entry is not None else ""
        return self._result(number, entry, self._text_of(name), made.verdict)

    def _text_of(self, pass_name: str) -> str:
        """Return the text of the pass of that name, with its options."""
        for pass_ in self._recipe.passes:
            for one in getattr(pass_, "passes", (pass_,)):
                if one.name == pass_name:
                    return pipeline.format_pass(one)
        return self._recipe.text

    def _blame_pass(self) -> Blame:
        """Find the pass that breaks the model although no rewrite is made."""
        passes = self._recipe.passes

        def fails(count: int) -> bool:
            recipe = dataclasses.replace(self._recipe, passes=passes[:count])
            return not self._judge(f"no rewrites, {count} passes", 0, recipe).passed

        if fails(0):
            raise ValidationError(
                "original-fails",
                f"the original does not pass the check: {self._verdicts[0]}",
                hint="Look at the check, or allow a larger error.",
            )
        count = bisect(0, len(passes), fails)
        recipe = dataclasses.replace(self._recipe, passes=passes[:count])
        verdict = self._judge(f"no rewrites, {count} passes", 0, recipe)
        return self._result(None, None, pipeline.format_pass(passes[count - 1]), verdict)

    def _result(
        self,
        number: int | None,
        entry: Application | None,
        pass_text: str,
        verdict: Verdict,
        *,
        bad: bool = True,
    ) -> Blame:
        return Blame(
            number,
            entry,
            pass_text,
            verdict,
            self._record.facts.get("rewrites"),
            self._record.checks,
            self.good if self.good.exists() else None,
            self.bad if bad and self.bad.exists() else None,
        )

"""Whether a model fails, and whether a smaller one fails the same way."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt import model_io
from graphopt.debug.case import Case
from graphopt.debug.checks import CommandCheck, NumericCheck, Verdict, verdict_of
from graphopt.debug.isolated import Workplace
from graphopt.debug.recipe import Recipe, attempt
from graphopt.errors import ExecutionError, GraphoptError
from graphopt.model_io.staging import scratch_folder
from graphopt.runtime import Runtime

__all__ = ["Failure", "judge", "save_case"]


def judge(
    runtime: Runtime,
    recipe: Recipe,
    how: dict[str, Any] | CommandCheck,
    output: pathlib.Path,
    must_run: bool = True,
) -> Verdict:
    """Return whether the run ``recipe`` fails, and how.

    Args:
        runtime: Where models are run.
        recipe: The run; its model is its own reference.
        how: Options of ``NumericCheck.of``, or a command.
        output: Where the result of the run is written.
        must_run: Whether a model that does not run itself proves nothing; not where that is
            the failure, which a command sees.

    Returns:
        ``Verdict("invalid")`` where the model itself does not run, though it must.
    """
    try:
        if isinstance(how, CommandCheck) and not must_run:
            return attempt(runtime, recipe, how, None, output).verdict
        samples = recipe.samples()
        assert samples is not None
        options = {} if isinstance(how, CommandCheck) else how
        check = NumericCheck.of(recipe.model, samples, runtime, **options)
        chosen = how if isinstance(how, CommandCheck) else check
        return attempt(runtime, recipe, chosen, None, output).verdict
    except GraphoptError as error:
        return Verdict("invalid", error.message)


class Failure:
    """Asks whether a smaller case fails the same way; answers are remembered.

    Args:
        recipe: The run; model and samples are replaced by those of a case.
        how: See ``judge``.
        workplace: Where cases are tried.
        wanted: How the original fails.
        report: Called with every case that fails the same way.
        must_run: See ``judge``.
    """

    def __init__(
        self,
        recipe: Recipe,
        how: dict[str, Any] | CommandCheck,
        workplace: Workplace,
        wanted: Verdict,
        *,
        report: Callable[[Case], None] = lambda case: None,
        must_run: bool = True,
    ) -> None:
        self.recipe = recipe
        self.tries = 0
        self._how = how
        self._workplace = workplace
        self._wanted = wanted
        self._report = report
        self._must_run = must_run

    def __call__(self, case: Case | None) -> bool:
        """Return whether ``case`` fails as the original does; ``None`` does not."""
        if case is None:
            return False
        fails = self.same(self.verdict(case))
        if fails:
            self._report(case)
        return fails

    def verdict(self, case: Case) -> Verdict:
        """Return what the check says about ``case``."""
        self.tries += 1
        with scratch_folder() as folder:
            try:
                recipe = save_case(case, self.recipe, folder)
            except (GraphoptError, ValueError) as error:  # onnx_ir cannot write it
                return Verdict("invalid", str(error))
            try:
                return self._workplace.call(
                    judge, recipe, self._how, folder / "result.onnx", self._must_run
                )
            except ExecutionError as error:
                return verdict_of(error)

    def same(self, verdict: Verdict) -> bool:
        """Whether ``verdict`` is of the wanted kind, and of the same exception."""
        if verdict.kind != self._wanted.kind:
            return False
        if verdict.kind != "exception":
            return True
        return _exception(verdict) == _exception(self._wanted)


def _exception(verdict: Verdict) -> str:
    """Return what raised what: a PassError quotes the exception that it wraps."""
    text = verdict.detail
    for before in (" failed with ",):
        text = text.partition(before)[2] or text
    return text.partition(":")[0]


def save_case(case: Case, recipe: Recipe, folder: pathlib.Path) -> Recipe:
    """Write ``case`` to ``model.onnx`` and ``samples/`` in ``folder``; return its recipe."""
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    for old in samples.iterdir():
        old.unlink()
    model_io.save(case.model, folder / "model.onnx")
    for index, feed in enumerate(case.feeds):
        np.savez(samples / f"{index:03}.npz", **feed)  # type: ignore[arg-type]  # no input has an option's name
    data = samples if any(case.feeds) else None
    return dataclasses.replace(recipe, model=folder / "model.onnx", data=data, batch_size=None)

"""How far the answers of the model are from the original's after every pass."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from graphopt.answers import answers, differences, first_feeds, tolerance_for
from graphopt.errors import ExecutionError, ValidationError
from graphopt.manager import Step
from graphopt.passbase import Pass
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Samples

__all__ = ["ErrorAfter", "Errors"]


@dataclasses.dataclass(frozen=True)
class ErrorAfter:
    """How far the answers are from the original's.

    Attributes:
        output: The output that is furthest off, in multiples of the tolerance.
        max_abs: Its largest absolute difference.
        sqnr_db: Its energy over that of the difference, in dB; infinite where they are equal.
        needed: The tolerance that would have passed, as a multiple of what is allowed.
        fault: Why it cannot be measured (the model does not run, an output is missing); empty
            where it can.
    """

    output: str
    max_abs: float
    sqnr_db: float
    needed: float
    fault: str = ""


class Errors:
    """Instrument: keeps an ``ErrorAfter`` of every pass of the latest run, in order.

    Args:
        original: The model before the first pass; run at once, without optimization.
        samples: Where the feeds come from.
        runtime: Where models are run.
        count: Feeds to run; the first ones.

    Raises:
        ValidationError: The original cannot be run.
    """

    def __init__(
        self, original: Model, samples: Samples, runtime: Runtime, count: int = 3
    ) -> None:
        self.measurements: list[ErrorAfter] = []
        self._runtime = runtime
        self._feeds = first_feeds(samples, count)
        self._tolerance = tolerance_for(original)
        try:
            self._reference = answers(original, self._feeds, runtime)
        except ExecutionError as error:
            raise ValidationError("not-runnable", f"the original: {error.message}") from error
        self._latest = self.measure(original)

    def __call__(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        """Measure the model if ``previous`` changed it."""
        del next_
        if previous is None:
            self.measurements = []
            self._latest = self.measure(model)
            return
        if previous.result.modified:
            self._latest = self.measure(model)
        self.measurements.append(self._latest)

    def measure(self, model: Model) -> ErrorAfter:
        """Return how far the answers of ``model`` are from the original's."""
        try:
            found = answers(model, self._feeds, self._runtime)
        except ExecutionError as error:
            return ErrorAfter("", float("nan"), float("nan"), float("inf"), error.message)
        measured = differences(self._reference, found, self._tolerance)
        if isinstance(measured, str):
            return ErrorAfter("", float("nan"), float("nan"), float("inf"), measured)
        name = max(measured, key=lambda output: measured[output].needed, default="")
        if not name:
            return ErrorAfter("", 0.0, float("inf"), 0.0, "the model has no output")
        worst = measured[name]
        return ErrorAfter(name, worst.max_abs, worst.sqnr_db, worst.needed)

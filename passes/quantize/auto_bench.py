"""Measures the choices of a search for precisions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.calibration.ranges import RangeMethod
from graphopt.errors import ExecutionError

from .auto_choice import Choice, Evaluation, Speed

if TYPE_CHECKING:
    from graphopt.passbase import Context
    from graphopt.samples import Samples

    from .auto_builder import AutoBuilder
    from .auto_judge import Judge

__all__ = ["AutoBench"]

logger = logging.getLogger(__name__)

METHODS: tuple[RangeMethod, ...] = ("minmax", "average", "percentile", "entropy", "mse")


class AutoBench:
    """Measures; see ``Measure``.

    Args:
        builder: Builds the choices.
        judge: What quality is told by.
        target: What is to be kept.
        context: What the run shares.
        calibration: Samples; latency is measured on the first.

    Attributes:
        original_ms: Latency of the original when it was last measured.
    """

    def __init__(
        self,
        builder: AutoBuilder,
        judge: Judge,
        target: float,
        context: Context,
        calibration: Samples,
    ) -> None:
        self._builder = builder
        self._judge = judge
        self._target = target
        self._context = context
        self._calibration = calibration
        self.original_ms: float | None = None

    def choose_method(self) -> None:
        """Take the range method that does the least to the outputs, all in integer.

        All of them have their ranges from the same statistics: a method costs some runs. Which
        is best depends on the model, and the error of the single tensors does not tell.
        """
        noise: dict[RangeMethod, float] = {}
        task = self._context.progress.track("precisions: ranges", len(METHODS))
        for method in METHODS:
            self._builder.use_method(method)
            noise[method] = self._judge.noise(self._builder.build(Choice("static")))
            task.advance()
        task.close()
        self._builder.use_method(min(METHODS, key=lambda method: noise[method]))

    def harm(self, scheme: str, name: str) -> float:
        """Return what one operator alone does to the outputs, over the work that it saves."""
        builder = self._builder
        others = (other for other in builder.operators([scheme])[scheme] if other != name)
        noise = self._judge.noise(builder.build(Choice(scheme, tuple(sorted(others)))))
        return noise / builder.work(name)

    def quality(self, choice: Choice) -> Evaluation:
        """Return quality and size of a choice."""
        model = self._builder.build(choice)
        # What is all in integer is shown next to the best, whatever it is worth.
        found = self._judge.quality(model, self._target, is_whole=not choice.kept)
        size = sum(t.nbytes for g in model.graphs() for t in g.initializers.tensors())
        is_partial = found.samples < self._judge.evidence.samples
        return Evaluation(choice, found.value, found.proven, size, is_partial=is_partial)

    def speeds(self, choices: Sequence[Choice]) -> list[Speed | None]:
        """Return how long choices take, all measured in turn with the original.

        Where onnxruntime dies of that, each by itself: together they take more memory.
        ``None``: it does not bear that either.
        """
        try:
            return self._timed(choices)
        except ExecutionError as error:
            if len(choices) > 1:
                return [speed for choice in choices for speed in self.speeds([choice])]
            (choice,) = choices
            logger.warning(
                "quantize-auto: how fast %s is with %d operators in float is not known: %s",
                choice.scheme,
                len(choice.kept),
                error.message,
            )
            return [None]

    def _timed(self, choices: Sequence[Choice]) -> list[Speed | None]:
        feed = next(iter(self._calibration.feeds()))
        models = [self._builder.original, *map(self._builder.build, choices)]
        first, *measured = self._context.runtime.latency(models, feed)
        self.original_ms = first.median_ms
        return [Speed(found.ratio, found.median_ms) for found in measured]

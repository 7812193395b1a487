"""How fast the model is next to the original after every pass."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.errors import ExecutionError
from graphopt.manager import Step
from graphopt.passbase import Pass
from graphopt.runtime import Latency, Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Feed

__all__ = ["LatencyAfter"]

MAX_SECONDS = 4.0
"""Time to stop measuring after: a pipeline has a dozen passes that change something."""


class LatencyAfter:
    """Instrument: keeps a ``Latency`` of every pass of the latest run, in order.

    Every model is measured in turn with the original, so that the ratios of different passes
    compare. A pass that changed nothing has the latency of the one before; ``None`` stands for
    what cannot be measured.

    Args:
        original: The model before the first pass.
        feed: What it is run on.
        runtime: Where models are run.
        repetitions: Rounds of a measurement, at least.
    """

    def __init__(
        self, original: Model, feed: Feed, runtime: Runtime, repetitions: int = 10
    ) -> None:
        self.measurements: list[Latency | None] = []
        self._original = original
        self._feed = feed
        self._runtime = runtime
        self._repetitions = repetitions
        self._latest: Latency | None = None

    def __call__(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        """Measure the model if ``previous`` changed it."""
        if previous is None:
            self.measurements = []
            self._latest = None
            return
        if previous.result.modified:
            self._latest = self._measure(model)
        self.measurements.append(self._latest)
        del next_

    def _measure(self, model: ir.Model) -> Latency | None:
        try:
            _, found = self._runtime.latency(
                [self._original, model],
                self._feed,
                repetitions=self._repetitions,
                max_seconds=MAX_SECONDS,
            )
        except ExecutionError:
            return None  # what is wrong with it, validation will say
        return found

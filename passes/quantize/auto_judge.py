"""Judges models against the original, on samples that its answers are known for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.errors import ExecutionError
from graphopt.quality import Quality, QualityMeter
from graphopt.samples.replay import Replay

if TYPE_CHECKING:
    import pathlib

    from graphopt.passbase import Progress
    from graphopt.runtime import Runtime, Session
    from graphopt.samples import Samples
    from graphopt.scores import UserMetric

__all__ = ["Judge"]

_GLANCE = 8
"""Samples that one operator's harm is looked at on: it is compared, not judged."""


class Judge:
    """Runs the original once on all samples; its answers are kept in a temporary file.

    Args:
        original: The model that quality is a share of.
        samples: What models are run on.
        judges: Whether the sample of an index is held out to judge on.
        metric: What quality is measured in.
        runtime: Where models are run.
        progress: Told about the original's run.

    Attributes:
        samples: How many there are.
    """

    def __init__(
        self,
        original: ir.Model | pathlib.Path,
        samples: Samples,
        judges: Callable[[int], bool],
        metric: str | UserMetric,
        runtime: Runtime,
        progress: Progress,
    ) -> None:
        self._samples = samples
        self._judges = judges
        self._metric = metric
        self._runtime = runtime
        task = progress.track("running the original", samples.total)
        with _as_written(original, runtime) as session:

            def answers() -> Iterator[dict[str, Any]]:
                for feed in samples.feeds():
                    yield session.run(feed)
                    task.advance()

            self._answers = Replay(answers())
            self.samples = sum(1 for _ in self._answers())
        task.close()
        self._is_alone = judges(0)

    def quality(self, model: ir.Model | pathlib.Path, target: float = math.inf) -> Quality:
        """Return the quality of a model, as the samples that are held out show it.

        Where it reaches the target the others are run as well: it has to hold on all of them
        together, and the quality is not above that.

        Args:
            model: The model.
            target: What there is to reach.

        Raises:
            MetricError: The user's metric raises, or returns no number.
        """
        meter = QualityMeter(self._metric)
        try:
            with self._runtime.session(model) as session:
                self._run(session, meter, judges=True)
                found = meter.result()
                if found.proven < target:
                    return found
                self._run(session, meter, judges=False)
        except ExecutionError:
            # What onnxruntime does not run has no quality.
            return Quality(-math.inf, -math.inf, 0)
        value = meter.result().value
        if value >= found.proven:
            return found
        return dataclasses.replace(found, bound=value, is_flawless=False)

    def noise(self, model: ir.Model) -> float:
        """Return the energy of the error over that of the outputs, the worst of them.

        On the first of the samples that are not held out: what this decides is judged on
        those that are.
        """
        meter = QualityMeter("sqnr")
        try:
            with self._runtime.session(model) as session:
                self._run(session, meter, judges=self._is_alone, count=_GLANCE)
        except ExecutionError:
            return math.inf
        return float(10 ** (-meter.result().value / 10))

    def _run(
        self, session: Session, meter: QualityMeter, *, judges: bool, count: int | None = None
    ) -> None:
        pairs = zip(self._samples.feeds(), self._answers(), strict=True)
        chosen = (
            (index, feed, expected)
            for index, (feed, expected) in enumerate(pairs)
            if self._judges(index) == judges
        )
        for index, feed, expected in itertools.islice(chosen, count):
            meter.add(index, feed, expected, session.run(feed))


def _as_written(original: ir.Model | pathlib.Path, runtime: Runtime) -> Session:
    """Load the original without onnxruntime's optimizations, as validation does; if it can."""
    try:
        return runtime.session(original, optimize=False)
    except ExecutionError:
        return runtime.session(original)

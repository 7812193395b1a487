"""Judges models against the original, on samples that its answers are known for."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.calibration.store import add_to_digest
from graphopt.errors import ExecutionError
from graphopt.quality import Quality, QualityMeter
from graphopt.samples.replay import Replay

if TYPE_CHECKING:
    import pathlib

    from graphopt.passbase import Progress
    from graphopt.runtime import Runtime, Session
    from graphopt.samples import Feed, Samples
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
        evidence: What the samples that are held out show of the original itself.
        digest: Changes when a sample does, or what the original makes of it.
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
        digest = hashlib.blake2b(digest_size=16)
        with _as_written(original, runtime) as session:

            def answers() -> Iterator[dict[str, Any]]:
                for feed in samples.feeds():
                    found = session.run(feed)
                    add_to_digest(digest, feed)
                    add_to_digest(digest, found)
                    yield found
                    task.advance()

            self._answers = Replay(answers())
            self.samples = sum(1 for _ in self._answers())
        task.close()
        self.digest = digest.hexdigest()
        self._is_alone = judges(0)
        # The best that there is: the answers of the original, in the order of the runs.
        self._best = QualityMeter(metric)
        self._take_in(self._best, judges=True)
        self.evidence = self._best.result()
        self._take_in(self._best, judges=False)

    def quality(
        self, model: ir.Model, target: float = math.inf, *, is_whole: bool = False
    ) -> Quality:
        """Return the quality of a model, as the samples that are held out show it.

        Ends as soon as the target is out of reach, if none of what is left is answered better
        than by the original: the figure is then that of the samples so far. Where it is
        reached the other samples are run as well: it has to hold on all of them together, and
        the quality is not above that.

        Args:
            model: The model.
            target: What there is to reach.
            is_whole: Whether all the samples that are held out are run in any case.

        Raises:
            MetricError: The user's metric raises, or returns no number.
        """
        meter = QualityMeter(self._metric)
        try:
            with self._runtime.session(model) as session:
                limit = -math.inf if is_whole else target
                most = self._run(session, meter, self.evidence.samples, limit, judges=True)
                found = meter.result()
                shown = min(found.proven, most.proven)
                if shown < target:
                    return dataclasses.replace(found, bound=shown, is_flawless=False)
                most = self._run(session, meter, self.samples, target, judges=False)
        except ExecutionError:
            # What onnxruntime does not run has no quality.
            return Quality(-math.inf, -math.inf, 0)
        value = min(meter.result().value, most.value)
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
                chosen = self._chosen(judges=self._is_alone)
                for index, feed, expected in itertools.islice(chosen, _GLANCE):
                    meter.add(index, feed, expected, session.run(feed))
        except ExecutionError:
            return math.inf
        return float(10 ** (-meter.result().value / 10))

    def _take_in(self, meter: QualityMeter, *, judges: bool) -> None:
        for index, feed, expected in self._chosen(judges=judges):
            meter.add(index, feed, expected, expected)

    def _run(
        self,
        session: Session,
        meter: QualityMeter,
        total: int,
        target: float,
        *,
        judges: bool,
    ) -> Quality:
        """Run samples as long as ``target`` can be reached with ``total`` of them.

        It is held against what they show, or, for those that calibrate, their figure.

        Returns:
            What they show at best.
        """
        most = self.evidence
        for index, feed, expected in self._chosen(judges=judges):
            meter.add(index, feed, expected, session.run(feed))
            most = meter.ceiling(self._best, total)
            if (most.proven if judges else most.value) < target:
                break
        return most

    def _chosen(self, *, judges: bool) -> Iterator[tuple[int, Feed, dict[str, Any]]]:
        pairs = zip(self._samples.feeds(), self._answers(), strict=True)
        return (
            (index, feed, expected)
            for index, (feed, expected) in enumerate(pairs)
            if self._judges(index) == judges
        )


def _as_written(original: ir.Model | pathlib.Path, runtime: Runtime) -> Session:
    """Load the original without onnxruntime's optimizations, as validation does; if it can."""
    try:
        return runtime.session(original, optimize=False)
    except ExecutionError:
        return runtime.session(original)

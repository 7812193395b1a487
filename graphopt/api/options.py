"""How ``optimize`` and ``validate`` go about their work."""

from __future__ import annotations

import dataclasses
import math

from graphopt import model_io
from graphopt.errors import PipelineError
from graphopt.passbase import Target
from graphopt.scores import Metric, UserMetric, metric_of
from graphopt.validation import Tolerance

__all__ = ["Options"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How ``optimize`` goes about its work; what it does is the pipeline's matter.

    Attributes:
        emit: Which operators may be emitted.
        quality: The target: what a lossy pipeline must keep by ``metric``: in (0, 1], or dB
            for ``sqnr``. It makes a preset that quantizes, or no pipeline at all, choose the
            precision of every operator. ``None``: the loss is reported and not judged.
        metric: ``"cosine"``, ``"top1"`` or ``"sqnr"``; ``"module:function"``, or a function
            (see ``graphopt.scores``).
        tolerance: What ``exact`` and ``close`` pipelines may differ by; ``None``: their own.
        allow_slower: Keep steps that make the model slower (smaller may be what is wanted).
        measure: Measure latency. Without it nothing is said about speed.
        external_data: Whether weights go to a file of their own.
        seed: Seed of everything random.
        limit: Make at most this many rewrites (for bisecting).
        safe: Check the model after every rewrite; undo and name the ones that break it.
        provenance: Write into the model which rewrites made each node and weight (see
            ``graphopt.instruments.provenance``).
        measure_each: Measure latency after each pass that changed the model too, for the
            report.
    """

    emit: Target = Target.STANDARD
    quality: float | None = None
    metric: Metric = "cosine"
    tolerance: Tolerance | None = None
    allow_slower: bool = False
    measure: bool = True
    external_data: model_io.ExternalData = "auto"
    seed: int = 0
    limit: int | None = None
    safe: bool = False
    provenance: bool = False
    measure_each: bool = False

    @property
    def judged_by(self) -> tuple[str, float | None]:
        """Metric and target where built-in metrics only can be taken: a user's is not."""
        metric = metric_of(self.metric)
        return (metric, self.quality) if isinstance(metric, str) else ("cosine", None)

    def __post_init__(self) -> None:
        """Check what can be wrong.

        Raises:
            PipelineError: ``quality`` is a share that nothing can reach.
            MetricError: There is no such metric, or it cannot be used.
        """
        metric = metric_of(self.metric)
        if self.quality is None:
            return
        least, most = (0.0, math.inf) if metric == "sqnr" else (0.0, 1.0)
        if isinstance(metric, UserMetric) and not metric.is_share:
            least, most = -math.inf, math.inf
        if not (least < self.quality <= most and math.isfinite(self.quality)):
            name = metric if isinstance(metric, str) else metric.name
            raise PipelineError(
                "target",
                f"a target of {self.quality} for {name} cannot be reached.",
                hint="Shares of the original are in (0, 1]; sqnr is in dB, above 0.",
            )

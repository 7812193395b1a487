"""Choose the precision of every operator: the fastest that keeps a share of the quality.

Before -> after: as ``smooth-quant``, ``gptq`` and ``quantize-static`` or ``quantize-dynamic``,
for the operators chosen; nothing, where no choice is faster than the original.

The choice is made by running the model, not by a model of it: quality on samples that ranges
were not taken from (one of every two), latency next to the original's in onnxruntime. What
the target is held against is not the figure but the bound that the number of these samples
shows with 95 % confidence (``graphopt.quality``). Ranges come by the method that, with all
in integer, does the least to the outputs. Where not
everything can be integer, operators are ranked by what each alone does to the outputs for the
work it saves, on samples that do not judge; bisection finds how many at the front of the
ranking must stay in float; then operators are taken back, many at a time. What is found first
is usable, and what follows makes it better: the search ends when nothing is left, when
``budget_s`` is over or at Ctrl-C, and goes on from the journal in the next run.

Preconditions, per operator:
    1. ``quantize-static`` or ``quantize-dynamic`` can make it an integer operator.
    2. The target holds with it in integer.
    3. The model is faster with it than the original, by 3 % at least.

Numerics: lossy, down to ``target``.
Scope: as the passes it uses.   Leaves alone: what costs more than the target allows, with the
reason; everything where integers do not pay.
Reference: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and
Empirical Evaluation", arXiv 2004.09602, section 6.2 (partial quantization).
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from typing import ClassVar

import onnx_ir as ir

from graphopt.calibration.store import fingerprint
from graphopt.errors import PipelineError
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.quality import Quality
from graphopt.report.search import SearchReport
from graphopt.scores import UserMetric, metric_of

from .auto_bench import AutoBench
from .auto_builder import AutoBuilder
from .auto_choice import Choice, Evaluation, Outcome, Speed
from .auto_held_out import HeldOut
from .auto_journal import Journal
from .auto_judge import Judge
from .auto_operators import Scheme
from .auto_report import report_of
from .auto_search import Search

__all__ = ["QuantizeAuto"]

logger = logging.getLogger(__name__)

_ARTIFACT = "quantize-auto"
_TARGET = 0.99
"""What is kept where nobody said: 1 % is what one gives for twice the speed, as a rule."""


@dataclasses.dataclass(frozen=True)
class QuantizeAuto(Pass):
    """Choose precisions by measurement; see the module docstring for the contract.

    Attributes:
        target: Share of the original's quality to keep; with ``metric=sqnr`` decibels; by
            default what was asked for with ``--target``, or 0.99.
        metric: What quality is: the cosine of the outputs with the original's, the share of
            rows with the same largest element (``top1``), the signal-to-noise ratio
            (``sqnr``), where the worst output counts; or ``module:function``
            (``graphopt.scores``). Empty: that of ``--metric``.
        schemes: The ways of quantizing to try.
        recover: Smooth activations and round weights by their products first.
        budget_s: Seconds after which no further evaluation is started; 0: no limit.
        journal: File that remembers evaluations; empty: one beside the output, which goes
            when the search has come to its end.
    """

    name: ClassVar[str] = "quantize-auto"
    promise: ClassVar[Promise] = Promise.LOSSY
    needs_samples: ClassVar[bool] = True

    target: float | None = None
    metric: str = ""
    schemes: tuple[Scheme, ...] = ("static", "dynamic")
    recover: bool = True
    budget_s: float = 0.0
    journal: str = ""

    def __post_init__(self) -> None:
        if self.target is not None and self.target <= 0:
            raise ValueError(f"target must be above 0, got {self.target:g}")
        if self.metric in ("cosine", "top1") and (self.target or 0) > 1:
            raise ValueError(f"target must be in (0, 1], got {self.target:g}")
        unknown = set(self.schemes) - {"static", "dynamic"}
        if unknown or not self.schemes:
            raise ValueError("schemes are static and dynamic, one of them at least")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Search, then carry out the best choice on the model."""
        start = time.monotonic()
        metric = metric_of(self.metric or context.metric)
        target, name = self._target(metric, context), self._name(metric)
        samples = context.required_samples(self)
        held_out = HeldOut(samples)
        runtime, progress = context.runtime, context.progress
        original = context.original or model
        judge = Judge(original, samples, held_out.judges, metric, runtime, progress)
        evidence = judge.evidence
        builder = AutoBuilder(model, context, held_out.calibration, recover=self.recover)
        bench = AutoBench(builder, judge, target, context, held_out.calibration)
        operators = builder.operators(self.schemes)
        if operators.get("static"):
            bench.choose_method()
        journal = Journal(
            bench,
            pathlib.Path(self.journal) if self.journal else context.journal,
            repr(
                (
                    fingerprint(model),
                    judge.digest,
                    runtime.version,
                    name,
                    "" if isinstance(metric, str) else metric.version(),
                    target,
                    self.recover,
                    builder.method,
                )
            ),
            is_strict=bool(self.journal),
        )
        search = Search(
            operators,
            target,
            journal,
            _original(model, evidence),
            go_on=lambda: not self.budget_s or time.monotonic() - start < self.budget_s,
            progress=progress,
        )
        outcome = search.run()
        if outcome.is_interrupted:
            progress.track("interrupted: finishing the best so far (again: nothing)")
        report = report_of(
            outcome,
            builder,
            bench.original_ms,
            name,
            target,
            evidence,
            held_out.calibrating(judge.samples),
            [*held_out.notes(evidence, target), *_ranges(outcome, builder), *journal.notes()],
        )
        return self._carry_out(outcome.best, builder, report, model, context)

    def _carry_out(
        self,
        best: Evaluation,
        builder: AutoBuilder,
        report: SearchReport,
        model: ir.Model,
        context: Context,
    ) -> PassResult:
        context.artifacts[_ARTIFACT] = report
        rewriter = context.rewriter(model, self)
        for one in report.operators:
            if one.precision == "float":
                rewriter.skip(self.name, one.operator, one.reason)
        if not best.choice.scheme or best.speed is None:
            summary = "the original is kept: nothing that keeps the quality is faster"
            return PassResult(model, False, summary, report.to_json())
        measured = builder.context_for(context.ledger)
        measured.guards = context.guards
        measured.observers = context.observers
        modified = builder.run_passes(model, builder.passes(best.choice), measured)
        summary = (
            f"{best.choice.scheme}, {len(best.choice.kept)} operators left in float: "
            f"{report.metric} {best.quality:.5f}, {1 / best.speed.ratio:.2f}x"
        )
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, modified, summary, report.to_json())

    def _target(self, metric: str | UserMetric, context: Context) -> float:
        target = self.target if self.target is not None else context.quality
        if target is None and metric == "sqnr":
            raise PipelineError(
                "target", "quantize-auto needs a target for sqnr.", hint="E.g. target=20 (dB)."
            )
        target = _TARGET if target is None else target
        if metric in ("cosine", "top1") and target > 1:
            raise PipelineError(
                "target", f"a target of {target:g} for {self._name(metric)} cannot be reached."
            )
        return target

    @staticmethod
    def _name(metric: str | UserMetric) -> str:
        return metric if isinstance(metric, str) else metric.name


def _ranges(outcome: Outcome, builder: AutoBuilder) -> list[str]:
    if outcome.best.choice.scheme != "static" or builder.method == "minmax":
        return []
    return [
        f"ranges by {builder.method}: all in integer it does less to the outputs than minmax"
    ]


def _original(model: ir.Model, evidence: Quality) -> Evaluation:
    size = sum(t.nbytes for g in model.graphs() for t in g.initializers.tensors())
    # Its own quality is what it is, however few the samples.
    return Evaluation(Choice(), evidence.value, evidence.value, size, Speed(1.0, float("nan")))

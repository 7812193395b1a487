"""Choose the precision of every operator: the fastest that keeps a share of the quality.

Before -> after: as ``smooth-quant``, ``gptq`` and ``quantize-static`` or ``quantize-dynamic``,
for the operators chosen; nothing, where no choice is faster than the original.

The choice is made by running the model, not by a model of it: quality on samples that ranges
were not taken from, latency next to the original's in onnxruntime. Operators are ranked by the
estimated error of their product over the work it saves; bisection finds how many at the front
of the ranking must stay in float; then operators are taken back one by one. What is found
first is usable, and what follows makes it better: the search ends when nothing is left, when
``budget_s`` is over or at Ctrl-C, and goes on from ``journal`` in the next run.

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
import time
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.samples import Feed, Samples

from .auto_bench import AutoBench, Metric, Scheme
from .auto_journal import Journal, fingerprint
from .auto_search import Evaluation, Outcome, Search, pareto_front

__all__ = ["QuantizeAuto"]

logger = logging.getLogger(__name__)

_ARTIFACT = "quantize-auto"


@dataclasses.dataclass(frozen=True)
class QuantizeAuto(Pass):
    """Choose precisions by measurement; see the module docstring for the contract.

    Attributes:
        target: Share of the original's quality to keep; with ``metric=sqnr`` decibels.
        metric: What quality is: the cosine of the outputs with the original's, the share of
            rows with the same largest element, or the signal-to-noise ratio. The worst output
            counts.
        schemes: The ways of quantizing to try.
        recover: Smooth activations and round weights by their products first.
        budget_s: Seconds after which no further evaluation is started; 0: no limit.
        journal: File that remembers evaluations; empty: none.
    """

    name: ClassVar[str] = "quantize-auto"
    promise: ClassVar[Promise] = Promise.LOSSY
    needs_samples: ClassVar[bool] = True

    target: float = 0.99
    metric: Metric = "cosine"
    schemes: tuple[Scheme, ...] = ("static", "dynamic")
    recover: bool = True
    budget_s: float = 0.0
    journal: str = ""

    def __post_init__(self) -> None:
        if self.metric != "sqnr" and not 0 < self.target <= 1:
            raise ValueError(f"target must be in (0, 1], got {self.target:g}")
        unknown = set(self.schemes) - {"static", "dynamic"}
        if unknown or not self.schemes:
            raise ValueError("schemes are static and dynamic, one of them at least")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Search, then carry out the best choice on the model."""
        start = time.monotonic()
        samples = context.required_samples(self)
        calibration, held_out = _part(samples, judges=False), _part(samples, judges=True)
        bench = AutoBench(
            model, context, calibration, held_out, self.metric, recover=self.recover
        )
        key = fingerprint(model, samples.describe(), self.metric, self.recover)
        search = Search(
            bench.rankings(self.schemes),
            self.target,
            Journal(bench, self.journal, key),
            sum(t.nbytes for g in model.graphs() for t in g.initializers.tensors()),
            go_on=lambda: not self.budget_s or time.monotonic() - start < self.budget_s,
        )
        outcome = search.run()
        best = outcome.best
        details = _details(outcome)
        context.artifacts[_ARTIFACT] = details
        self._explain(outcome, bench, model, context)
        if not best.choice.scheme:
            summary = "the original is kept: nothing that keeps the quality is faster"
            return PassResult(model, False, summary, details)
        measured = bench.context_for(context.ledger)
        measured.guards = context.guards
        measured.observers = context.observers
        modified = bench.run_passes(model, bench.passes(best.choice), measured)
        summary = (
            f"{best.choice.scheme}, {len(best.choice.kept)} operators left in float: "
            f"{self.metric} {best.quality:.5f}, {1 / (best.ratio or 1):.2f}x"
        )
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, modified, summary, details)

    def _explain(
        self, outcome: Outcome, bench: AutoBench, model: ir.Model, context: Context
    ) -> None:
        """Tell the ledger why operators stay in float."""
        rewriter = context.rewriter(model, self)
        decibels = bench.kept_db()
        best = outcome.best
        if best.choice.scheme:
            for name in best.choice.kept:
                kept = f"its product keeps {decibels[name]:.1f} dB"
                rewriter.skip(self.name, name, f"in integer the target is missed: {kept}")
            return
        full = [e for e in outcome.evaluations if e.choice.scheme and not e.choice.kept]
        reason = "no operator can be integer"
        if full:
            nearest = max(full, key=lambda e: e.quality)
            if nearest.ratio is not None:
                reason = f"integers are not faster here: {1 / nearest.ratio:.2f}x"
            else:
                reason = f"the quality would be {nearest.quality:.5f}, below {self.target:g}"
        for name in decibels:
            rewriter.skip(self.name, name, reason)


def _part(samples: Samples, *, judges: bool) -> Samples:
    """Return one of three feeds, which judge, or the other two, which calibrate.

    A single feed does both: there is nothing to hold out.
    """
    few = sum(1 for _ in zip(samples.feeds(), range(3), strict=False)) < 3

    def feeds() -> Iterator[Feed]:
        for index, feed in enumerate(samples.feeds()):
            if few or (index % 3 == 2) == judges:
                yield feed

    return Samples.from_feeds(feeds)


def _details(outcome: Outcome) -> dict[str, object]:
    def plain(found: Evaluation) -> dict[str, object]:
        return {
            "scheme": found.choice.scheme or "float",
            "kept": list(found.choice.kept),
            "quality": found.quality if np.isfinite(found.quality) else None,
            "size_bytes": found.size_bytes,
            "speedup": None if found.ratio is None else 1 / found.ratio,
        }

    return {
        "best": plain(outcome.best),
        "front": [plain(found) for found in pareto_front(outcome.evaluations)],
        "evaluations": len(outcome.evaluations),
        "is_complete": outcome.is_complete,
    }

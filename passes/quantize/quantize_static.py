"""Quantize weights to int8, and activations over ranges found by running samples (QDQ form).

Before -> after::

    y = Relu(Conv(x, W, B))   ->   y' = Q(Conv(DQ(Q(x)), DQ(W8), DQ(B32))),   y = DQ(y')
    y = MatMul(x, W)          ->   y  = MatMul(DQ(Q(x)), DQ(W8))
    z = Add(a, b)             ->   z' = Q(Add(DQ(a'), DQ(b'))),   z = DQ(z')

Q and DQ stand where onnxruntime fuses them to integer kernels, and nowhere else
(``graphopt.runtime.fusion_knowledge``): the Q saturates where a Relu or Clip in front of it
would, which goes; behind MatMul and Gemm stands a Q only if everything behind takes integers;
operators that move data
share the scale of their input; Add, Mul, Concat, pooling and the like run on integers between
others that do; biases are int32. Weights are symmetric int8, one scale an output channel;
activations asymmetric 8-bit. Tables that Gather looks up become int8 too, row by row, as in
``quantize-dynamic``.

With ``portable`` the layers whose sums saturate in 16 bits on CPUs without VNNI, found by
exact emulation on the samples, get weights of 7 bits, and they alone. With ``form=qoperator``
integer operators are written out (QLinearConv, ...) where the target has them. A model that
came quantized keeps its scales if ``read-qdq`` stands in front.

Preconditions, per operator:
    1. It is selected by ``include`` and ``exclude``, and with ``scope=half`` it is in the half
       of the operators with weights that lose the least: energy of the rounding error over
       energy, of its weight and of its input added up.
    2. It is in the main graph: activations inside subgraphs cannot be observed.
    3. onnxruntime has an integer kernel for it, its attributes and types; weight and bias are
       constant float32.
    4. The model imports opset 13 or later (one scale a channel).
    5. Its activations took finite values, and not only 0, on the samples.
    6. It has weights, or an input of it is integer anyway and something behind it takes
       integers.

Numerics: lossy. A weight is off by at most half a step, 1/254 of the largest in its channel;
an activation by half a step, 1/510 of its range, and by more where it leaves the range.
Scope: main graph.   Leaves alone: everything else, each with its reason.
Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 2;
https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from graphopt.calibration.collect import collect
from graphopt.calibration.ranges import RangeMethod
from graphopt.calibration.statistics import TensorStatistics
from graphopt.calibration.store import collect_saved
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason
from graphopt.rewriter import Rewriter

from .float_twin import publish_twin
from .linear import Lookup
from .qdq_form import QdqForm
from .qoperator_form import write_qoperators
from .selection import Scope, Selection
from .static_plan import StaticPlan
from .static_planner import StaticPlanner
from .table_form import quantize_table, read_table, row_scales
from .weights import WeightStore

__all__ = ["STATISTICS", "QuantizeStatic"]

logger = logging.getLogger(__name__)

STATISTICS = "quantize/statistics"
"""Artifact: name of a value -> statistics that were taken of this very model before."""


@dataclasses.dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Insert Q and DQ; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators to quantize (an operator type, or a glob for the name of
            a node or of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        scope: ``full``: every operator that can be; ``half``: the half of those with weights
            (rounded up) that lose the least.
        method: How the range of an activation is chosen (``graphopt.calibration.ranges``).
        percentile: Share of the values inside the range, in percent, for
            ``method=percentile``.
        form: ``qdq``, or ``qoperator`` where an integer operator exists.
        activations: Type of the integers of activations.
        weights: Type of the integers of weights; the zero point is in the middle.
        symmetric: Whether the zero point of activations is in the middle too, but behind Relu.
        per_channel: One scale an output channel; otherwise one a weight.
        portable: Whether layers that would saturate on CPUs without VNNI are protected.
        embeddings: Whether tables that Gather looks up are quantized.
        plan: File of a plan to carry out instead of making one; empty: none.
        statistics: File of calibration statistics (``.npz``): read where it is there, written
            where it is not; empty: none. One of another model or other samples is refused.
    """

    name: ClassVar[str] = "quantize-static"
    promise: ClassVar[Promise] = Promise.LOSSY
    needs_samples: ClassVar[bool] = True

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    scope: Scope = "full"
    method: RangeMethod = "minmax"
    percentile: float = 99.99
    form: Literal["qdq", "qoperator"] = "qdq"
    activations: Literal["uint8", "int8"] = "uint8"
    weights: Literal["int8", "uint8"] = "int8"
    symmetric: bool = False
    per_channel: bool = True
    portable: bool = False
    embeddings: bool = True
    plan: str = ""
    statistics: str = ""

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {self.percentile:g}")
        if self.weights == "uint8" and self.activations == "int8":
            raise ValueError("weights=uint8 has no kernel for activations=int8")
        if self.weights == "uint8" and self.portable:
            raise ValueError("portable is for weights=int8: uint8 does not saturate")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Make the plan, then carry it out, each operator in an application of its own."""
        rewriter = context.rewriter(model, self)
        planner = StaticPlanner(self, model, context)
        if self.plan:
            planner.replay(StaticPlan.load(self.plan))
        elif values := planner.values():
            planner.decide(self._statistics(model, values, context))
        plan = planner.plan()
        for node, reason in planner.reasons().items():
            rewriter.skip(self.name, node, reason)
        details: dict[str, Any] = {"plan": plan.to_json()}
        if self.portable:
            samples = context.required_samples(self)
            details["saturating"] = planner.protect(model, samples, context)
        publish_twin(context, model)
        count = self._apply(rewriter, planner)
        if self.form == "qoperator":
            write_qoperators(rewriter, context.target)
        total = sum(decision.precision == "int8" for decision in plan.operators.values())
        summary = f"quantized {count} operators, {total} of them by ranges"
        if self.portable:
            summary += f", {len(details['saturating'])} with 7 bits"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary, details)

    def _statistics(
        self, model: ir.Model, values: list[str], context: Context
    ) -> dict[str, TensorStatistics]:
        """Return statistics of ``values``: those that are known, and the others by running."""
        known = context.artifacts.get(STATISTICS, {})
        missing = [name for name in values if name not in known]
        found = {name: known[name] for name in values if name in known}
        if missing:
            samples = context.required_samples(self)
            if self.statistics:
                found |= collect_saved(self.statistics, model, missing, samples, context)
            else:
                found |= collect(model, missing, samples, context)
        return found

    def _apply(self, rewriter: Rewriter, planner: StaticPlanner) -> int:
        scales = planner.scales
        form = QdqForm(planner.activations(), scales.weight, scales.constant)
        regions = planner.regions
        # Decided before anything is edited, since edits put other values behind a unit.
        units = [(unit, regions.quantizes_output(unit)) for unit in regions.units.values()]
        count = 0
        for unit, quantize_output in units:
            rewrite = functools.partial(
                form.insert, unit=unit, quantize_output=quantize_output
            )
            count += rewriter.apply(self.name, unit.node, rewrite) is not None
        return count + self._quantize_tables(rewriter)

    def _quantize_tables(self, rewriter: Rewriter) -> int:
        selection = Selection(self.include, self.exclude)
        store = WeightStore()
        count = 0
        for node in list(ir.traversal.RecursiveGraphIterator(rewriter.model.graph)):
            if node.op_type != "Gather" or node.domain not in ("", "ai.onnx"):
                continue
            lookup = read_table(node)
            if isinstance(lookup, Lookup) and not self.embeddings:
                lookup = Reason("tables are left alone (embeddings=false)")
            elif isinstance(lookup, Lookup) and (refusal := selection.refusal(node)):
                lookup = Reason(refusal)
            if isinstance(lookup, Reason):
                rewriter.skip(self.name, node, lookup.text)
            elif lookup is not None:
                rewrite = functools.partial(
                    quantize_table, op=lookup, qparams=row_scales(lookup), store=store
                )
                count += rewriter.apply(self.name, node, rewrite) is not None
        return count

"""Builds and measures the choices of a search for precisions."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.collect import collect
from graphopt.calibration.qparams import Degenerate, IntType, from_range
from graphopt.calibration.ranges import noise_to_signal as activation_noise
from graphopt.calibration.statistics import TensorStatistics
from graphopt.ledger import Ledger
from graphopt.passbase import Context, Pass

from .auto_choice import Choice, Evaluation, Speed
from .auto_judge import Judge
from .gptq import Gptq
from .linear import Linear, finite_array, read_linear
from .quantize_dynamic import QuantizeDynamic
from .quantize_static import STATISTICS, QuantizeStatic
from .selection import label
from .smooth_quant import SmoothQuant
from .static_planner import StaticPlanner
from .table_form import read_table
from .weight_artifacts import weight_scales
from .weights import noise_to_signal

if TYPE_CHECKING:
    from graphopt.samples import Samples

__all__ = ["AutoBench", "Scheme"]

Scheme: TypeAlias = Literal["static", "dynamic"]

_BUILT = 4
"""Models that are kept after they were judged, since their speed may be asked for next."""


@dataclasses.dataclass(frozen=True)
class _Operator:
    """An operator with a weight, and what making it integer is expected to do.

    Attributes:
        name: Its label.
        op_type: Its type.
        noise: Energy of the error of its product over that of the product.
        work: Multiplications it takes, up to a factor that is the same for all.
        schemes: In which schemes it becomes integer.
    """

    name: str
    op_type: str
    noise: float
    work: float
    schemes: tuple[Scheme, ...]


class AutoBench:
    """Builds and measures; see ``Measure``.

    Args:
        model: The original; not edited.
        context: What the run shares. Its ledger gets nothing.
        calibration: Samples that ranges are taken from.
        judge: What quality is told by.
        target: What is to be kept.
        recover: Whether products are smoothed, and weights rounded for them.

    Attributes:
        original_ms: Latency of the original when it was last measured.
    """

    def __init__(
        self,
        model: ir.Model,
        context: Context,
        calibration: Samples,
        judge: Judge,
        target: float,
        *,
        recover: bool,
    ) -> None:
        self._original = model
        self._context = context
        self._calibration = calibration
        self._judge = judge
        self._target = target
        self._recover = recover
        self._smooth = model.clone()
        if recover:
            self.run_passes(self._smooth, [SmoothQuant()], self._private())
        self._statistics = self._observe()
        self._operators = self._list()
        self._rounded, self._scales = self._smooth, self._private()
        if recover:
            self._rounded = self._smooth.clone()
            self.run_passes(self._rounded, [Gptq()], self._scales)
        self._models: dict[Choice, ir.Model] = {}
        self.original_ms: float | None = None

    def operators(self, schemes: Sequence[str]) -> dict[str, list[str]]:
        """Return scheme -> the operators that can be integer in it."""
        return {
            scheme: [op.name for op in self._operators if scheme in op.schemes]
            for scheme in schemes
        }

    def harm(self, scheme: str, name: str) -> float:
        """Return what one operator alone does to the outputs, over the work that it saves."""
        others = (other for other in self.operators([scheme])[scheme] if other != name)
        noise = self._judge.noise(self._build(Choice(scheme, tuple(sorted(others)))))
        # A lookup saves no work, and comes cheap next to everything else.
        most = max(op.work for op in self._operators)
        work = next(op.work for op in self._operators if op.name == name)
        return noise / (work or most or 1.0)

    def kept_db(self) -> dict[str, tuple[str, float]]:
        """Return operator -> its type, and how many dB its product keeps in integer."""
        return {
            op.name: (op.op_type, float(-10 * np.log10(max(op.noise, 1e-30))))
            for op in self._operators
        }

    def passes(self, choice: Choice) -> list[Pass]:
        """Return the passes that carry out ``choice``, the original aside."""
        kept = tuple(glob.escape(name) for name in choice.kept)
        nodes = self._original.graph
        products = {label(node) for node in nodes if node.op_type in ("MatMul", "Gemm")}
        linear = tuple(glob.escape(name) for name in choice.kept if name in products)
        passes: list[Pass] = [SmoothQuant(), Gptq(exclude=linear)] if self._recover else []
        return [*passes, self._quantizer(choice.scheme, kept)]

    def quality(self, choice: Choice) -> Evaluation:
        """Return quality and size of a choice."""
        model = self._build(choice)
        found = self._judge.quality(model, self._target)
        return Evaluation(choice, found.value, found.proven, _size_of(model))

    def speeds(self, choices: Sequence[Choice]) -> list[Speed]:
        """Return how long choices take, all measured in turn with the original."""
        feed = next(iter(self._calibration.feeds()))
        models = [self._original, *map(self._build, choices)]
        first, *measured = self._context.runtime.latency(models, feed)
        self.original_ms = first.median_ms
        return [Speed(found.ratio, found.median_ms) for found in measured]

    def context_for(self, ledger: Ledger) -> Context:
        """Return a context in which ``passes`` do what was measured."""
        context = self._private()
        context.ledger = ledger
        return context

    @staticmethod
    def run_passes(model: ir.Model, passes: Sequence[Pass], context: Context) -> bool:
        """Run passes one after the other; return whether the model changed."""
        modified = False
        for pass_ in passes:
            modified |= pass_.run(model, context).modified
        return modified

    def _private(self) -> Context:
        known = getattr(self, "_statistics", {})
        context = dataclasses.replace(
            self._context,
            samples=self._calibration,
            ledger=Ledger(),
            guards=[],
            observers=[],
            artifacts={STATISTICS: known},
        )
        context.share(self._context.runtime)
        return context

    def _quantizer(self, scheme: str, kept: tuple[str, ...]) -> Pass:
        if scheme == "static":
            return QuantizeStatic(exclude=kept)
        return QuantizeDynamic(exclude=kept)

    def _build(self, choice: Choice) -> ir.Model:
        model = self._models.pop(choice, None)
        if model is None:
            model = self._rounded.clone()
            kept = set(choice.kept)
            # What stays in float keeps the weight it had.
            for node in model.graph:
                linear = _linear(node)
                if linear is not None and label(node) in kept:
                    name = linear.weight.name or ""
                    source = self._smooth.graph.initializers.get(name)
                    if source is not None and linear.weight.is_initializer():
                        linear.weight.const_value = source.const_value
            context = self._private()
            context.artifacts.update(self._scales.artifacts)
            context.artifacts[STATISTICS] = self._statistics
            escaped = tuple(glob.escape(name) for name in choice.kept)
            self.run_passes(model, [self._quantizer(choice.scheme, escaped)], context)
        self._models[choice] = model  # at the end: the first is the one to forget
        while len(self._models) > _BUILT:
            del self._models[next(iter(self._models))]
        return model

    def _observe(self) -> dict[str, TensorStatistics]:
        values = dict.fromkeys(
            StaticPlanner(QuantizeStatic(), self._smooth, self._private()).values()
        )
        for node in self._smooth.graph:
            linear = _linear(node)
            if linear is not None:
                values[linear.x.name or ""] = None
        return collect(self._smooth, list(values), self._calibration, self._private())

    def _list(self) -> list[_Operator]:
        private = self._private()
        planner = StaticPlanner(QuantizeStatic(), self._smooth, private)
        static = planner.regions.units
        operators = []
        for node, data, x, axis in _weighted(self._smooth):
            schemes: list[Scheme] = []
            if node in static or x is None:
                schemes.append("static")
            if _linear(node) is not None or x is None:
                schemes.append("dynamic")
            noise = noise_to_signal(finite_array(data), weight_scales(private, data, axis))
            work = 0.0
            if x is not None:
                stats = self._statistics.get(x.name or "")
                noise += _noise(stats)
                rows = stats.count / _channels(node, data, axis) if stats is not None else 1.0
                work = float(np.prod(_sizes(data))) * max(rows, 1.0)
            operators.append(_Operator(label(node), node.op_type, noise, work, tuple(schemes)))
        return [operator for operator in operators if operator.schemes]


def _size_of(model: ir.Model) -> int:
    return sum(tensor.nbytes for g in model.graphs() for tensor in g.initializers.tensors())


def _linear(node: ir.Node) -> Linear | None:
    if node.domain or node.op_type not in ("MatMul", "Gemm"):
        return None
    found = read_linear(node)
    return found if isinstance(found, Linear) else None


def _weighted(
    model: ir.Model,
) -> Iterator[tuple[ir.Node, ir.Value, ir.Value | None, int]]:
    """Yield operator, weight, activation (``None`` for a table) and axis of the channels."""
    for node in model.graph:
        linear = _linear(node)
        if linear is not None:
            yield node, linear.weight, linear.x, linear.channel_axis
        elif node.op_type == "Conv" and not node.domain:
            x, weight = node.inputs[0], node.inputs[1]
            if x is not None and weight is not None and weight.is_initializer():
                yield node, weight, x, 0
        elif node.op_type == "Gather" and not node.domain:
            table = read_table(node)
            if table is not None and hasattr(table, "table"):
                yield node, table.table, None, 0


def _channels(node: ir.Node, weight: ir.Value, axis: int) -> float:
    """Return how many elements of the input go into one position."""
    sizes = _sizes(weight)
    if node.op_type == "Conv":
        return float(sizes[1] * int(node.attributes.get_int("group", 1)))
    return float(sizes[1 - axis])


def _sizes(weight: ir.Value) -> tuple[int, ...]:
    tensor = tensor_of(weight)
    assert tensor is not None
    return tuple(tensor.shape.numpy())


def _noise(stats: TensorStatistics | None) -> float:
    if stats is None or not stats.count or stats.not_finite:
        return 0.0
    try:
        qparams = from_range(stats.low, stats.high, IntType.UINT8)
    except Degenerate:
        return 0.0
    return activation_noise(stats, qparams)

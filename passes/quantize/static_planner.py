"""Makes the plan of a static quantization from the graph and from statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.qparams import (
    Degenerate,
    IntType,
    QParams,
    from_range,
)
from graphopt.calibration.ranges import choose_range
from graphopt.calibration.ranges import noise_to_signal as activation_noise
from graphopt.calibration.statistics import TensorStatistics
from graphopt.errors import PipelineError, nearest
from graphopt.passbase import Context
from graphopt.rewrite import Reason
from graphopt.runtime.fusion_knowledge import Output, kernels

from .linear import finite_array
from .regions import Regions
from .selection import Selection, label, least_sensitive_half
from .static_plan import Decision, StaticPlan
from .units import Unit, Weight, clip_bounds, read_unit
from .weight_artifacts import weight_scales
from .weights import noise_to_signal

if TYPE_CHECKING:
    from .quantize_static import QuantizeStatic

__all__ = ["StaticPlanner"]

MAX_CONSTANT_NOISE = 1e-3
"""Noise-to-signal above which a constant operand is not quantized: less than 30 dB is left."""

_WITHOUT_KERNEL = ("ConvTranspose", "Einsum", "GRU", "LSTM", "RNN")


class StaticPlanner:
    """Chooses what runs on integers, and over which ranges.

    Args:
        options: The pass.
        model: The model; not edited.
        context: Knows the scales that weights were rounded with.

    Attributes:
        regions: The units that run on integers.
        ranges: Name of a value -> range of its integers.
    """

    def __init__(self, options: QuantizeStatic, model: ir.Model, context: Context) -> None:
        self._options = options
        self._context = context
        self._model = model
        self._kind = IntType(options.activations)
        self._refused: dict[ir.Node, str] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        selection = Selection(options.include, options.exclude)
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        selection.check(nodes)
        self.regions = Regions(self._read(nodes, selection))

    def values(self) -> list[str]:
        """Return the names of the values whose statistics ``decide`` needs."""
        wanted: dict[str, None] = {}
        for unit in self.regions.units.values():
            for value in self._values_of(unit):
                wanted[value.name or ""] = None
        return list(wanted)

    def decide(self, statistics: Mapping[str, TensorStatistics]) -> None:
        """Choose ranges, and leave in float what cannot have one or loses the most."""
        bad: dict[str, str] = {}
        noise: dict[str, float] = {}
        for name in self.values():
            stats = statistics[name]
            try:
                self.ranges[name] = self._range(name, stats)
                noise[name] = activation_noise(
                    stats, from_range(*self.ranges[name], self._kind)
                )
            except Degenerate as reason:
                bad[name] = f"{name!r} cannot be quantized: {reason}"
        self._exclude_values(bad)
        if self._options.scope == "half":
            self._keep_half(noise)

    def replay(self, plan: StaticPlan) -> None:
        """Take the decisions from ``plan``.

        Raises:
            PipelineError: The plan names an operator that is not there or cannot run on
                integers, or lacks a range.
        """
        units = {label(unit.node): unit for unit in self.regions.units.values()}
        for name, decision in plan.operators.items():
            if decision.precision == "int8" and name not in units:
                raise PipelineError(
                    "plan",
                    f"the plan wants {name!r} in int8, and no such operator can be.",
                    hint=nearest(name, units),
                )
        reasons = {
            unit.node: (plan.operators[name].reason if name in plan.operators else "")
            or "the plan leaves it in float"
            for name, unit in units.items()
            if name not in plan.operators or plan.operators[name].precision != "int8"
        }
        self.regions.exclude(reasons)
        for name in self._needed():
            if name not in plan.ranges:
                raise PipelineError("plan", f"the plan has no range for {name!r}.")
            self.ranges[name] = plan.ranges[name]

    def plan(self) -> StaticPlan:
        """Return what was decided."""
        operators = {}
        reasons = self.reasons()
        for node in ir.traversal.RecursiveGraphIterator(self._model.graph):
            if node in self.regions.units:
                operators[label(node)] = Decision(node.op_type, "int8")
            elif node in reasons:
                operators[label(node)] = Decision(node.op_type, "float", reasons[node])
        return StaticPlan(operators, {name: self.ranges[name] for name in self._needed()})

    def reasons(self) -> dict[ir.Node, str]:
        """Return why operators stay in float, of all that one might expect in int8."""
        return {**self._refused, **self.regions.reasons}

    def activations(self) -> dict[str, QParams]:
        """Return how each value that gets a Q is quantized."""
        bounds = {
            unit.finals[0].name: clip_bounds(unit.tail)
            for unit in self.regions.units.values()
            if unit.tail is not None
        }
        return {
            name: _within(from_range(*self.ranges[name], self._kind), bounds.get(name))
            for name in self._needed()
        }

    def weight_qparams(self, weight: Weight) -> QParams:
        """Return how a weight is quantized."""
        axis = weight.axis if self._options.per_channel else None
        return weight_scales(self._context, weight.value, axis)

    def constant_qparams(self, value: ir.Value) -> QParams:
        """Return how a constant operand of Add, Mul or Concat is quantized."""
        data = finite_array(value)
        return from_range(float(data.min()), float(data.max()), self._kind)

    def _read(self, nodes: Iterable[ir.Node], selection: Selection) -> list[Unit]:
        table = kernels()
        opset = self._model.opset_imports.get("", 0)
        units = []
        for node in nodes:
            unit = read_unit(node, table, opset)
            if unit is None:
                if node.op_type in _WITHOUT_KERNEL and any(map(tensor_of, node.inputs)):
                    self._refused[node] = (
                        "no integer kernel of the ONNX standard exists for it"
                    )
                continue
            if isinstance(unit, Unit) and (text := self._objection(unit, selection)):
                unit = Reason(text)
            if isinstance(unit, Unit):
                units.append(unit)
            else:
                self._refused[node] = unit.text
        return units

    def _objection(self, unit: Unit, selection: Selection) -> str:
        if unit.node.graph is not self._model.graph:
            return "it is inside a subgraph, where its activations cannot be observed"
        if refusal := selection.refusal(unit.node):
            return refusal
        # Refused at once: the model's answers are no numbers, whatever its activations are.
        for constant in self._constants_of(unit):
            finite_array(constant)
        for index in unit.constants:
            value = unit.node.inputs[index]
            assert value is not None
            noise = self._constant_noise(value, is_factor=unit.node.op_type == "Mul")
            if noise > MAX_CONSTANT_NOISE:
                kept = max(-10 * np.log10(noise), 0.0)
                return f"its constant {value.name!r} would keep {kept:.1f} dB only"
        return ""

    def _constants_of(self, unit: Unit) -> list[ir.Value]:
        found = [] if unit.weight is None else [unit.weight.value]
        if unit.bias is not None:
            user, index = unit.bias
            bias = user.inputs[index]
            assert bias is not None
            found.append(bias)
        return found

    def _constant_noise(self, value: ir.Value, *, is_factor: bool) -> float:
        """Return the energy of the error of a constant operand over its own.

        A factor scales what it is multiplied with, element by element, so that the small ones
        count as much as the large ones.
        """
        data = np.atleast_1d(finite_array(value))
        try:
            qparams = self.constant_qparams(value)
        except Degenerate:
            return 1.0
        if not is_factor:
            return noise_to_signal(data, qparams)
        factors = data[data != 0]
        return float(np.mean(np.square(qparams.round_trip(factors) / factors - 1)))

    def _range(self, name: str, stats: TensorStatistics) -> tuple[float, float]:
        if stats.not_finite:
            raise Degenerate(f"it takes NaN or Inf in sample {stats.first_not_finite}")
        if not stats.count:
            raise Degenerate("it took no value on the samples")
        options = self._options
        chosen = choose_range(stats, options.method, self._kind, percentile=options.percentile)
        return chosen.low, chosen.high

    def _values_of(self, unit: Unit) -> list[ir.Value]:
        """Return the values around ``unit`` that have a range of their own."""
        values = [value for i in unit.data if (value := unit.node.inputs[i]) is not None]
        has_own = unit.kernel.output is not Output.SAME and unit.kernel.fixed_range is None
        if has_own and self.regions.quantizes_output(unit):
            values += unit.finals
        return values

    def _needed(self) -> list[str]:
        """Return the names of the values that get a scale."""
        names: dict[str, None] = {}
        for unit in self.regions.units.values():
            for index in unit.data:
                value = unit.node.inputs[index]
                if value is not None and not self.regions.gives_integers(value):
                    names[value.name or ""] = None
            if unit.kernel.output is Output.SAME or not self.regions.quantizes_output(unit):
                continue
            for value in unit.finals:
                names[value.name or ""] = None
                if unit.kernel.fixed_range is not None:
                    self.ranges[value.name or ""] = unit.kernel.fixed_range
        return list(names)

    def _exclude_values(self, bad: Mapping[str, str]) -> None:
        reasons = {}
        for unit in self.regions.units.values():
            for value in self._values_of(unit):
                if reason := bad.get(value.name or ""):
                    reasons[unit.node] = reason
        self.regions.exclude(reasons)

    def _keep_half(self, activations: Mapping[str, float]) -> None:
        weighted = [unit for unit in self.regions.units.values() if unit.weight is not None]

        def noise(unit: Unit) -> float:
            assert unit.weight is not None
            x = unit.node.inputs[unit.data[0]]
            weight = noise_to_signal(
                finite_array(unit.weight.value), self.weight_qparams(unit.weight)
            )
            return weight + activations[x.name or ""] if x is not None else weight

        _, others = least_sensitive_half(weighted, noise)
        self.regions.exclude(
            {
                unit.node: "in the half that loses the most: its product keeps "
                f"{-10 * np.log10(max(lost, 1e-30)):.1f} dB"
                for unit, lost in others
            }
        )


def _within(qparams: QParams, bounds: tuple[float, float] | None) -> QParams:
    """Return ``qparams`` with the integers all inside the bounds of a Clip.

    Then the Q saturates where the Clip would, and the Clip can go.
    """
    if bounds is None:
        return qparams
    low, high = bounds
    kind, zero = qparams.kind, float(qparams.zero_point)
    scale = float(qparams.scale)
    below, above = zero - kind.minimum, kind.maximum - zero
    if below:
        scale = min(scale, -low / below)
    if above:
        scale = min(scale, high / above)
    return QParams(np.array(scale, np.float32), qparams.zero_point)

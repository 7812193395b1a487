"""Makes the plan of a static quantization from the graph and from statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.calibration.qparams import Degenerate, QParams, from_range
from graphopt.calibration.ranges import choose_range
from graphopt.calibration.ranges import noise_to_signal as activation_noise
from graphopt.calibration.statistics import TensorStatistics
from graphopt.errors import PipelineError, nearest
from graphopt.passbase import Context
from graphopt.runtime.fusion_knowledge import Output

from .portable import saturating_layers
from .regions import Regions
from .selection import Selection, label, least_sensitive_half
from .static_candidates import read_units
from .static_plan import Decision, StaticPlan
from .static_scales import StaticScales
from .units import Unit, clip_bounds
from .weight_artifacts import rounding_noise

if TYPE_CHECKING:
    from graphopt.samples import Samples

    from .quantize_static import QuantizeStatic

__all__ = ["StaticPlanner"]


class StaticPlanner:
    """Chooses what runs on integers, and over which ranges.

    Args:
        options: The pass.
        model: The model; not edited.
        context: Knows the scales that weights were rounded with.

    Attributes:
        regions: The units that run on integers.
        scales: How values are quantized.
        ranges: Name of a value -> range of its integers.
    """

    def __init__(self, options: QuantizeStatic, model: ir.Model, context: Context) -> None:
        self._options = options
        self._model = model
        self._context = context
        self.scales = StaticScales(options, context)
        self.ranges: dict[str, tuple[float, float]] = self.scales.trained_ranges()
        selection = Selection(options.include, options.exclude)
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        selection.check(nodes)
        units, self._refused = read_units(
            model, nodes, selection, self.scales, context.runtime.version
        )
        self.regions = Regions(units)

    def values(self) -> list[str]:
        """Return the names of the values whose statistics ``decide`` needs."""
        wanted: dict[str, None] = {}
        for unit in self.regions.units.values():
            for value in self._values_of(unit):
                wanted[value.name or ""] = None
        return [name for name in wanted if name not in self.scales.trained.activations]

    def decide(self, statistics: Mapping[str, TensorStatistics]) -> None:
        """Choose ranges, and leave in float what cannot have one or loses the most."""
        bad: dict[str, str] = {}
        noise: dict[str, float] = {}
        for name in self.values():
            stats = statistics[name]
            try:
                self.ranges[name] = self._range(name, stats)
                noise[name] = activation_noise(
                    stats, from_range(*self.ranges[name], self.scales.kind)
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
            name: self.scales.activation(name, self.ranges[name], bounds.get(name or ""))
            for name in self._needed()
        }

    def protect(self, model: ir.Model, samples: Samples, context: Context) -> dict[str, int]:
        """Give 7 bits to the weights whose sums saturate on CPUs without VNNI.

        Returns:
            Name of an operator -> how many of its sums did, on some rows of the samples.
        """
        activations = self.activations()

        def qparams(unit: Unit) -> tuple[QParams, QParams]:
            assert unit.weight is not None
            x = unit.node.inputs[unit.data[0]]
            # Operators that move integers pass on the scale of what they read.
            while x is not None and x.name not in activations:
                mover = self.regions.units[_producer(x)]
                x = mover.node.inputs[mover.data[0]]
            assert x is not None
            return activations[x.name or ""], self.scales.weight(unit.weight)

        units = self.regions.units
        found = saturating_layers(model, units.values(), qparams, samples, context)
        for node in found:
            weight = units[node].weight
            assert weight is not None
            self.scales.protected.add(weight.value)
        return {label(node): count for node, count in found.items()}

    def _range(self, name: str, stats: TensorStatistics) -> tuple[float, float]:
        if stats.not_finite:
            raise Degenerate(f"it takes NaN or Inf in sample {stats.first_not_finite}")
        if not stats.count:
            raise Degenerate("it took no value on the samples")
        options = self._options
        chosen = choose_range(
            stats,
            options.method,
            self.scales.kind,
            is_symmetric=options.symmetric,
            percentile=options.percentile,
        )
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
            weight = rounding_noise(
                self._context, unit.weight.value, self.scales.weight(unit.weight)
            )
            return weight + activations.get(x.name or "", 0.0) if x is not None else weight

        _, others = least_sensitive_half(weighted, noise)
        self.regions.exclude(
            {
                unit.node: "in the half that loses the most: its product keeps "
                f"{-10 * np.log10(max(lost, 1e-30)):.1f} dB"
                for unit, lost in others
            }
        )


def _producer(value: ir.Value) -> ir.Node:
    producer = value.producer()
    assert producer is not None
    return producer

"""Which operators run on integers: as much as pays, and no Q or DQ that strands.

Operators with weights are what one quantizes for. The others (Add, pooling, Transpose, ...)
run on integers where an input is integer anyway and something behind them takes integers, or
where they join several integer inputs; else the DQ in front of them or the Q behind them would
be for nothing. The largest set of operators for which this holds is found by starting with all
and taking out, until nothing changes, those for which it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from graphopt.runtime.fusion_knowledge import Inputs, Output

from .units import Unit

__all__ = ["Regions"]


class Regions:
    """The units that run on integers.

    Args:
        units: Candidates, in graph order.

    Attributes:
        units: Node -> unit, of those that run on integers.
        reasons: Node -> why its unit stays in float, of the others.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self.units = {unit.node: unit for unit in units}
        self.reasons: dict[ir.Node, str] = {}
        # The Add of a bias belongs to its MatMul.
        for add in [unit.add for unit in self.units.values() if unit.add is not None]:
            self.units.pop(add, None)
        self._owner = {value: unit for unit in self.units.values() for value in unit.finals}
        self._settle()

    def exclude(self, reasons: Mapping[ir.Node, str]) -> None:
        """Leave operators in float, and what then does not pay any more."""
        for node, reason in reasons.items():
            if self.units.pop(node, None) is not None:
                self.reasons[node] = reason
        self._settle()

    def gives_integers(self, value: ir.Value) -> bool:
        """Whether ``value`` comes from an integer kernel and has a Q behind it."""
        unit = self._owner.get(value)
        return unit is not None and unit.node in self.units and self.quantizes_output(unit)

    def quantizes_output(self, unit: Unit) -> bool:
        """Whether a Q stands behind ``unit``, and everything reads the DQ behind that."""
        if unit.kernel.output is not Output.EITHER:
            return True
        # It can return float: better than rounding, unless integers is all that is wanted.
        return not unit.returns_float and all(map(self._is_taken, unit.finals))

    def _is_taken(self, value: ir.Value) -> bool:
        """Whether everything that uses ``value`` takes integers."""
        uses = value.uses()
        return (
            bool(uses)
            and not value.is_graph_output()
            and all(self._takes(user, index) for user, index in uses)
        )

    def _takes(self, node: ir.Node, index: int) -> bool:
        unit = self.units.get(node)
        return unit is not None and index in unit.data

    def _settle(self) -> None:
        """Take out what does not pay, until nothing changes."""
        changed = True
        while changed:
            changed = False
            # Sources run out forwards, sinks backwards: one sweep each way finds both.
            for step in (1, -1):
                for unit in list(self.units.values())[::step]:
                    reason = self._objection(unit)
                    if reason:
                        del self.units[unit.node]
                        self.reasons[unit.node] = reason
                        changed = True

    def _objection(self, unit: Unit) -> str:
        if unit.kernel.has_weights:
            return ""
        inputs = [value for i in unit.data if (value := unit.node.inputs[i]) is not None]
        if unit.kernel.inputs is not Inputs.FIRST:
            inputs = [value for value in inputs if not _is_broadcast(value, unit.result)]
        integers = sum(map(self.gives_integers, inputs))
        if not integers:
            return "what it reads is not integer"
        # Of two values only one DQ is left where their sum is integer.
        if integers > 1 and unit.kernel.output is not Output.SAME:
            return ""
        if not any(self._takes(*use) for value in unit.finals for use in value.uses()):
            return "nothing behind it takes integers"
        return ""


def _is_broadcast(value: ir.Value, result: ir.Value) -> bool:
    """Whether ``value`` is known to be broadcast to the shape of ``result``."""
    if value.shape is None or result.shape is None:
        return False
    if len(value.shape) < len(result.shape):
        return True
    return any(
        dim == 1 and other != 1 for dim, other in zip(value.shape, result.shape, strict=False)
    )

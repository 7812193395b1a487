"""Gelu, by what it computes: with ``erf``, or approximated with ``tanh``."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.rewrite import Reason

from .formulas import Polynomial, arguments, formula, grow, outside_use

__all__ = ["Gelu", "find_gelu"]

ROOT = math.sqrt(2 / math.pi)
ARGUMENTS: dict[str, Polynomial] = {
    "Erf": {(1,): 1 / math.sqrt(2)},
    "Tanh": {(1,): ROOT, (3,): ROOT * 0.044715},
}
HALF_SUM: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}  # of (x, Erf or Tanh): 0.5 x + 0.5 x e


@dataclasses.dataclass(frozen=True)
class Gelu:
    """``output = 0.5 * x * (1 + erf(x / sqrt(2)))``, or its approximation.

    Attributes:
        x: What it is computed of.
        output: What it computes.
        approximate: ``"none"`` with ``erf``, ``"tanh"`` with the approximation.
        nodes: What computes it; nothing else uses their results.
    """

    x: ir.Value
    output: ir.Value
    approximate: Literal["none", "tanh"]
    nodes: tuple[ir.Node, ...]

    @property
    def last(self) -> ir.Node:
        """The node that computes the output."""
        node = self.output.producer()
        assert node is not None
        return node


def find_gelu(node: ir.Node, facts: Facts) -> Gelu | Reason | None:
    """Return the Gelu that ``node``, an ``Erf`` or a ``Tanh``, is part of.

    Returns:
        ``None`` where its argument is not that of a Gelu.
    """
    argument = node.inputs[0]
    for x in arguments(argument):
        inner = formula(argument, (x,), facts)
        if inner is None or not inner.equals(ARGUMENTS[node.op_type], x.dtype):
            continue
        found = grow(node.outputs[0], x, HALF_SUM, facts)
        if found is None:
            return Reason("its result is not only used in 0.5 x (1 + e)")
        output, outer = found
        nodes = tuple(dict.fromkeys([*inner.nodes, node, *outer.nodes]))
        approximate: Literal["none", "tanh"] = "none" if node.op_type == "Erf" else "tanh"
        return outside_use(nodes, output) or Gelu(x, output, approximate, nodes)
    return None

"""Eliminate ``Identity``.

Before -> after::

    y = Identity(x)             (removed)
    z = Relu(y)          ->     z = Relu(x)

Preconditions, per match:
    1. ``y`` is not an output of its graph, or ``x`` is computed by a node of that same graph:
       an output needs a node in between it and an input, an initializer or an outer value.
    2. ``y`` is not an output of its graph, or ``x`` is not one: they keep both their names.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Identity.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["EliminateIdentity"]


@dataclasses.dataclass(frozen=True)
class EliminateIdentity(RulePass):
    """Eliminate ``Identity``; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-identity"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("identity", ("Identity",), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    x, y = node.inputs[0], node.outputs[0]
    if x is None:
        return None
    if y.is_graph_output():
        producer = x.producer()
        # 1.
        if producer is None or producer.graph is not node.graph:
            return Reason(f"graph output {y.name!r} would lose its producer")
        # 2.
        if x.is_graph_output():
            return Reason(f"{x.name!r} and {y.name!r} are both graph outputs")
    return lambda edit: edit.supersede(node, x)

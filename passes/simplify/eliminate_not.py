"""Eliminate ``Not`` where another operator, or another order, says the same.

Before -> after::

    c = Greater(a, b)           y = LessOrEqual(a, b)          # a, b: int64
    y = Not(c)           ->

    c = Not(m)                  y = Where(m, b, a)             # a, b: int64
    y = Where(c, a, b)   ->     (c only where something else uses it)

    y = Xor(m, True)            y = Not(m)
    y = Equal(m, False)  ->     y = Not(m)                     # m: bool

    a = Not(m); b = Not(n)      c = Or(m, n)
    y = And(a, b)        ->     y = Not(c)

Preconditions, per match:
    1. A comparison of int32 or int64: NaN is neither greater nor less; of version 12 or later.
    2. It, or each of the two ``Not``, has no other use: there would be a node more.
    3. A constant of one truth value that adds no dimension.
    4. ``Where`` of integers: onnxruntime 1.31 adds the choices up, and whether -0.0 stays
       depends on their order.
    5. ``And`` and ``Or`` are of version 7 or later; before, they broadcast by an attribute.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``Not`` of ``Not``, which is the work of ``eliminate-inverse-pairs``.
Reference: https://onnx.ai/onnx/operators/onnx__Not.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["EliminateNot"]

OPPOSITE = {
    "Greater": "LessOrEqual",
    "GreaterOrEqual": "Less",
    "Less": "GreaterOrEqual",
    "LessOrEqual": "Greater",
}
OPPOSITES_SINCE = 12
BROADCASTING = 7
DUAL = {"And": "Or", "Or": "And"}
FLIPPING = {"Equal": False, "Xor": True}
"""Operator -> the truth value with which it is Not."""


@dataclasses.dataclass(frozen=True)
class EliminateNot(RulePass):
    """Eliminate negations; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-not"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("not-comparison", ("Not",), _match_comparison),
            Rule("where-not", ("Where",), _match_where),
            Rule("flip", tuple(sorted(FLIPPING)), _match_flip),
            Rule("two-nots", tuple(sorted(DUAL)), _match_two),
        ]


def _match_comparison(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    comparison = producer(node.inputs[0], *OPPOSITE)
    if comparison is None:
        return None
    a = comparison.inputs[0]
    # 1.
    if a is None or a.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return Reason("NaN is neither greater nor less")
    if facts.opset < OPPOSITES_SINCE:
        return Reason(f"there is no opposite before version {OPPOSITES_SINCE}")
    # 2.
    if facts.only_use(comparison.outputs[0]) is not node:
        return Reason(f"{comparison.outputs[0].name!r} has another use")
    opposite, inputs = OPPOSITE[comparison.op_type], comparison.inputs
    return lambda edit: edit.substitute(node, opposite, inputs)


def _match_where(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    negation = producer(node.inputs[0], "Not")
    if negation is None:
        return None
    _, yes, no = node.inputs
    # 4.
    if yes is None or yes.dtype is None or not yes.dtype.is_integer():
        return Reason("the sign of zero depends on the order of the choices")

    def rewrite(edit: Edit) -> None:
        edit.set_input(node, 0, negation.inputs[0])
        edit.set_input(node, 1, no)
        edit.set_input(node, 2, yes)

    return rewrite


def _match_flip(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    left, right = node.inputs
    for x, other in ((left, right), (right, left)):
        array = facts.array(other, max_elements=1)
        # 3.
        if x is None or array is None or array.dtype.kind != "b" or array.size != 1:
            continue
        if bool(array.item()) != FLIPPING[node.op_type]:
            continue
        shape = facts.shape(x)
        if shape is None or shape != facts.shape(node.outputs[0]):
            return Reason(f"{x.name!r} may be broadcast to another shape")
        return lambda edit: edit.substitute(node, "Not", [x])
    return None


def _match_two(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 5.
    if facts.opset < BROADCASTING:
        return None
    found = [producer(value, "Not") for value in node.inputs]
    nots = [one for one in found if one is not None]
    if len(nots) != len(node.inputs):
        return None
    # 2.
    if any(facts.only_use(one.outputs[0]) is not node for one in nots):
        return Reason("a Not of the two has another use")

    def rewrite(edit: Edit) -> None:
        sources = [one.inputs[0] for one in nots]
        (joined,) = edit.node(DUAL[node.op_type], sources, before=node)
        edit.set_type(joined, node.outputs[0].type, None)
        edit.substitute(node, "Not", [joined])

    return rewrite

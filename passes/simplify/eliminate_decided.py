"""Eliminate a comparison or a logical operation that has one answer, whatever it is given.

Before -> after::

    y = And(x, False)           y = False            # of the same shape, else Expand(False)
    y = Mul(i, 0)               y = 0                # integers

    y = Equal(i, i)             y = Expand(True, [2, 3])       # i: int64[2, 3]
    y = Greater(x, x)           y = Expand(False, [2, 3])      # also where x is NaN

    y = Or(b, b)                y = b

Preconditions, per match:
    1. The constant operand has equal elements that absorb every other: false for ``And``, true
       for ``Or``, 0 for ``Mul`` of integers.
    2. Or both operands are one value. ``Equal``, ``LessOrEqual``, ``GreaterOrEqual`` and
       ``Sub`` only of integers or truth values: NaN is not equal to itself.
    3. The constant has the shape of the result; or that is all numbers, and the version has
       ``Expand``: 8 or later.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: operations with a neutral element, and ``Where`` (see ``eliminate-neutral``).
Reference: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["EliminateDecided"]

BROADCASTING = 7
"""The version from which operators broadcast without an attribute."""
EXPAND_SINCE = 8
ABSORBING = {"And": 0, "Mul": 0, "Or": 1}
ITSELF = ("And", "BitwiseAnd", "BitwiseOr", "Or")
ALWAYS = {
    "BitwiseXor": 0, "Equal": 1, "Greater": 0, "GreaterOrEqual": 1, "Less": 0,
    "LessOrEqual": 1, "Sub": 0, "Xor": 0,
}  # fmt: skip
"""What an operator gives for one value twice."""
WHATEVER_IT_IS = ("Greater", "Less")
"""These also of NaN."""
MAX_ELEMENTS = 1 << 16
"""Larger constants are not read: masks of a causal attention are below, weights are not."""


@dataclasses.dataclass(frozen=True)
class EliminateDecided(RulePass):
    """Eliminate what is decided; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-decided"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("absorbed", tuple(sorted(ABSORBING)), _match_absorbed),
            Rule("itself", ITSELF, _match_itself),
            Rule("same-operands", tuple(sorted(ALWAYS)), _match_same),
        ]


def _match_absorbed(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    if facts.opset < BROADCASTING:
        return None
    # 1.
    for value in node.inputs:
        array = facts.array(value, MAX_ELEMENTS)
        if array is None or array.size == 0 or array.dtype.kind not in "biu":
            continue
        if np.all(array == ABSORBING[node.op_type]):
            shape = facts.shape(node.outputs[0])
            # 3.
            if shape is not None and shape == facts.shape(value):
                return _superseding(node, value)
            return _constant(node, array.reshape(-1)[:1].reshape(()), facts)
    return None


def _match_itself(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    x, other = node.inputs
    # 2.
    return _superseding(node, x) if x is other else None


def _match_same(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    x, other = node.inputs
    # 2.
    if x is not other or x is None or x.dtype is None:
        return None
    exact = x.dtype.is_integer() or x.dtype == ir.DataType.BOOL
    if not exact and node.op_type not in WHATEVER_IT_IS:
        return Reason("NaN is not equal to itself")
    kind = x.dtype if node.op_type in ("BitwiseXor", "Sub") else ir.DataType.BOOL
    return _constant(node, np.array(ALWAYS[node.op_type], kind.numpy()), facts)


def _superseding(node: ir.Node, value: ir.Value | None) -> Rewrite:
    return lambda edit: edit.supersede(node, value)


def _constant(node: ir.Node, item: np.ndarray, facts: Facts) -> Rewrite | Reason:
    """Return the rewrite to ``item`` in the shape of the result."""
    shape = facts.shape(node.outputs[0])
    sizes = [dim for dim in shape or () if isinstance(dim, int)]
    # 3.
    if shape is None or len(sizes) != len(shape):
        return Reason("the result has no fixed shape")
    if sizes and facts.opset < EXPAND_SINCE:
        return Reason(f"there is no Expand before version {EXPAND_SINCE}")

    def rewrite(edit: Edit) -> None:
        name = node.outputs[0].name or "decided"
        new = edit.constant(item, name, near=node)
        if sizes:
            target = edit.constant(np.array(sizes, np.int64), f"{name}_shape", near=node)
            (new,) = edit.node("Expand", [new, target], before=node, like=node.outputs)
        edit.supersede(node, new)

    return rewrite

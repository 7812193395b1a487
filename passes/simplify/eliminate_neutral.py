"""Eliminate an operation with its neutral element, and a choice that is already made.

Before -> after::

    y = And(mask, True)         (removed)
    z = Not(y)           ->     z = Not(mask)

    y = Where(True, a, b)       (removed)
    z = Neg(y)           ->     z = Neg(a)          # a, b: int64

Preconditions, per match:
    1. What is left has the shape of the output: nothing was broadcast by the other inputs.
    2. All elements of the other operand are neutral, and it is a constant: true for ``And``,
       false for ``Or`` and ``Xor``, 1 for ``Mul`` and ``Div``, 0 for ``Add`` and ``Sub``.
    3. ``Add`` and ``Sub`` of integers: 0 + -0.0 is 0.0. Of floats, ``Mul`` and ``Div`` by one
       element; a tensor of ones may be the scale that other passes look for.
    4. Only the right operand of ``Sub`` and ``Div`` can be neutral.
    5. ``Where``: the condition is a constant of equal elements, or both choices are the same;
       of integers, for onnxruntime 1.31 adds the choices up: -0.0 becomes 0.0.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["EliminateNeutral"]

NEUTRAL = {"Add": 0, "And": 1, "Div": 1, "Mul": 1, "Or": 0, "Sub": 0, "Xor": 0}
RIGHT_ONLY = ("Div", "Sub")
MAX_ELEMENTS = 1 << 16
"""Larger constants are not read: masks of a causal attention are below, weights are not."""


@dataclasses.dataclass(frozen=True)
class EliminateNeutral(RulePass):
    """Eliminate neutral operands; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-neutral"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("neutral-element", tuple(sorted(NEUTRAL)), _match),
            Rule("where-decided", ("Where",), _match_where),
        ]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    left, right = node.inputs[:2]
    pairs = [(left, right)]
    # 4.
    if node.op_type not in RIGHT_ONLY:
        pairs.append((right, left))
    for x, other in pairs:
        if x is not None and _is_neutral(node, other, facts):
            return _only(node, x, facts)
    return None


def _is_neutral(node: ir.Node, other: ir.Value | None, facts: Facts) -> bool:
    # 2.
    array = facts.array(other, MAX_ELEMENTS)
    if array is None or array.size == 0 or not np.all(array == NEUTRAL[node.op_type]):
        return False
    # 3. Types beyond numpy's, such as bfloat16, are floats as well.
    exact = array.dtype.kind in "biu"
    return exact or (node.op_type in ("Mul", "Div") and array.size == 1)


def _match_where(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    condition, yes, no = node.inputs
    # 5.
    if yes is None or yes.dtype is None or not yes.dtype.is_integer():
        return None
    if yes is no:
        return _only(node, yes, facts)
    array = facts.array(condition, MAX_ELEMENTS)
    if array is None or array.size == 0 or np.any(array != array.flat[0]):
        return None
    chosen = yes if array.flat[0] else no
    return None if chosen is None else _only(node, chosen, facts)


def _only(node: ir.Node, x: ir.Value, facts: Facts) -> Rewrite | Reason:
    """Return the rewrite that lets ``x`` replace the output of ``node``."""
    # 1.
    shape = facts.shape(x)
    if shape is None or shape != facts.shape(node.outputs[0]):
        return Reason(f"{x.name!r} may be broadcast to another shape")
    return lambda edit: edit.supersede(node, x)

"""Fuse ``Expand`` into what would broadcast its input anyway.

Before -> after::

    y = Expand(x, [1, 1, 8, 8])                 z = Expand(x, [4, 12, 8, 8])
    z = Expand(y, [4, 12, 8, 8])         ->     (y only where something else uses it)

    y = Expand(x, shape)                        z = Where(x, a, b)
    z = Where(y, a, b)                   ->     # a: float[N, M], x: bool[1, M]

Preconditions, per match:
    1. The shapes of x and of the result are known, symbolic sizes included.
    2. ``Expand``: the target of the second one is the shape of the result, whatever it is
       given; or that is all numbers.
    3. Another operator broadcasts its inputs, and gives bit for bit the same whichever way:
       ``Pow``, ``Max``, ``Min`` and ``Mod`` have kernels of their own for a single number.
    4. x and its other inputs are broadcast to the shape that the result has.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Expand.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.analysis.symbolic.base import broadcast_shapes
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FuseExpands"]

BROADCASTING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Or", "Sub", "Where", "Xor",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FuseExpands(RulePass):
    """Fuse Expand into what broadcasts; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-expands"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("expand-expand", ("Expand",), _match),
            Rule("expand-broadcast", BROADCASTING, _match_broadcast),
        ]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    first = producer(node.inputs[0], "Expand")
    x = first.inputs[0] if first is not None else None
    if x is None:
        return None
    # 1.
    shape, source = facts.shape(node.outputs[0]), facts.shape(x)
    if shape is None or source is None:
        return Reason("the shape before or after the two is not known")
    # 2.
    target = facts.content(node.inputs[1])
    if target is not None and tuple(target.flat) == shape:
        return lambda edit: edit.set_input(node, 0, x)
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if len(sizes) != len(shape):
        return Reason("the second one alone does not give the shape of the result")

    def rewrite(edit: Edit) -> None:
        name = f"{node.outputs[0].name}_shape"
        edit.set_input(node, 1, edit.constant(np.array(sizes, np.int64), name, near=node))
        edit.set_input(node, 0, x)

    return rewrite


def _match_broadcast(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 3.
    for index, value in enumerate(node.inputs):
        expand = producer(value, "Expand")
        x = expand.inputs[0] if expand is not None else None
        if x is None:
            continue
        # 1.
        result = facts.shape(node.outputs[0])
        shapes = [facts.shape(v) for i, v in enumerate(node.inputs) if i != index]
        source = facts.shape(x)
        if result is None or source is None or None in shapes:
            return Reason("a shape around the Expand is not known")
        # 4.
        if broadcast_shapes(source, *shapes) != result:
            return Reason("the other inputs do not have the shape of the result")
        return _reading(node, index, x)
    return None


def _reading(node: ir.Node, index: int, x: ir.Value) -> Rewrite:
    return lambda edit: edit.set_input(node, index, x)

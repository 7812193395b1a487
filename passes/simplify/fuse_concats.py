"""Fuse ``Concat`` of ``Concat``, and leave out parts that are empty.

Before -> after::

    y = Concat(b, c, axis=1)
    z = Concat(a, y, d, axis=1)          ->     z = Concat(a, b, c, d, axis=1)

    z = Concat(a, none, b, axis=1)       ->     z = Concat(a, b, axis=1)
    # none: float[N, 0]

Preconditions, per match:
    1. Both are along the same axis.
    2. ``y`` has no other use: it would be copied twice.
    3. The result has no more than ``MAX_PARTS`` parts, so that a long chain is not quadratic.
    4. An empty part has the number 0 as its size along the axis, and is not the only one.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``Concat`` of the parts of a ``Split`` or of slices, which is the work of
``eliminate-inverse-pairs``.
Reference: https://onnx.ai/onnx/operators/onnx__Concat.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.edit import Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FuseConcats"]

MAX_PARTS = 64


@dataclasses.dataclass(frozen=True)
class FuseConcats(RulePass):
    """Fuse Concat of Concat; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-concats"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("concat-concat", ("Concat",), _match),
            Rule("concat-of-nothing", ("Concat",), _match_empty),
        ]


def _axis(concat: ir.Node, facts: Facts) -> int | None:
    """Return the axis, counted from the front; ``None`` where the rank is not known."""
    shape, axis = facts.shape(concat.outputs[0]), attribute(concat, "axis", 1)
    if axis >= 0:
        return int(axis)
    return None if shape is None else int(axis) + len(shape)


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    inner = [producer(value, "Concat") for value in node.inputs]
    if not any(inner):
        return None
    parts: list[ir.Value | None] = []
    fused = False
    for value, concat in zip(node.inputs, inner, strict=True):
        if concat is None or not _fits(concat, node, facts):
            parts.append(value)
        else:
            parts += concat.inputs
            fused = True
    if not fused:
        return Reason("what is joined before is of another axis, or has another use")
    # 3.
    if len(parts) > MAX_PARTS:
        return Reason(f"there would be {len(parts)} parts")
    return _joined(node, parts)


def _fits(inner: ir.Node, outer: ir.Node, facts: Facts) -> bool:
    # 1.
    axis = _axis(inner, facts)
    if axis is None or axis != _axis(outer, facts):
        return False
    # 2.
    return facts.only_use(inner.outputs[0]) is outer


def _joined(node: ir.Node, parts: Sequence[ir.Value | None]) -> Rewrite:
    return lambda edit: edit.substitute(node, "Concat", parts, dict(node.attributes))


def _match_empty(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    if len(node.inputs) > MAX_PARTS:
        return None
    shapes = [facts.shape(value) for value in node.inputs]
    axis = _axis(node, facts)
    # 4.
    kept = [
        value
        for value, shape in zip(node.inputs, shapes, strict=True)
        if shape is None or axis is None or axis >= len(shape) or shape[axis] != 0
    ]
    if not kept or len(kept) == len(node.inputs):
        return None
    return _joined(node, kept)

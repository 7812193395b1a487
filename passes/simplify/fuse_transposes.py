"""Fuse two transpositions, one after the other, into one.

Before -> after::

    y = Transpose(x, perm=[0, 2, 1])              z = Transpose(x, perm=[1, 0, 2])
    z = Transpose(y, perm=[2, 0, 1])       ->     (y only where something else uses it)

    y = Transpose(x, perm=[1, 0])                 z = x
    z = Transpose(y, perm=[1, 0])          ->

    y = Transpose(x, perm=[0, 2, 1])              y = Reshape(x, [0, 1, 64])
    # x: float[N, 64, 1]: only a 1 moves   ->

    y = Reshape(x, [-1, 7, 64])                   w = Transpose(x, perm=[0, 1, 3, 2])
    z = Transpose(y, perm=[0, 2, 1])       ->     (y and z only where something else uses them)
    w = Reshape(z, [2, 12, 64, 7])                # x: float[2, 12, 7, 64]

Preconditions, per match:
    1. Both permutations are known: from ``perm``, or from the rank where it is left out.
    2. ``Reshape`` instead: the axes that are not 1 keep their order, and the new shape can be
       stated as a constant (see ``fuse-reshapes``).
    3. Between two reshapes: the first one only joins neighbouring axes, each result is one
       axis of the ``Transpose``, and the second one takes them apart again.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Transpose.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.analysis.symbolic import Dim, Shape
from graphopt.analysis.symbolic.targets import reshape_target
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FuseTransposes"]


@dataclasses.dataclass(frozen=True)
class FuseTransposes(RulePass):
    """Fuse chains of transpositions; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-transposes"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("transpose-transpose", ("Transpose",), _match),
            Rule("transpose-of-ones", ("Transpose",), _match_ones),
            Rule("reshape-transpose-reshape", ("Reshape",), _match_joined),
        ]


def _permutation(node: ir.Node, facts: Facts) -> list[int] | None:
    """Return where each axis comes from; ``None`` where it is not known, or no permutation."""
    perm, shape = attribute(node, "perm"), facts.shape(node.inputs[0])
    if perm is None:
        return None if shape is None else list(range(len(shape)))[::-1]
    rank = len(perm if shape is None else shape)
    return list(perm) if sorted(perm) == list(range(rank)) else None


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    first = producer(node.inputs[0], "Transpose")
    if first is None:
        return None
    x, outer, inner = first.inputs[0], _permutation(node, facts), _permutation(first, facts)
    # 1.
    if x is None or outer is None or inner is None or len(outer) != len(inner):
        return Reason("the rank of the input of a Transpose without perm is not known")
    perm = [inner[index] for index in outer]

    if perm == sorted(perm):
        return lambda edit: edit.supersede(node, x)
    return lambda edit: edit.substitute(node, "Transpose", [x], {"perm": perm})


def _match_ones(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    x, result = node.inputs[0], node.outputs[0]
    shape, perm = facts.shape(x), _permutation(node, facts)
    if x is None or shape is None or perm is None or perm == sorted(perm):
        return None
    # 2.
    moving = [index for index in perm if shape[index] != 1]
    if moving != sorted(moving):
        return None
    target = reshape_target(shape, tuple(shape[index] for index in perm))
    if target is None:
        return Reason("more than one symbolic size changes its place")

    def rewrite(edit: Edit) -> None:
        name = f"{result.name}_shape"
        inputs = [x, edit.constant(np.array(target, np.int64), name, near=node)]
        edit.substitute(node, "Reshape", inputs)

    return rewrite


def _match_joined(last: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    transpose = producer(last.inputs[0], "Transpose")
    first = producer(transpose.inputs[0], "Reshape") if transpose is not None else None
    if transpose is None or first is None:
        return None
    x, result = first.inputs[0], last.outputs[0]
    source, joined, shape = (facts.shape(v) for v in (x, first.outputs[0], result))
    perm = _permutation(transpose, facts)
    if x is None or source is None or joined is None or shape is None or perm is None:
        return Reason("the shapes around the Transpose are not known")
    # 3.
    groups = _groups(source, joined)
    if groups is None:
        return Reason("the Reshape before the Transpose does more than join axes")
    order = [axis for index in perm for axis in groups[index]]
    if tuple(source[axis] for axis in order) != shape:
        return Reason("the Reshape after the Transpose does not take the same axes apart")

    def rewrite(edit: Edit) -> None:
        (new,) = edit.node(
            "Transpose",
            [x],
            before=last,
            attributes={"perm": order},
            like=[result],
            name=transpose.name or "",
        )
        edit.supersede(last, new)

    return rewrite


def _groups(source: Shape, joined: Shape) -> list[list[int]] | None:
    """Return for each size of ``joined`` the axes of ``source`` it is the product of."""
    groups: list[list[int]] = []
    axis = 0
    for dim in joined:
        group: list[int] = []
        size: Dim = 1
        while axis < len(source) and (not group or size != dim):
            size = size * source[axis]
            group.append(axis)
            axis += 1
        if size != dim:
            return None
        groups.append(group)
    # What is left over can only be ones.
    return groups if axis == len(source) else None

"""Fuse two reshapes, one after the other, into one.

Before -> after::

    y = Reshape(x, [0, 0, 768])                 z = Reshape(x, [0, 0, 12, 64])
    z = Reshape(y, [0, 0, 12, 64])       ->     (y only where something else uses it)

    y = Unsqueeze(x, 0)                         z = Unsqueeze(x, [0, 1])
    z = Unsqueeze(y, 0)                  ->

    y = Unsqueeze(x, 0)                         z = x
    z = Squeeze(y, 0)                    ->

    y = ReduceMean(x, [2, 3])                   z = ReduceMean(x, [2, 3], keepdims=0)
    z = Flatten(y)                       ->     # x: float[N, 8, 7, 7]

``Reshape``, ``Flatten``, ``Squeeze`` and ``Unsqueeze`` in any order. The result is an
``Unsqueeze`` or a ``Squeeze`` where that is enough, else a ``Reshape``, and nothing at all
where the shape is the same again.

Preconditions, per match:
    1. The shapes of x and z are known, symbolic sizes included.
    2. The shape of z can be stated as a constant: at most one size is neither a number nor the
       size that x has at the same place.
    3. After a reduction: it keeps its axes, has no other use, its axes are constant, and z is
       what it would be without them.

Numerics: exact; onnxruntime refuses -1 beside a copied size that is 0 (see ``fold-shapes``).
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Reshape.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic import Shape
from graphopt.analysis.symbolic.base import integers
from graphopt.analysis.symbolic.targets import reshape_target
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FuseReshapes"]

RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
AXES_ARE_INPUTS = 13
REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FuseReshapes(RulePass):
    """Fuse chains of reshapes; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-reshapes"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [
            Rule("reshape-reshape", RESHAPING, _match),
            Rule("reduce-reshape", RESHAPING, _match_reduction),
        ]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    middle, result = node.inputs[0], node.outputs[0]
    first = middle.producer() if middle is not None else None
    if first is None or first.op_type not in RESHAPING or first.domain:
        return None
    x = first.inputs[0]
    # 1.
    source, shape = facts.shape(x), facts.shape(result)
    if x is None or source is None or shape is None:
        return Reason("the shape before or after the two is not known")
    op_type, data = _operator(source, shape)
    # 2.
    if data is None:
        return Reason("more than one size of the result is neither a number nor copied")

    def rewrite(edit: Edit) -> None:
        if not op_type:
            edit.supersede(node, x)
        elif op_type == "Reshape" or facts.opset >= AXES_ARE_INPUTS:
            name = f"{result.name}_{op_type.lower()}"
            target = edit.constant(np.array(data, np.int64), name, near=node)
            edit.substitute(node, op_type, [x, target])
        else:
            edit.substitute(node, op_type, [x], {"axes": data})

    return rewrite


def _match_reduction(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    y, result = node.inputs[0], node.outputs[0]
    reduction = y.producer() if y is not None else None
    if y is None or reduction is None or reduction.op_type not in REDUCTIONS:
        return None
    if reduction.domain:
        return None
    x, shape = facts.shape(reduction.inputs[0]), facts.shape(result)
    axes = integers(reduction, facts.symbols, "axes", 1, ())
    # 3.
    if facts.only_use(y) is not node:
        return Reason(f"{y.name!r} has another use")
    if x is None or axes is None or not axes or not attribute(reduction, "keepdims", 1):
        return Reason("its axes are not known, or are not kept")
    gone = {axis % len(x) for axis in axes}
    if shape != tuple(dim for index, dim in enumerate(x) if index not in gone):
        return Reason("the shape is not that of the reduction without its axes")

    def rewrite(edit: Edit) -> None:
        (new,) = edit.node(
            reduction.op_type,
            reduction.inputs,
            before=reduction,
            attributes={**reduction.attributes, "keepdims": 0},
            like=[result],
            name=reduction.name or "",
        )
        edit.supersede(node, new)
        edit.remove(reduction)

    return rewrite


def _operator(source: Shape, result: Shape) -> tuple[str, list[int] | None]:
    """Return the operator that reshapes ``source`` to ``result``, and its constant.

    No operator where nothing changes; no constant where there is none that does it.
    """
    if source == result:
        return "", []
    if (axes := _inserted(source, result)) is not None:
        return "Unsqueeze", axes
    if (axes := _inserted(result, source)) is not None:
        return "Squeeze", axes
    return "Reshape", reshape_target(source, result)


def _inserted(short: Shape, long: Shape) -> list[int] | None:
    """Return where ``long`` has a 1 that ``short`` has not; ``None`` if that is not all."""
    axes: list[int] = []
    at = 0
    for index, dim in enumerate(long):
        if at < len(short) and short[at] == dim:
            at += 1
        elif dim == 1:
            axes.append(index)
        else:
            return None
    return axes if at == len(short) and axes else None

"""Fuse two of ``Clip`` and ``Relu``, one after the other, into one.

Before -> after::

    y = Relu(x)                 y = Relu(x)                    # also where y has other uses
    z = Relu(y)          ->     z = y

    y = Relu(x)                 z = Clip(x, 0, 6)
    z = Clip(y, 0, 6)    ->     (y only where something else uses it)

    y = Clip(x, -1, 6)          z = Clip(x, 0, 5)
    z = Clip(y, 0, 5)    ->     (y only where something else uses it)

Preconditions, per match:
    1. float32 or double: for float16, onnxruntime 1.31 gives -0.0 another sign in some lanes.
    2. The bounds are constants of one element, none is NaN, and the lower one is less than
       the upper one. Before version 11 they are attributes, and such a ``Clip`` is left.
    3. The two ranges have more than one point in common; otherwise the sign of zero that
       comes out is that of a bound in one form and that of ``x`` in the other.

Numerics: exact. A missing bound of ``Clip`` is the largest finite number, and takes infinities
away; ``Relu`` has no upper bound. NaN and -0.0 go through both unchanged, where 0 is a bound
as well (measured, onnxruntime 1.31, CPU, 1 to 70 elements).
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Clip.html
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

__all__ = ["FuseClips"]

_Range = tuple[float, float]
BOUNDS_AS_INPUTS = 11
"""The version of ``Clip`` from which its bounds are inputs."""


@dataclasses.dataclass(frozen=True)
class FuseClips(RulePass):
    """Fuse nests of Clip and Relu; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-clips"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("clip-clip", ("Clip", "Relu"), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    middle, result = node.inputs[0], node.outputs[0]
    first = middle.producer() if middle is not None else None
    if first is None or first.domain or first.op_type not in ("Clip", "Relu"):
        return None
    x = first.inputs[0]
    # 1.
    if (
        middle is None
        or x is None
        or middle.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    ):
        return Reason("neither float32 nor double")
    dtype = middle.dtype.numpy()
    # 2.
    inner, outer = _range_of(first, facts, dtype), _range_of(node, facts, dtype)
    if inner is None or outer is None:
        return Reason("the bounds are not two constants in their order")
    # Of two equal bounds, which may be 0.0 and -0.0, the first one is what comes out.
    low, high = max(inner[0], outer[0]), min(inner[1], outer[1])
    # 3.
    if not low < high:
        return Reason("the ranges have no more than one point in common")
    if (low, high) == inner:
        return lambda edit: edit.supersede(node, middle)
    if (low, high) == outer and not _differ_in_sign(inner[0], outer[0]):
        return lambda edit: edit.set_input(node, 0, x)

    def rewrite(edit: Edit) -> None:
        bounds = [
            edit.constant(np.array(bound, dtype), f"{result.name}_{name}", near=node)
            for name, bound in (("low", low), ("high", high))
        ]
        edit.substitute(node, "Clip", [x, *bounds])

    return rewrite


def _range_of(node: ir.Node, facts: Facts, dtype: np.dtype) -> _Range | None:
    """Return the bounds of a ``Clip`` or ``Relu``; ``None`` where they are not known."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if facts.opset < BOUNDS_AS_INPUTS:
        return None
    largest = float(np.finfo(dtype).max)
    bounds = [-largest, largest]
    for index, value in enumerate(node.inputs[1:]):
        if value is not None:
            array = facts.array(value, max_elements=1)
            if array is None or array.size != 1:
                return None
            bounds[index] = float(array.item())
    low, high = bounds
    return (low, high) if low < high else None


def _differ_in_sign(a: float, b: float) -> bool:
    return a == b and np.signbit(a) != np.signbit(b)

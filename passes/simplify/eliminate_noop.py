"""Eliminate nodes whose output is their input.

Before -> after::

    y = Cast(x, to=FLOAT)       # x: float                       (removed)
    z = Relu(y)                                           ->     z = Relu(x)

Preconditions, per operator:
    1.  ``Cast``, ``CastLike``: the type stays.
    2.  ``Transpose``: no axis moves.
    3.  ``Reshape``, ``Flatten``, ``Squeeze``, ``Unsqueeze``, ``Expand``: the shape stays; two
        symbolic sizes are the same only where they follow from the same input.
    4.  ``Slice``: the shape stays and the steps are 1.
    5.  ``Pad``: all widths are 0.   ``Tile``: all repeats are 1.
    6.  ``Concat``, ``Max``, ``Min``, ``Mean``, ``Sum``: one input.
    7.  ``Split``: one output.
    8.  ``Dropout``: not in training mode, its mask is not used.
    9.  ``Gather``: the indices are 0, 1, … n - 1, for all n of a fixed size.
    10. A reduction with ``noop_with_empty_axes=1`` and no axes.
    11. ``Resize`` of all axes by 1, to the nearest element.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: a graph output that no other value can carry keeps an ``Identity``. Pools of one
element and ``Clip`` without bounds, which onnxruntime 1.31 does not pass infinities and NaN
through unchanged.
Reference: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic.layout import slice_bounds
from graphopt.edit import Rewrite
from graphopt.ir_access import is_used
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["EliminateNoop"]


@dataclasses.dataclass(frozen=True)
class EliminateNoop(RulePass):
    """Eliminate what changes nothing; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-noop"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return one rule an operator."""
        del context
        return [
            Rule(f"noop-{op_type.lower()}", (op_type,), _Noop(is_noop).match)
            for op_type, is_noop in sorted(_NOOPS.items())
        ]


@dataclasses.dataclass(frozen=True)
class _Noop:
    is_noop: Callable[[ir.Node, Facts], bool]

    def match(self, node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
        x = node.inputs[0] if node.inputs else None
        if x is None or not self.is_noop(node, facts):
            return None
        return lambda edit: edit.supersede(node, x)


def _cast(node: ir.Node, facts: Facts) -> bool:
    del facts
    x = node.inputs[0]
    # 1.
    return x is not None and x.dtype is not None and x.dtype == attribute(node, "to")


def _cast_like(node: ir.Node, facts: Facts) -> bool:
    del facts
    x, like = node.inputs[0], node.inputs[1]
    # 1.
    return x is not None and like is not None and x.dtype is not None and x.dtype == like.dtype


def _transpose(node: ir.Node, facts: Facts) -> bool:
    shape = facts.shape(node.inputs[0])
    perm = attribute(node, "perm")
    # 2.
    if perm is not None:
        return list(perm) == list(range(len(perm)))
    return shape is not None and len(shape) < 2


def _same_shape(node: ir.Node, facts: Facts) -> bool:
    # 3.
    shape = facts.shape(node.inputs[0])
    return shape is not None and shape == facts.shape(node.outputs[0])


def _slice(node: ir.Node, facts: Facts) -> bool:
    shape = facts.shape(node.inputs[0])
    bounds = None if shape is None else slice_bounds(node, facts.symbols, len(shape))
    # 4.
    steps = [step for _, _, step in bounds.values()] if bounds is not None else [0]
    return all(step == 1 for step in steps) and _same_shape(node, facts)


def _constants(node: ir.Node, facts: Facts, name: str, index: int) -> list[int] | None:
    """Return integers that are an attribute, or the content of an input."""
    if name in node.attributes:
        return list(attribute(node, name))
    content = facts.content(node.inputs[index]) if index < len(node.inputs) else None
    return None if content is None else content.reshape(-1).tolist()


def _pad(node: ir.Node, facts: Facts) -> bool:
    # 5.
    pads = _constants(node, facts, "pads", 1)
    return pads is not None and all(isinstance(p, int) and p == 0 for p in pads)


def _tile(node: ir.Node, facts: Facts) -> bool:
    # 5.
    repeats = _constants(node, facts, "repeats", 1)
    return repeats is not None and all(isinstance(r, int) and r == 1 for r in repeats)


def _one_input(node: ir.Node, facts: Facts) -> bool:
    del facts
    # 6.
    return len(node.inputs) == 1


def _split(node: ir.Node, facts: Facts) -> bool:
    del facts
    # 7.
    return len(node.outputs) == 1


def _dropout(node: ir.Node, facts: Facts) -> bool:
    # 8. Before version 12 there is no training mode, and before 7 it is an attribute.
    if facts.opset < 7 and not attribute(node, "is_test", 0):
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    flag = None if training is None else facts.array(training, max_elements=1)
    trains = training is not None and (flag is None or bool(flag.item()))
    return not trains and not any(map(is_used, node.outputs[1:]))


def _gather(node: ir.Node, facts: Facts) -> bool:
    shape, indices = facts.shape(node.inputs[0]), facts.content(node.inputs[1])
    if not shape or indices is None or indices.ndim != 1:
        return False
    size = shape[attribute(node, "axis", 0)]
    # 9.
    return isinstance(size, int) and indices.tolist() == list(range(size))


def _reduction(node: ir.Node, facts: Facts) -> bool:
    # 10.
    if not attribute(node, "noop_with_empty_axes", 0):
        return False
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    content = None if axes is None else facts.content(axes)
    return axes is None or (content is not None and content.size == 0)


def _resize(node: ir.Node, facts: Facts) -> bool:
    # 11.
    if attribute(node, "mode", "nearest") != "nearest":
        return False
    if attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return False
    scales = facts.array(node.inputs[2], 16) if len(node.inputs) > 2 else None
    return scales is not None and scales.size > 0 and bool(np.all(scales == 1))


_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
_NOOPS: dict[str, Callable[[ir.Node, Facts], bool]] = {
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Expand"), _same_shape),
    **dict.fromkeys(("Concat", "Max", "Mean", "Min", "Sum"), _one_input),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), _reduction
    ),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
}

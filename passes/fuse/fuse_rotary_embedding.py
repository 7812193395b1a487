"""Fuse the rotation of queries and keys by their positions into ``RotaryEmbedding``.

Before -> after, ``y``: ``float[batch, length, heads * width]``, half of it ``h``::

    x = Transpose<perm=[0, 2, 1, 3]>(Reshape(y))
    r = Concat(Neg(x[..., h:]), x[..., :h])
    z = Add(Mul(x, cos), Mul(r, sin))
      ->
    c, s = Expand(cos[..., :h]), Expand(sin[..., :h])    float[batch, length, h]
    z = Transpose(Reshape(RotaryEmbedding<num_heads>(y, c, s)))

It rotates before heads are split, where all of a position lies together; the split comes after
it, for ``fuse-attention`` to take in. Slices may be a ``Split``; the split of heads may be
missing, then ``x`` is rotated as it is.

Preconditions, per match:
    1. The model imports opset 23, and ``x`` is float32.
    2. Both halves of ``cos`` are equal, and of ``sin``: constants, or computed element by
       element from a ``Concat`` of a value with itself.
    3. ``cos`` and ``sin`` are ``[1 or batch, 1, length, width]`` for ``x`` of the shape
       ``[batch, heads, length, width]``: the same for all heads.
    4. The halves of ``x`` are those of its last axis, the second one negated in front.

Numerics: close; measured: rtol 1e-6 of the largest output.
Scope: main graph and subgraphs.   Leaves alone: rotation of pairs that lie side by side.
Reference: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute
from graphopt.analysis.symbolic.expressions import Dim
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .attention.axes import Axis
from .attention.operands import Form, forms
from .variance import producer

__all__ = ["FuseRotaryEmbedding"]

OPSET = 23
ELEMENTWISE = ("Cast", "Cos", "Div", "Mul", "Sin", "Unsqueeze")
MAX_DISTANCE = 12


@dataclasses.dataclass(frozen=True)
class FuseRotaryEmbedding(RulePass):
    """Fuse rotations; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-rotary-embedding"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("rotary-embedding", ("Add",), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 4.
    found = _rotation(node, facts)
    if found is None:
        return None
    x, cos, sin = found
    # 1.
    if facts.opset < OPSET or x.dtype != ir.DataType.FLOAT:
        return Reason(f"RotaryEmbedding needs opset {OPSET} and float32")
    shape = facts.shape(x)
    if shape is None or len(shape) != 4:
        return Reason("what is rotated has not 4 dimensions")
    for table in (cos, sin):
        # 3.
        size = facts.shape(table)
        if size is None or len(size) != 4 or size[0] not in (1, shape[0]):
            return Reason("the angles have not the batch of what is rotated")
        if (size[1], *size[2:]) != (1, *shape[2:]):
            return Reason("the angles differ by head, or by less than a position")
        # 2.
        if not _has_equal_halves(table, facts):
            return Reason(f"the halves of {table.name!r} are not known to be equal")
    form = _unsplit(x, shape, facts)
    return functools.partial(_write, node=node, x=x, tables=(cos, sin), form=form, shape=shape)


def _rotation(node: ir.Node, facts: Facts) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Return x, cos and sin of ``x * cos + rotated(x) * sin``."""
    products = [producer(value, "Mul") for value in node.inputs]
    for first, second in (products, products[::-1]):
        if first is None or second is None:
            return None
        for index, rotated in enumerate(second.inputs):
            x = _rotated(rotated, facts)
            sin = second.inputs[1 - index]
            if x is None or sin is None or x not in first.inputs:
                continue
            cos = first.inputs[1 - list(first.inputs).index(x)]
            if cos is not None:
                return x, cos, sin
    return None


def _rotated(value: ir.Value | None, facts: Facts) -> ir.Value | None:
    """Return x, if ``value`` is its second half, negated, and its first."""
    joined, shape = producer(value, "Concat"), facts.shape(value)
    if joined is None or len(joined.inputs) != 2 or not shape:
        return None
    if attribute(joined, "axis") not in (-1, len(shape) - 1):
        return None
    negated = producer(joined.inputs[0], "Neg")
    if negated is None:
        return None
    high, low = _half(negated.inputs[0], facts), _half(joined.inputs[1], facts)
    if high is None or low is None or (high[1], low[1]) != (1, 0) or high[0] is not low[0]:
        return None
    return high[0]


def _half(value: ir.Value | None, facts: Facts) -> tuple[ir.Value, int] | None:
    """Return of what ``value`` is a half along the last axis, and which one."""
    node = producer(value, "Slice", "Split")
    source = node.inputs[0] if node is not None else None
    shape = facts.shape(source)
    if node is None or source is None or not shape or not isinstance(shape[-1], int):
        return None
    width, last = shape[-1], (-1, len(shape) - 1)
    if facts.shape(value) != (*shape[:-1], width // 2) or width % 2:
        return None
    if node.op_type == "Split":
        halves = len(node.outputs) == 2 and attribute(node, "axis", 0) in last
        return (source, int(value is node.outputs[1])) if halves else None
    if len(node.inputs) < 4:
        return None
    starts, _, axes = (facts.array(one, max_elements=1) for one in node.inputs[1:4])
    # A step other than 1 would need more than all elements to make a half that starts at 0.
    if len(node.inputs) > 4 and not np.array_equal(_list(facts, node.inputs[4]), [1]):
        return None
    if starts is None or axes is None or axes.size != 1 or int(axes.reshape(())) not in last:
        return None
    start = int(starts.reshape(()))
    return (source, 0 if start == 0 else 1) if start in (0, width // 2, -width // 2) else None


def _list(facts: Facts, value: ir.Value | None) -> list[int]:
    array = facts.array(value, max_elements=8)
    return [] if array is None else array.reshape(-1).tolist()


def _has_equal_halves(value: ir.Value, facts: Facts) -> bool:
    """Whether both halves of the last axis are the same."""
    for _ in range(MAX_DISTANCE):
        array = facts.array(value)
        if array is not None:
            half = array.shape[-1] // 2
            return bool((array[..., :half] == array[..., half:]).all())
        node, shape = value.producer(), facts.shape(value)
        if node is None or node.domain or not shape:
            return False
        first, second = (*node.inputs, None, None)[:2]
        if node.op_type == "Concat":
            return attribute(node, "axis") in (-1, len(shape) - 1) and (
                len(node.inputs) == 2 and first is second
            )
        if node.op_type in ("Mul", "Div") and facts.array(first, max_elements=1) is not None:
            first, second = second, first
        number = facts.array(second, max_elements=1)
        if node.op_type in ("Mul", "Div") and (number is None or number.size != 1):
            return False
        before = facts.shape(first)
        same_axis = before is not None and before[-1:] == shape[-1:]
        if node.op_type not in ELEMENTWISE or first is None or not same_axis:
            return False
        value = first
    return False


def _unsplit(x: ir.Value, shape: Sequence[Dim], facts: Facts) -> Form | None:
    """Return what the heads of ``x`` were split from, if it is one tensor of its own."""
    roles = ("lead", "lead", "row", "width")
    axes = [
        Axis(role, size, (at,))
        for at, (role, size) in enumerate(zip(roles, shape, strict=True))
    ]
    view = tuple((axis,) if axis.size != 1 else () for axis in axes)
    found = [
        form
        for form in forms(x, view, facts)
        if (form.rank, form.parts, form.scale, form.exact) == (3, 1, 1.0, True)
        and (form.batch, form.heads, form.repeats) == (shape[0], shape[1], 1)
        and isinstance(form.heads, int)
    ]
    return found[-1] if found else None


def _write(
    edit: Edit,
    node: ir.Node,
    x: ir.Value,
    tables: tuple[ir.Value, ...],
    form: Form | None,
    shape: Sequence[Dim],
) -> None:
    def integers(numbers: list[int], name: str) -> ir.Value:
        return edit.constant(np.array(numbers, np.int64), name, near=node)

    heads, width = shape[1], shape[3]
    assert isinstance(width, int)
    one, zero, last = integers([1], "one"), integers([0], "zero"), integers([-1], "last")
    source = x if form is None else form.value
    (batch,) = edit.node("Shape", [source], before=node, attributes={"start": 0, "end": 1})
    (whole,) = edit.node("Concat", [batch, one, one], before=node, attributes={"axis": 0})
    half = integers([width // 2], "half")
    halves: list[ir.Value] = []
    for table in tables:
        (flat,) = edit.node("Squeeze", [table, one], before=node)
        (part,) = edit.node("Slice", [flat, zero, half, last, one], before=node)
        halves += edit.node("Expand", [part, whole], before=node)
    if form is None:
        (result,) = edit.node("RotaryEmbedding", [source, *halves], before=node)
    else:
        assert isinstance(heads, int)
        (turned,) = edit.node(
            "RotaryEmbedding",
            [source, *halves],
            before=node,
            attributes={"num_heads": heads},
            like=[source],
        )
        apart = integers([0, 0, heads, width], "heads")
        (split,) = edit.node("Reshape", [turned, apart], before=node)
        attributes = {"perm": [0, 2, 1, 3]}
        (result,) = edit.node("Transpose", [split], before=node, attributes={**attributes})
    edit.supersede(node, result)

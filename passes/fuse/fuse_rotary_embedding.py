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

Two numbers that are rotated together may also be neighbours, ``x[..., ::2]`` and
``x[..., 1::2]``, put back in turn; both may be computed apart, ``a * cos - b * sin`` and
``b * cos + a * sin``; positions may come before heads (``rotation.py``).

Preconditions, per match:
    1. The model imports opset 23, and all three are float32 or float16.
    2. Where ``cos`` and ``sin`` are as wide as ``x``, the two numbers of each two are equal:
       constants, or computed element by element from a ``Concat`` of a value with itself, or,
       of neighbours, from a ``Reshape`` of pairs that were repeated.
    3. ``cos`` and ``sin`` are ``[1 or batch, 1, length, width]`` for ``x`` of the shape
       ``[batch, heads, length, width]``, or ``[1 or batch, length, 1, width]`` for
       ``[batch, length, heads, width]``: the same for all heads. Leading 1 may be missing.
    4. The two numbers are those of the halves of its last axis, or neighbours.

Numerics: close; measured: rtol 1e-6 of the largest output, 5e-3 in float16.
Scope: main graph and subgraphs.   Leaves alone: rotation of a part of the width, as a whole.
Reference: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic.expressions import Dim
from graphopt.edit import AttributeValue, Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .angles import has_equal_twos
from .attention.axes import Axis
from .attention.operands import Form, forms
from .rotation import JOINS, Rotation, find_rotation

__all__ = ["FuseRotaryEmbedding"]

OPSET = 23
TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclasses.dataclass(frozen=True)
class FuseRotaryEmbedding(RulePass):
    """Fuse rotations; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-rotary-embedding"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("rotary-embedding", JOINS, _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 4.
    found = find_rotation(node, facts)
    if found is None:
        return None
    # 1.
    kinds = {value.dtype for value in (found.x, found.cos, found.sin)}
    if facts.opset < OPSET or len(kinds) > 1 or not kinds < set(TYPES):
        return Reason(f"RotaryEmbedding needs opset {OPSET} and float32 or float16")
    shape = found.shape
    if len(shape) != 4 or not isinstance(shape[3], int):
        return Reason("what is rotated has not 4 dimensions")
    # 3.
    axes = [_head_axis(table, found, facts) for table in (found.cos, found.sin)]
    if axes[0] is None or axes[0] != axes[1]:
        return Reason("the angles differ by head, or are not of the batch and the positions")
    # 2.
    for table in (found.cos, found.sin):
        if found.whole and not has_equal_twos(table, found.interleaved, facts):
            return Reason(f"the twos of {table.name!r} are not known to be equal")
    if axes[0] == 2 and not isinstance(shape[2], int):
        return Reason("the number of heads is not known")
    form = _unsplit(found.x, shape, facts) if axes[0] == 1 else None
    return functools.partial(_write, found=found, head_axis=axes[0], form=form, facts=facts)


def _head_axis(table: ir.Value, found: Rotation, facts: Facts) -> int | None:
    """Return which axis of x the heads are that ``table`` is the same for."""
    shape, size = found.shape, facts.shape(table)
    last = shape[3]
    if size is None or not 2 <= len(size) <= 4 or not isinstance(last, int):
        return None
    full = (1,) * (4 - len(size)) + size
    width = last if found.whole else last // 2
    if full[0] not in (1, shape[0]):
        return None
    if full[1:] == (1, shape[2], width):
        return 1
    return 2 if full[1:] == (shape[1], 1, width) else None


def _unsplit(x: ir.Value, shape: Sequence[Dim], facts: Facts) -> Form | None:
    """Return what the heads of ``x`` were split from, if it is one tensor of its own."""
    if facts.shape(x) != tuple(shape):
        return None
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
    edit: Edit, found: Rotation, head_axis: int, form: Form | None, facts: Facts
) -> None:
    node, shape = found.last, found.shape

    def integers(numbers: list[int], name: str) -> ir.Value:
        return edit.constant(np.array(numbers, np.int64), name, near=node)

    heads, width = shape[head_axis], shape[3]
    assert isinstance(width, int)
    one, zero, last = integers([1], "one"), integers([0], "zero"), integers([-1], "last")
    source = found.x if form is None else form.value
    attributes: dict[str, AttributeValue] = {"interleaved": 1} if found.interleaved else {}
    if form is not None or head_axis == 2:
        attributes["num_heads"] = heads if isinstance(heads, int) else 0
    if head_axis == 2 or len(facts.shape(source) or ()) > 4:
        last_axes = (
            [heads * width] if isinstance(heads, int) and head_axis == 2 else [0, width]
        )
        whole_axes = integers([0, 0, *last_axes], "whole")
        (source,) = edit.node("Reshape", [source, whole_axes], before=node)
        edit.set_type(source, found.x.type, None)
    (batch,) = edit.node("Shape", [source], before=node, attributes={"start": 0, "end": 1})
    (whole,) = edit.node("Concat", [batch, one, one], before=node, attributes={"axis": 0})
    end, step = (width, 2) if found.interleaved else (width // 2, 1)
    tables: list[ir.Value] = []
    for table in (found.cos, found.sin):
        rank = len(facts.shape(table) or ())
        # Without heads: [1 or batch, length, width], or [length, width].
        place = head_axis - (4 - rank)
        if place >= 0:
            axis = one if place == 1 else integers([place], "axis")
            (table,) = edit.node("Squeeze", [table, axis], before=node)
        if found.whole:
            parts = [table, zero, integers([end], "end"), last, integers([step], "step")]
            (table,) = edit.node("Slice", parts, before=node)
        tables += edit.node("Expand", [table, whole], before=node)
    (result,) = edit.node(
        "RotaryEmbedding", [source, *tables], before=node, attributes=attributes, like=[source]
    )
    if form is not None or head_axis == 2:
        assert isinstance(heads, int)
        apart = integers([0, 0, heads, width], "heads")
        (result,) = edit.node("Reshape", [result, apart], before=node)
    if form is not None:
        by_head: dict[str, AttributeValue] = {"perm": [0, 2, 1, 3]}
        (result,) = edit.node("Transpose", [result], before=node, attributes=by_head)
    edit.supersede(node, result)

"""Queries, keys and values, traced back through scale and layout to where they were made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute
from graphopt.analysis.symbolic.expressions import Dim, product

from .axes import Axis, View, axes_of, permuted, regrouped

__all__ = ["LAYOUT", "Form", "constant_factor", "form_of", "forms", "in_order", "perm_of"]

LAYOUT = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclasses.dataclass(frozen=True)
class Form:
    """A value that holds an operand, as an attention operator takes it.

    Attributes:
        value: The value.
        rank: 3: ``[batch, length, heads * width]``; 4: ``[batch, heads, length, width]``.
        batch: Length of the first dimension.
        heads: Heads in ``value``.
        repeats: How often each of them is used, one after the other.
        width: Width of a head.
        scale: What ``value`` is multiplied by on the way.
        parts: How many tensors of its kind the last dimension of ``value`` holds.
        part: Which of them is meant.
        last: Of a result: the node whose output ``value`` is.
        exact: Whether ``value`` has the shape that ``rank`` says, and not just its elements
            in that order; an operand is then ``[batch, length, heads, width]``.
        past: Keys or values from before that stand in front of those of ``value``:
            ``[batch, heads, earlier, width]``.
        present: Both together, of that layout.
    """

    value: ir.Value
    rank: int
    batch: Dim
    heads: Dim
    repeats: Dim
    width: Dim
    scale: float = 1.0
    parts: int = 1
    part: int = 0
    last: ir.Node | None = None
    exact: bool = True
    past: ir.Value | None = None
    present: ir.Value | None = None


def forms(
    value: ir.Value, view: View, facts: Facts, broadcast: Sequence[Axis] = ()
) -> Iterator[Form]:
    """Yield the forms of an operand, the nearest first.

    Args:
        value: The operand.
        view: Its view.
        facts: Facts of the model.
        broadcast: The axes that it is repeated along already.
    """
    scale = 1.0
    repeated = list(broadcast)
    past: ir.Value | None = None
    present: ir.Value | None = None
    while True:
        form = form_of(value, view, repeated)
        if form is None and len(view) == 4:
            flat = form_of(value, (*view[:2], (*view[2], *view[3])), repeated)
            form = dataclasses.replace(flat, exact=False) if flat is not None else None
        if form is not None:
            yield dataclasses.replace(form, scale=scale, past=past, present=present)
        node = value.producer()
        if node is None or node.domain or not node.inputs:
            return
        behind = _behind_past(node, value, view, repeated, facts) if past is None else None
        if behind is not None:
            present, past = value, node.inputs[0]
            value, view = behind
            continue
        # What is done to new keys or values alone cannot be done to all of them.
        factor = constant_factor(node, facts) if past is None else None
        if factor is not None:
            value, scale = factor[0], scale * factor[1]
            continue
        if node.op_type == "Expand" and past is not None:
            return
        source = node.inputs[0]
        shape = facts.shape(source)
        if source is None or shape is None:
            return
        before = _view_before(node, value, view, shape, repeated, facts)
        if before is None:
            return
        value, view = source, before


def _behind_past(
    node: ir.Node, value: ir.Value, view: View, repeated: Sequence[Axis], facts: Facts
) -> tuple[ir.Value, View] | None:
    """Return the second of two tensors that ``node`` joins along keys, and its view."""
    form = form_of(value, view, repeated) if node.op_type == "Concat" else None
    if form is None or (form.rank, form.parts) != (4, 1) or len(node.inputs) != 2:
        return None
    # Nobody has queries from before.
    if [axis.role for axis in view[2]] != ["column"]:
        return None
    new = node.inputs[1]
    earlier, later = facts.shape(node.inputs[0]), facts.shape(new)
    if new is None or earlier is None or later is None or len(earlier) != 4:
        return None
    if attribute(node, "axis") not in (2, -2) or len(later) != 4:
        return None
    rows = (Axis("column", later[2]),) if later[2] != 1 else ()
    return new, (*view[:2], rows, view[3])


def _view_before(
    node: ir.Node,
    value: ir.Value,
    view: View,
    shape: Sequence[Dim],
    repeated: list[Axis],
    facts: Facts,
) -> View | None:
    """Return the view of the first input of ``node``; axes it repeats go to ``repeated``."""
    if node.op_type == "Transpose":
        return permuted(view, perm_of(node, len(shape)))
    if node.op_type in LAYOUT:
        return regrouped(view, shape)
    if node.op_type == "Expand":
        padded = (1,) * (len(view) - len(shape)) + tuple(shape)
        new = [
            axis
            for size, group in zip(padded, view, strict=True)
            if size == 1
            for axis in group
            if axis.size != 1
        ]
        lengths = [product(axis.size for axis in group) for group in view]
        if any(a not in (b, 1) for a, b in zip(padded, lengths, strict=True)):
            return None
        repeated += new
        kept = [() if a == 1 else group for a, group in zip(padded, view, strict=True)]
        return tuple(kept[len(view) - len(shape) :])
    axis = attribute(node, "axis", 0) % len(shape) if shape else 0
    if node.op_type == "Gather":
        index = facts.array(node.inputs[1], max_elements=1)
        count = shape[axis]
        if index is None or index.ndim or not isinstance(count, int) or not count:
            return None
        part = Axis("part", count, index=int(index) % count)
        return (*view[:axis], (part,), *view[axis:])
    if node.op_type == "Split":
        size = product(one.size for one in view[axis])
        parts = [facts.shape(output) for output in node.outputs]
        if any(one is None or one[axis] != size for one in parts):
            return None
        part = Axis("part", len(node.outputs), index=list(node.outputs).index(value))
        return (*view[:axis], (part, *view[axis]), *view[axis + 1 :])
    return None


def form_of(value: ir.Value, view: View, repeated: Sequence[Axis]) -> Form | None:
    """Return the form of a value with ``view``, if it is one an operator takes."""
    groups = [[axis for axis in group if axis.size != 1] for group in view]
    present = axes_of(view)
    parts = [axis for axis in present if axis.role == "part"]
    leads = [axis for axis in present if axis.role == "lead"]
    if len(groups) not in (3, 4) or len(parts) > 1 or not present:
        return None
    # Batch first, then heads; what is repeated must be heads that follow each other.
    batch = groups[0]
    heads = [axis for axis in leads if axis not in batch]
    every = sorted([*leads, *repeated], key=lambda axis: axis.order)
    if [*batch, *heads, *repeated] != every or any(a.role != "lead" for a in repeated):
        return None
    width, row = in_order(present, "width"), in_order(present, "row", "column")
    expected = [batch, row, [*parts, *heads, *width]]
    if len(groups) == 4:
        expected = [batch, heads, row, [*parts, *width]]
    if groups != expected or (parts and len(groups) == 4):
        return None
    return Form(
        value,
        len(groups),
        product(axis.size for axis in batch),
        product(axis.size for axis in heads),
        product(axis.size for axis in repeated),
        product(axis.size for axis in width),
        parts=int(parts[0].size) if parts and isinstance(parts[0].size, int) else 1,
        part=parts[0].index if parts else 0,
    )


def in_order(axes: Sequence[Axis], *roles: str) -> list[Axis]:
    """Return the axes of ``roles`` as an operator has them: in another order, it is wrong."""
    return sorted((one for one in axes if one.role in roles), key=lambda one: one.order)


def constant_factor(node: ir.Node, facts: Facts) -> tuple[ir.Value, float] | None:
    """Return what ``node`` multiplies by one constant number, and the number."""
    if node.domain or node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    for variable, constant in ((a, b), (b, a)):
        if node.op_type == "Div" and constant is a:
            continue
        array = facts.array(constant, max_elements=1)
        if variable is None or array is None or array.size != 1:
            continue
        shape = facts.shape(variable)
        number = float(np.asarray(array).reshape(()))
        if shape is None or array.ndim > len(shape) or not math.isfinite(number) or not number:
            continue
        return variable, number if node.op_type == "Mul" else 1.0 / number
    return None


def perm_of(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Return the permutation of a ``Transpose`` of a tensor of ``rank``."""
    return tuple(attribute(node, "perm", tuple(reversed(range(rank)))))

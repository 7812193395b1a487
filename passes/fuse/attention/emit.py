"""Writes what an attention operator takes and gives, in the shapes it wants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic.targets import reshape_target
from graphopt.edit import Edit

from .find import Attention
from .masks import ABOVE_LOWEST, MaskPlan, Summand
from .operands import Form

__all__ = ["add_masks", "inputs_of", "put_result"]


def inputs_of(edit: Edit, found: Attention, facts: Facts) -> list[ir.Value]:
    """Return queries, keys and values, taken apart or reshaped where necessary."""
    made: dict[tuple[ir.Value, int], tuple[ir.Value, ...]] = {}
    inputs = []
    for form in (found.q, found.k, found.v):
        if form.parts > 1:
            key = form.value, form.parts
            if key not in made:
                made[key] = _split(edit, found.product, form, facts)
            inputs.append(made[key][form.part])
        elif form.exact:
            inputs.append(form.value)
        else:
            assert isinstance(form.heads, int)
            assert isinstance(form.width, int)
            target = np.array([0, 0, form.heads * form.width], np.int64)
            inputs.append(_reshape(edit, found.product, form.value, target))
    return inputs


def _split(edit: Edit, before: ir.Node, form: Form, facts: Facts) -> tuple[ir.Value, ...]:
    assert isinstance(form.heads, int)
    assert isinstance(form.width, int)
    sizes = [form.heads * form.width] * form.parts
    if facts.opset < 13:
        return edit.node(
            "Split",
            [form.value],
            before=before,
            outputs=form.parts,
            attributes={"axis": 2, "split": sizes},
        )
    split = edit.constant(np.array(sizes, np.int64), "split", near=before)
    return edit.node(
        "Split",
        [form.value, split],
        before=before,
        outputs=form.parts,
        attributes={"axis": 2},
    )


def _reshape(edit: Edit, before: ir.Node, value: ir.Value, target: np.ndarray) -> ir.Value:
    shape = edit.constant(target, "shape", near=before)
    return edit.node("Reshape", [value, shape], before=before)[0]


def put_result(
    edit: Edit, found: Attention, results: Sequence[ir.Value], facts: Facts
) -> None:
    """Let ``results`` replace what was computed so far, in its shape.

    Args:
        edit: The edit.
        found: The attention.
        results: Its result; where there were keys and values from before, all keys and values
            as well.
        facts: Facts of the model.
    """
    result, *presents = results
    for form, present in zip((found.k, found.v), presents, strict=False):
        _put_present(edit, found, form, present)
    form = found.result
    last = form.last
    assert last is not None
    if not form.exact:
        heads, width = found.q.heads, form.width
        assert isinstance(heads, int)
        assert isinstance(width, int)
        rows = facts.shape(found.q.value)
        shape = facts.shape(form.value)
        assert rows is not None
        assert shape is not None
        target = reshape_target((found.q.batch, rows[1], heads * width), shape)
        if target is not None:
            result = _reshape(edit, found.product, result, np.array(target, np.int64))
        else:
            (result,) = edit.node("Reshape", [result, last.inputs[1]], before=last)
    edit.supersede(last, result)
    edit.remove(*(node for node in found.nodes if node is not last))


def _put_present(edit: Edit, found: Attention, form: Form, present: ir.Value) -> None:
    """Let ``present`` replace the keys or values that were joined."""
    old = form.present
    concat = old.producer() if old is not None else None
    assert old is not None
    assert concat is not None
    # What was made of it comes before the operator.
    edit.remove(*(found.between(old) or ()))
    edit.remove(*found.nodes)
    edit.set_type(present, old.type, old.shape.copy() if old.shape is not None else None)
    edit.supersede(concat, present)


def add_masks(
    edit: Edit,
    found: Attention,
    plan: MaskPlan,
    q: ir.Value,
    k: ir.Value,
    facts: Facts,
    *,
    keep_lowest: bool,
) -> ir.Value | None:
    """Return the sum of all masks, in 4 dimensions of which the last two are full.

    Args:
        edit: The edit.
        found: The attention.
        plan: Its masks.
        q: Queries as the operator takes them.
        k: Keys.
        facts: Facts of the model.
        keep_lowest: Whether the lowest number may stay in it.
    """
    total: ir.Value | None = None
    before = found.product
    for summand in plan.masks:
        value = _additive(edit, found, summand, facts)
        total = value if total is None else edit.node("Add", [total, value], before=before)[0]
    if total is None:
        return None
    if not keep_lowest and any(-np.inf < low < ABOVE_LOWEST for low in plan.floors or ()):
        floor = edit.constant(np.array(ABOVE_LOWEST, _kind(found)), "floor", near=before)
        (total,) = edit.node("Max", [total, floor], before=before)
    if not plan.full:
        one = edit.constant(np.array([1], np.int64), "one", near=before)
        axis = found.q.rank - 2
        lengths = [_length(edit, before, value, axis, facts) for value in (q, k)]
        (shape,) = edit.node(
            "Concat", [one, one, *lengths], before=before, attributes={"axis": 0}
        )
        (total,) = edit.node("Expand", [total, shape], before=before)
    return total


def _kind(found: Attention) -> np.dtype:
    """Return the type of the scores."""
    assert found.q.value.dtype is not None
    return found.q.value.dtype.numpy()


def _additive(edit: Edit, found: Attention, summand: Summand, facts: Facts) -> ir.Value:
    value, mask, before = summand.mask.value, summand.mask, found.product
    if mask.fill is not None:
        zero = edit.constant(np.zeros((), _kind(found)), "zero", near=before)
        fill = edit.constant(np.array(mask.fill, _kind(found)), "fill", near=before)
        branches = [fill, zero] if mask.dropped else [zero, fill]
        (value,) = edit.node("Where", [value, *branches], before=before)
    if not summand.new_axes:
        return value
    if facts.opset < 13:
        attributes = {"axes": list(summand.new_axes)}
        return edit.node("Unsqueeze", [value], before=before, attributes={**attributes})[0]
    axes = edit.constant(np.array(summand.new_axes, np.int64), "axes", near=before)
    return edit.node("Unsqueeze", [value, axes], before=before)[0]


def _length(edit: Edit, before: ir.Node, value: ir.Value, axis: int, facts: Facts) -> ir.Value:
    """Return the length of one dimension, as a tensor of one element."""
    if facts.opset >= 15:
        attributes = {"start": axis, "end": axis + 1}
        return edit.node("Shape", [value], before=before, attributes={**attributes})[0]
    (shape,) = edit.node("Shape", [value], before=before)
    index = edit.constant(np.array([axis], np.int64), "axis", near=before)
    return edit.node("Gather", [shape, index], before=before, attributes={"axis": 0})[0]

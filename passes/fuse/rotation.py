"""Rotation by position, by what it computes.

Numbers of the last axis of ``x`` are taken in twos ``(a, b)``, the ones of each half or
neighbours, and become ``(a * cos - b * sin, b * cos + a * sin)``. It is spelled as
``x * cos + turned * sin`` with tables of the width of ``x``, where ``turned`` has ``(-b, a)``,
or for each of the two apart, with tables of half of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute
from graphopt.analysis.symbolic import Shape

from .variance import producer

__all__ = ["JOINS", "Rotation", "find_rotation"]

JOINS = ("Add", "Concat")
"""Operators that ``find_rotation`` looks at."""


@dataclasses.dataclass(frozen=True)
class Rotation:
    """One rotation.

    Attributes:
        x: What is rotated; its last two axes may be pairs, ``[..., width / 2, 2]``.
        shape: Its shape, with the width as the last axis.
        cos, sin: The tables.
        interleaved: Whether neighbours belong together, and not the halves.
        whole: Whether the tables have the width of ``x``, and not half of it.
        last: The node whose output is the result.
    """

    x: ir.Value
    shape: Shape
    cos: ir.Value
    sin: ir.Value
    interleaved: bool
    whole: bool
    last: ir.Node


@dataclasses.dataclass(frozen=True)
class _Part:
    """The first or the second number of all twos."""

    x: ir.Value
    interleaved: bool
    index: int


def find_rotation(node: ir.Node, facts: Facts) -> Rotation | None:
    """Return the rotation that ``node`` joins, an ``Add`` or a ``Concat``, if it does."""
    return _of_whole(node, facts) if node.op_type == "Add" else _of_parts(node, facts)


def _of_whole(node: ir.Node, facts: Facts) -> Rotation | None:
    """Match ``x * cos + turned * sin``."""
    products = [producer(value, "Mul") for value in node.inputs]
    for first, second in (products, products[::-1]):
        if first is None or second is None:
            return None
        for turned, sin in (second.inputs, second.inputs[::-1]):
            found = _turned(turned, facts)
            if found is None or sin is None or found.x not in first.inputs:
                continue
            cos = first.inputs[1 - list(first.inputs).index(found.x)]
            shape = facts.shape(found.x)
            if cos is not None and shape is not None:
                return Rotation(found.x, shape, cos, sin, found.interleaved, True, node)
    return None


def _turned(value: ir.Value | None, facts: Facts) -> _Part | None:
    """Return what ``value`` holds ``(-b, a)`` of, as its first part."""
    joined = producer(value, "Concat", "Reshape")
    twos = _joined(joined, facts)
    negated = producer(twos[0], "Neg") if twos is not None else None
    if twos is None or negated is None or (twos[2] is not joined):
        return None
    b, a = _part(negated.inputs[0], facts), _part(twos[1], facts)
    if a is None or b is None or (a.index, b.index) != (0, 1):
        return None
    same = a.x is b.x and a.interleaved == b.interleaved == twos[3]
    return a if same else None


def _of_parts(node: ir.Node, facts: Facts) -> Rotation | None:
    """Match ``(a * cos - b * sin, b * cos + a * sin)``, joined."""
    twos = _joined(node, facts)
    if twos is None:
        return None
    first, second, last, interleaved = twos
    sub, add = producer(first, "Sub"), producer(second, "Add")
    if sub is None or add is None:
        return None
    rest = [set(one.inputs) for value in add.inputs if (one := producer(value, "Mul"))]
    for a, cos in _factors(sub.inputs[0]):
        for b, sin in _factors(sub.inputs[1]):
            low, high = _part(a, facts), _part(b, facts)
            if low is None or high is None or (low.index, high.index) != (0, 1):
                continue
            if low.x is not high.x or not low.interleaved == high.interleaved == interleaved:
                continue
            if {a, sin} in rest and {b, cos} in rest and len(rest) == 2:
                shape, of_part = facts.shape(last.outputs[0]), facts.shape(a)
                # Else x is broadcast to the tables, too.
                if shape and of_part and shape[:-1] == of_part[:-1]:
                    return Rotation(low.x, shape, cos, sin, interleaved, False, last)
    return None


def _factors(value: ir.Value | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    node = producer(value, "Mul")
    if node is not None and node.inputs[0] is not None and node.inputs[1] is not None:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


def _joined(
    node: ir.Node | None, facts: Facts
) -> tuple[ir.Value, ir.Value, ir.Node, bool] | None:
    """Return two tensors, the node that has put them together, and whether in turn.

    Args:
        node: The last node, or, where they are put together in turn, the ``Concat``.
        facts: Facts of the model.
    """
    concat = (
        node
        if node is None or node.op_type == "Concat"
        else producer(node.inputs[0], "Concat")
    )
    shape = facts.shape(concat.outputs[0]) if concat is not None else None
    if concat is None or shape is None or len(concat.inputs) != 2:
        return None
    if attribute(concat, "axis") not in (-1, len(shape) - 1):
        return None
    a, b = concat.inputs
    if a is None or b is None:
        return None
    if node is concat and shape[-1] != 2:
        return a, b, concat, False
    reshape = facts.only_use(concat.outputs[0])
    sources = [producer(one, "Unsqueeze") for one in (a, b)]
    if reshape is None or reshape.op_type != "Reshape" or reshape.domain:
        return None
    inner = [one.inputs[0] for one in sources if one is not None]
    result = facts.shape(reshape.outputs[0])
    if len(inner) != 2 or inner[0] is None or inner[1] is None or shape[-1] != 2:
        return None
    flat = (*shape[:-2], shape[-2] * 2)
    known = all(facts.shape(one) == shape[:-1] for one in inner)
    return (inner[0], inner[1], reshape, True) if known and result == flat else None


def _part(value: ir.Value | None, facts: Facts) -> _Part | None:
    """Return of what ``value`` is the first or the second numbers."""
    node = producer(value, "Gather", "Slice", "Split", "Squeeze")
    source = node.inputs[0] if node is not None else None
    shape = facts.shape(source)
    if node is None or source is None or not shape:
        return None
    if node.op_type == "Gather":
        index = facts.array(node.inputs[1], max_elements=1)
        if (
            index is None
            or index.ndim
            or attribute(node, "axis", 0) % len(shape) + 1 != len(shape)
        ):
            return None
        return _of_pair(source, int(index) % 2, facts)
    if node.op_type == "Squeeze":
        inner = _part(source, facts)
        dropped = inner is not None and facts.shape(value) == shape[:-1]
        if inner is None or inner.interleaved or shape[-1] != 1 or not dropped:
            return None
        return _of_pair(inner.x, inner.index, facts)
    width, last = shape[-1], (-1, len(shape) - 1)
    if not isinstance(width, int) or width % 2:
        return None
    if facts.shape(value) != (*shape[:-1], width // 2):
        return None
    if node.op_type == "Split":
        halves = len(node.outputs) == 2 and attribute(node, "axis", 0) in last
        return _Part(source, False, int(value is node.outputs[1])) if halves else None
    if len(node.inputs) < 4:
        return None
    start, axis = (_number(facts, node.inputs[at]) for at in (1, 3))
    step = _number(facts, node.inputs[4]) if len(node.inputs) > 4 else 1
    if axis not in last or start is None:
        return None
    # With half of the elements in it, where a slice starts says what it holds.
    if step == 2 and start in (0, 1):
        return _Part(source, True, start)
    if step != 1 or start not in (0, width // 2, -width // 2):
        return None
    return _Part(source, False, int(start != 0))


def _of_pair(pairs: ir.Value | None, index: int, facts: Facts) -> _Part | None:
    """Return one of the two of ``pairs``, of the shape ``[..., width / 2, 2]``."""
    shape = facts.shape(pairs)
    if pairs is None or shape is None or len(shape) < 2 or shape[-1] != 2:
        return None
    reshape = producer(pairs, "Reshape")
    before = reshape.inputs[0] if reshape is not None else None
    is_flat = before is not None and facts.shape(before) == (*shape[:-2], shape[-2] * 2)
    # Where other axes were split in the same Reshape, there is nothing else to start from.
    return _Part(before if before is not None and is_flat else pairs, True, index)


def _number(facts: Facts, value: ir.Value | None) -> int | None:
    """Return the one integer that ``value`` holds."""
    array = facts.array(value, max_elements=1)
    return (
        int(np.asarray(array).reshape(())) if array is not None and array.size == 1 else None
    )

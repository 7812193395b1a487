"""Fuse a slice with the slice before it, or with the ``Concat`` before or behind it.

Before -> after::

    y = Slice(x, 1, 9, axes=0)                  z = Slice(x, [1, 2], [9, 5], axes=[0, 1])
    z = Slice(y, 2, 5, axes=1)           ->     (y only where something else uses it)

    y = Slice(x, 2, maximum, axes=1)            z = Slice(x, 3, -1, axes=1)
    z = Slice(y, 1, -1, axes=1)          ->     (y only where something else uses it)

    y = Concat(a, b, c, axis=1)                 z = b
    z = Slice(y, 8, 16, axes=1)          ->     # a, b, c: float[N, 8]

    a = Slice(x, 0, n, axes=1)                  z = x
    b = Slice(x, n, maximum, axes=1)     ->     (a and b only where something else uses them)
    z = Concat(a, b, axis=1)

Preconditions, per match:
    1. All bounds are numbers, so that those of the result are.
    2. An axis that both cut has a fixed size; or both go forwards by 1 from a start that is
       not counted from the back, and of the two ends one is the end of the axis, or both are
       counted from the same side.
    3. ``Concat``: the slice is along its axis only, by 1, and takes whole parts: from where
       one begins to where the same or a later one ends, by the sizes of all parts before.
    4. ``Concat`` of slices of one value, along its axis only and by 1: the first begins at 0,
       each begins where the one before ends, the last ends at the end; with more than two,
       what is in between are numbers that grow.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Slice.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.analysis.symbolic import Dim
from graphopt.analysis.symbolic.layout import is_out_of_step, slice_bounds
from graphopt.edit import AttributeValue, Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FuseSlices"]

_Bounds: TypeAlias = tuple[int, int, int]

BOUNDS_ARE_INPUTS = 10
TO_THE_END = int(np.iinfo(np.int64).max)
MAX_PARTS = 64
"""Slices of a Concat of more parts would each look at all of them."""
AN_END = int(np.iinfo(np.int32).max)
"""From here on an end is "to the end": what exporters write, also in 32 bits."""


@dataclasses.dataclass(frozen=True)
class FuseSlices(RulePass):
    """Fuse slices of slices and of joined parts; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-slices"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("slice-slice", ("Slice",), _match),
            Rule("concat-slice", ("Slice",), _match_concat),
            Rule("slices-concat", ("Concat",), _match_slices),
        ]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    first = producer(node.inputs[0], "Slice")
    x = first.inputs[0] if first is not None else None
    if first is None or x is None:
        return None
    shape = facts.shape(x)
    # 1.
    inner, outer = _numbers(first, facts, shape), _numbers(node, facts, shape)
    if shape is None or inner is None or outer is None:
        return Reason("a bound of the two is not a number")
    bounds = dict(inner)
    for axis, bound in outer.items():
        # 2.
        both = _composed(shape[axis], inner[axis], bound) if axis in inner else bound
        if both is None:
            return Reason(f"what the two leave of axis {axis} depends on its size")
        bounds[axis] = both
    if any(step != 1 for _, _, step in bounds.values()) and facts.opset < BOUNDS_ARE_INPUTS:
        return Reason("before version 10 a Slice has no steps")

    def rewrite(edit: Edit) -> None:
        result = node.outputs[0]
        axes = sorted(bounds)
        columns: dict[str, list[int]] = {
            "starts": [bounds[axis][0] for axis in axes],
            "ends": [bounds[axis][1] for axis in axes],
            "axes": axes,
            "steps": [bounds[axis][2] for axis in axes],
        }
        if set(columns["steps"]) <= {1}:
            del columns["steps"]
        inputs: list[ir.Value | None] = [x]
        attributes: dict[str, AttributeValue] = {}
        if facts.opset < BOUNDS_ARE_INPUTS:
            attributes.update(columns)
        else:
            inputs += [
                edit.constant(np.array(data, np.int64), f"{result.name}_{name}", near=node)
                for name, data in columns.items()
            ]
        edit.substitute(node, "Slice", inputs, attributes)

    return rewrite


def _numbers(
    node: ir.Node, facts: Facts, shape: Sequence[Dim] | None
) -> dict[int, _Bounds] | None:
    """Return axis -> bounds, where all of them are numbers."""
    found = None if shape is None else slice_bounds(node, facts.symbols, len(shape))
    if found is None:
        return None
    numbers: dict[int, _Bounds] = {}
    for axis, (start, end, step) in found.items():
        if not isinstance(start, int) or not isinstance(end, int):
            return None
        numbers[axis] = (start, end, step)
    return numbers


def _composed(size: Dim, inner: _Bounds, outer: _Bounds) -> _Bounds | None:
    """Return what cuts as ``inner`` and then ``outer``; ``None`` where nothing does."""
    if 0 in (inner[2], outer[2]):
        return None
    if isinstance(size, int):
        whole = range(size)
        if is_out_of_step(size, *inner):
            return None
        kept = whole[slice(*inner)]
        if is_out_of_step(len(kept), *outer):
            return None
        kept = kept[slice(*outer)]
        if len(kept) < 2:
            # Whatever the steps are; two large ones could be more than 64 bits together.
            first = kept.start if kept else 0
            return first, first + len(kept), 1
        # Backwards to the first element: every end that is not negative would leave it out.
        stop = kept.stop if kept.stop >= 0 else -size - 1
        return kept.start, stop, kept.step
    (start, end, step), (start_2, end_2, step_2) = inner, outer
    if (step, step_2) != (1, 1) or start < 0 or start_2 < 0:
        return None
    if end_2 >= AN_END:
        last = end
    elif end >= AN_END:
        last = end_2 if end_2 < 0 else start + end_2
    elif end_2 < 0 and end < 0:
        last = end + end_2
    elif end_2 >= 0 and end >= 0:
        last = min(end, start + end_2)
    else:
        return None
    return min(start + start_2, TO_THE_END), max(min(last, TO_THE_END), -TO_THE_END), 1


def _match_concat(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    concat = producer(node.inputs[0], "Concat")
    if concat is None or len(concat.inputs) > MAX_PARTS:
        return None
    shapes = [facts.shape(value) for value in concat.inputs]
    whole = facts.shape(concat.outputs[0])
    bounds = None if whole is None else slice_bounds(node, facts.symbols, len(whole))
    if whole is None or bounds is None or None in shapes:
        return Reason("its bounds, or the sizes of the joined parts, are not known")
    # 3.
    axis = attribute(concat, "axis") % len(whole)
    if set(bounds) != {axis} or bounds[axis][2] != 1:
        return Reason("it cuts more than the axis of the Concat, or by steps")
    edges: list[Dim] = [0]
    for shape in shapes:
        assert shape is not None
        edges.append(edges[-1] + shape[axis])
    first, last = (_edge(bound, edges) for bound in bounds[axis][:2])
    if first is None or last is None or first >= last:
        return Reason("it does not take whole parts of the Concat")
    parts = concat.inputs[first:last]

    if len(parts) == 1:
        return lambda edit: edit.supersede(node, parts[0])
    return lambda edit: edit.substitute(node, "Concat", parts, dict(concat.attributes))


def _edge(bound: Dim, edges: Sequence[Dim]) -> int | None:
    """Return where ``bound`` is among the edges of the parts, the last one first."""
    total = edges[-1]
    if isinstance(bound, int):
        if bound >= AN_END:
            bound = total
        elif bound < 0:
            bound = total + bound
    return next((i for i in range(len(edges))[::-1] if edges[i] == bound), None)


def _match_slices(concat: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    slices = [producer(value, "Slice") for value in concat.inputs[:MAX_PARTS]]
    x = slices[0].inputs[0] if slices and slices[0] is not None else None
    if x is None or len(slices) != len(concat.inputs):
        return None
    shape = facts.shape(x)
    if shape is None or any(one is None or one.inputs[0] is not x for one in slices):
        return Reason("not all parts are slices of one value of known rank")
    axis = attribute(concat, "axis") % len(shape)
    edges: list[Dim] = [0]
    # 4.
    for one in slices:
        assert one is not None
        bounds = slice_bounds(one, facts.symbols, len(shape))
        if bounds is None or set(bounds) != {axis} or bounds[axis][2] != 1:
            return Reason("a slice is not known, or not along the axis of the Concat only")
        if bounds[axis][0] != edges[-1]:
            return Reason("a slice does not begin where the one before ends")
        edges.append(bounds[axis][1])
    last, between = edges.pop(), edges[1:]
    if last != shape[axis] and not (isinstance(last, int) and last >= AN_END):
        return Reason("the last slice does not end at the end")
    numbers = [edge for edge in between if isinstance(edge, int) and edge >= 0]
    if len(between) > 1 and (len(numbers) != len(between) or numbers != sorted(numbers)):
        return Reason("what is in between are not numbers that grow")
    return lambda edit: edit.supersede(concat, x)

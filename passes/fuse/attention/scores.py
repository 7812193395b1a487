"""From a ``Softmax`` back to the product of queries and keys, and on to that with values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute
from graphopt.analysis.symbolic.expressions import Dim, product
from graphopt.rewrite import Reason

from .axes import Axis, View, regrouped
from .masks import Mask, mask_of_where, uniform
from .operands import LAYOUT, constant_factor

__all__ = ["Probabilities", "Scores", "probabilities_of", "scores_of", "views_of_factors"]

MAX_DISTANCE = 16
LAST_AXIS_OPSET = 13
"""First version in which ``Softmax`` runs over the last axis by default."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """The input of a ``Softmax``: ``scale * product + masks``.

    Attributes:
        product: The ``MatMul`` of queries and keys.
        view: View of its output.
        scale: What the product is multiplied by.
        masks: What is added to it.
        nodes: All of it, which only the ``Softmax`` uses.
    """

    product: ir.Node
    view: View
    scale: float
    masks: tuple[Mask, ...]
    nodes: tuple[ir.Node, ...]


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """The output of a ``Softmax`` up to the product with the values.

    Attributes:
        product: The ``MatMul`` of probabilities and values.
        guarded: Whether ``NaN``, which a row without any finite score has, is made 0.
        guarded_by: The mask whose rows of ``-inf`` are made 0, where that is what is asked.
        nodes: All of it, which only the product uses.
        view: View of the first factor of the product.
    """

    product: ir.Node
    guarded: bool
    guarded_by: ir.Value | None
    nodes: tuple[ir.Node, ...]
    view: View


def score_view(shape: Sequence[Dim]) -> View:
    """Return the view of scores of ``shape``: ``[..., queries, keys]``."""
    leads = [Axis("lead", size, (index,)) for index, size in enumerate(shape[:-2])]
    row, column = Axis("row", shape[-2]), Axis("column", shape[-1])
    return tuple((axis,) if axis.size != 1 else () for axis in (*leads, row, column))


def runs_over_last_axis(softmax: ir.Node, rank: int, opset: int) -> bool:
    """Whether a ``Softmax`` of a tensor of ``rank`` normalizes its last axis."""
    default = -1 if opset >= LAST_AXIS_OPSET else 1
    return attribute(softmax, "axis", default) in (-1, rank - 1)


def scores_of(softmax: ir.Node, view: View, facts: Facts) -> Scores | Reason | None:
    """Return what ``softmax`` normalizes as scaled and masked scores."""
    start = softmax.inputs[0]
    if start is None:
        return None
    paths: list[tuple[ir.Value, View, float, tuple[Mask, ...], tuple[ir.Node, ...]]]
    # Either summand may be the scores; where both ways end, the first reason is given.
    paths = [(start, view, 1.0, (), ())]
    reason: Reason | None = None
    for _ in range(MAX_DISTANCE):
        if not paths:
            break
        value, view, scale, masks, nodes = paths.pop(0)
        node = value.producer()
        if node is None or node.domain:
            continue
        nodes = (*nodes, node)
        if node.op_type == "MatMul":
            if all(facts.only_use(one.outputs[0]) is not None for one in nodes):
                return Scores(node, view, scale, masks, nodes)
            reason = reason or Reason("the scores have another use")
        factor = constant_factor(node, facts)
        if factor is not None:
            paths.append((factor[0], view, scale * factor[1], masks, nodes))
        elif node.op_type in ("Add", "Where") and scale != 1.0:
            reason = reason or Reason("the mask is scaled")
        elif node.op_type == "Add":
            for one, other in (node.inputs, reversed(tuple(node.inputs))):
                if one is not None and other is not None and _same(one, value, facts):
                    mask = Mask(other, view)
                    paths.append((one, view, scale, (*masks, mask), nodes))
        elif node.op_type == "Where":
            found = mask_of_where(node, view, facts)
            if isinstance(found, Reason):
                reason = reason or found
            elif found is not None and _same(found[0], value, facts):
                paths.append((found[0], view, scale, (*masks, found[1]), nodes))
        elif node.op_type in LAYOUT:
            source = node.inputs[0]
            shape = facts.shape(source)
            before = regrouped(view, shape) if shape is not None else None
            if source is not None and before is not None:
                paths.append((source, before, scale, masks, nodes))
    return reason


def _same(a: ir.Value, b: ir.Value, facts: Facts) -> bool:
    """Whether ``a`` has the shape of ``b``, so that nothing else was broadcast to it."""
    shape = facts.shape(a)
    return shape is not None and shape == facts.shape(b)


def probabilities_of(softmax: ir.Node, view: View, facts: Facts) -> Probabilities | Reason:
    """Return where the output of ``softmax`` is multiplied with the values."""
    value, nodes, guarded = softmax.outputs[0], [softmax], False
    guarded_by: ir.Value | None = None
    for _ in range(MAX_DISTANCE):
        users = {use.node for use in value.uses()}
        guard = _guard(value, users, facts) if len(users) == 2 else None
        if guard is not None and not value.is_graph_output():
            nodes += [*guard]
            value, guarded = guard[-1].outputs[0], True
            continue
        node = facts.only_use(value)
        if node is None or node.domain:
            return Reason("the probabilities have another use")
        if node.op_type == "MatMul" and node.inputs[0] is value:
            return Probabilities(node, guarded, guarded_by, tuple(nodes), view)
        if node.op_type == "Where" and _is_zero_or(value, node, facts):
            if uniform(node.inputs[0], facts) != 0:
                guarded_by = _mask_of_rows(node.inputs[0], facts)
                if guarded_by is None:
                    break
            value = node.outputs[0]
            nodes.append(node)
            continue
        shape = facts.shape(node.outputs[0])
        after = regrouped(view, shape) if shape is not None else None
        if node.op_type not in LAYOUT or node.inputs[0] is not value or after is None:
            break
        value, view = node.outputs[0], after
        nodes.append(node)
    return Reason("the probabilities are not multiplied with values")


def _guard(
    value: ir.Value, users: set[ir.Node], facts: Facts
) -> tuple[ir.Node, ir.Node] | None:
    """Return the nodes of ``Where(IsNaN(value), 0, value)``, if these are what uses it."""
    test = next((node for node in users if node.op_type == "IsNaN"), None)
    choice = next((node for node in users if node.op_type == "Where"), None)
    if test is None or choice is None or facts.only_use(test.outputs[0]) is not choice:
        return None
    if choice.inputs[0] is not test.outputs[0] or not _is_zero_or(value, choice, facts):
        return None
    return test, choice


def _is_zero_or(value: ir.Value, choice: ir.Node, facts: Facts) -> bool:
    """Whether the ``Where`` gives 0 or ``value``, in the shape of ``value``."""
    zero = facts.array(choice.inputs[1], max_elements=1)
    is_zero = zero is not None and zero.size == 1 and not zero.any()
    return is_zero and choice.inputs[2] is value and _same(value, choice.outputs[0], facts)


def _mask_of_rows(condition: ir.Value | None, facts: Facts) -> ir.Value | None:
    """Return the mask of which ``condition`` says that a row is nothing but ``-inf``.

    That is how the ONNX standard defines ``Attention``.
    """
    test = condition.producer() if condition is not None else None
    if test is None or test.op_type != "Equal":
        return None
    number = facts.array(test.inputs[1], max_elements=1)
    largest = test.inputs[0].producer() if test.inputs[0] is not None else None
    if number is None or not np.isneginf(number).all() or largest is None:
        return None
    axes = attribute(largest, "axes")
    if axes is None and len(largest.inputs) > 1:
        axes = facts.array(largest.inputs[1], max_elements=1)
    shape = facts.shape(largest.inputs[0])
    if largest.op_type != "ReduceMax" or axes is None or not shape or not _keeps(largest):
        return None
    return largest.inputs[0] if list(axes) in ([-1], [len(shape) - 1]) else None


def _keeps(reduction: ir.Node) -> bool:
    return bool(attribute(reduction, "keepdims", 1))


def views_of_factors(
    node: ir.Node, view: View, inner: Axis, facts: Facts
) -> list[tuple[View, list[Axis]]] | None:
    """Return of each factor of a ``MatMul`` the view, and the axes it is broadcast along.

    Args:
        node: The ``MatMul``.
        view: View of its output: ``[..., rows, columns]``.
        inner: The axis that is summed over.
        facts: Facts of the model.
    """
    found: list[tuple[View, list[Axis]]] = []
    summed = (inner,) if inner.size != 1 else ()
    for value, ends in zip(node.inputs, ((view[-2], summed), (summed, view[-1])), strict=True):
        shape = facts.shape(value)
        if shape is None or len(shape) != len(view):
            return None
        leads: list[tuple[Axis, ...]] = []
        repeated: list[Axis] = []
        for size, group in zip(shape[:-2], view[:-2], strict=True):
            length = product(axis.size for axis in group)
            if size not in (1, length):
                return None
            leads.append(group if size == length else ())
            repeated += group if size != length else ()
        found.append(((*leads, *ends), repeated))
    return found

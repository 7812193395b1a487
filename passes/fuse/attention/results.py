"""The result of an attention, followed ahead to where its heads are together again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic.expressions import product

from .axes import View, axes_of, regrouped
from .operands import LAYOUT, Form, form_of, in_order, perm_of

__all__ = ["forms_ahead"]


def forms_ahead(value: ir.Value, view: View, facts: Facts) -> Iterator[Form]:
    """Yield the forms that a result takes behind ``value``, while it has no other use."""
    last = value.producer()
    while True:
        form = form_of(value, view, ())
        if form is not None:
            yield dataclasses.replace(form, last=last)
        elif (loose := _loose(value, view, last)) is not None:
            yield loose
        node = facts.only_use(value)
        if node is None or node.domain or node.inputs[0] is not value:
            return
        shape = facts.shape(node.outputs[0])
        if shape is None:
            return
        after: View | None = None
        if node.op_type == "Transpose":
            after = tuple(view[source] for source in perm_of(node, len(view)))
        elif node.op_type in LAYOUT:
            after = regrouped(view, shape)
        if after is None:
            return
        value, view, last = node.outputs[0], after, node


def _loose(value: ir.Value, view: View, last: ir.Node | None) -> Form | None:
    """Return the form of a value that has another shape but the order of rank 3."""
    axes = axes_of(view)
    leads, rows, widths = (in_order(axes, role) for role in ("lead", "row", "width"))
    for count in range(len(leads) + 1):
        if axes == [*leads[:count], *rows, *leads[count:], *widths] and rows:
            batch, heads = leads[:count], leads[count:]
            return Form(
                value,
                3,
                product(axis.size for axis in batch),
                product(axis.size for axis in heads),
                1,
                product(axis.size for axis in widths),
                last=last,
                exact=False,
            )
    return None

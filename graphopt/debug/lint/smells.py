"""Warnings: what a valid model may have, and rarely is meant to have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.debug.lint.findings import Finding
from graphopt.records import anchor_name, graphs_of

__all__ = ["smells"]


def smells(model: ir.Model) -> list[Finding]:
    """Return the warnings."""
    found = []
    for place, graph in graphs_of(model.graph):
        smelling = (*_unused(graph, place), *_weights(graph), *_names(graph))
        for code, name, message, hint in smelling:
            found.append(Finding(f"graph/{code}", message, hint, place, name, is_error=False))
    return found


_Smell = tuple[str, str, str, str]
"""Code, name, message, hint."""


def _unused(graph: ir.Graph, place: str) -> Iterator[_Smell]:
    hint = "graphopt optimize removes it."
    for value in graph.inputs if not place else ():  # a body has the inputs that it must have
        if not value.uses() and not value.is_graph_output():
            yield (
                "unused-input",
                value.name or "",
                f"nothing uses the input {value.name!r}.",
                "",
            )
    for value in graph.initializers.values():
        if not value.uses() and not value.is_graph_output():
            message = f"nothing uses the initializer {value.name!r}."
            yield "unused-initializer", value.name or "", message, hint
    for node in graph:
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            message = (
                f"nothing uses what the node {anchor_name(node)!r} ({node.op_type}) computes."
            )
            yield "unused-node", anchor_name(node), message, hint


def _weights(graph: ir.Graph) -> Iterator[_Smell]:
    for value in graph.initializers.values():
        name, tensor = value.name or "", value.const_value
        if value.is_graph_input():
            message = f"the initializer {name!r} is an input too, so that it is no constant."
            yield "overridable", name, message, "Take it from the inputs if nobody feeds it."
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        count = array.size - int(np.count_nonzero(np.isfinite(array)))
        if count:
            message = f"{count:,} of {array.size:,} elements of {name!r} are NaN or infinite."
            yield "not-finite", name, message, ""


def _names(graph: ir.Graph) -> Iterator[_Smell]:
    seen: set[str] = set()
    for node in graph:
        if node.name and node.name in seen:
            message = f"there is more than one node {node.name!r}."
            yield (
                "duplicate-node",
                node.name,
                message,
                "Messages cannot tell them apart.",
            )
        seen.add(node.name or "")

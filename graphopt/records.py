"""What the ledger keeps of nodes and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from graphopt.ir_access import attributes_of
from graphopt.ledger import NodeRecord, WeightRecord

__all__ = [
    "MOST_NAMES",
    "anchor_name",
    "graphs_in",
    "graphs_of",
    "held_graphs",
    "nodes_in",
    "record_of",
    "weight_record",
]

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)

MOST_NAMES = 64
"""Inputs of a changed node that are written down: a Concat of n values, each of which is
replaced, would fill n^2 names."""


def record_of(
    node: ir.Node, names: Mapping[ir.Value, str] | None = None, most: int | None = None
) -> NodeRecord:
    """Return what the ledger keeps of ``node``.

    Args:
        node: The node.
        names: Names that values had before, where they have another now.
        most: How many names of inputs to write down; ``None``: all.
    """
    op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    inputs = _names_of(node.inputs[:most], names)
    if len(inputs) < len(node.inputs):
        inputs += (f"... {len(node.inputs)} in all",)
    return NodeRecord(node.name or "", op_type, inputs, _names_of(node.outputs, names))


def _names_of(
    values: Sequence[ir.Value | None], names: Mapping[ir.Value, str] | None
) -> tuple[str, ...]:
    if not names:
        return tuple([value.name or "" if value is not None else "" for value in values])
    return tuple(["" if v is None else names.get(v) or v.name or "" for v in values])


def weight_record(name: str, tensor: ir.TensorProtocol) -> WeightRecord:
    """Return what the ledger keeps of an initializer."""
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    return WeightRecord(name, str(tensor.dtype), shape, tensor.nbytes)


def anchor_name(node: ir.Node) -> str:
    """Return what the ledger calls ``node``: many exporters leave nodes without a name."""
    return node.name or next((value.name for value in node.outputs if value.name), "")


def graphs_in(attr: ir.Attr | None) -> tuple[ir.Graph, ...]:
    """Return the subgraphs that an attribute holds."""
    if attr is None or attr.type not in _GRAPHS or attr.is_ref():
        return ()
    return (attr.as_graph(),) if attr.type == ir.AttributeType.GRAPH else attr.as_graphs()


def graphs_of(graph: ir.Graph, place: str = "") -> Iterator[tuple[str, ir.Graph]]:
    """Yield ``graph`` and those inside it, each with the way to it, e.g. ``"loop.body"``."""
    yield place, graph
    for node in graph:
        for name, attr in node.attributes.items():
            for inner in graphs_in(attr):
                way = f"{place}/{anchor_name(node)}.{name}".lstrip("/")
                yield from graphs_of(inner, way)


def held_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs below ``node``, at any depth."""
    for attr in attributes_of(node).values():
        for graph in graphs_in(attr):
            yield graph
            yield from graph.subgraphs()


def nodes_in(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """Yield the nodes of ``graph``, those of a subgraph right after the node that holds it."""
    for node in graph:
        yield node
        for attr in attributes_of(node).values():
            for inner in graphs_in(attr):
                yield from nodes_in(inner)

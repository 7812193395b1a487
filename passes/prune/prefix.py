"""The part of a model that a value depends on."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["prefix_of"]


def prefix_of(model: ir.Model, *names: str) -> ir.Model:
    """Return a model of the nodes that the values ``names`` depend on, and of no other.

    The weights are shared with ``model``, which is not changed. Its inputs are those that are
    needed; a value that is an input of ``model`` is not returned.
    """
    copy = model.clone()
    graph = copy.graph
    values = {value.name: value for node in graph for value in node.outputs}
    wanted = [values[name] for name in names if name in values]
    graph.outputs.clear()
    graph.outputs.extend(wanted)
    needed: set[ir.Node] = set()
    waiting = [producer for value in wanted if (producer := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        waiting += [before for before in _sources(node, graph) if before not in needed]
    # Not the checked way: it counts uses by nodes inside the subgraphs of what goes too.
    for node in [node for node in graph if node not in needed]:
        _detach(node)
        graph.remove(node)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        if not graph.initializers[name].is_graph_input():
            del graph.initializers[name]
    unused = [value for value in graph.inputs if not value.uses()]
    for value in unused:
        graph.inputs.remove(value)
    return copy


def _detach(node: ir.Node) -> None:
    """Let ``node`` and the nodes of its subgraphs use nothing any more."""
    inside = [
        inner
        for attr in node.attributes.values()
        if attr.type == ir.AttributeType.GRAPH
        for inner in ir.traversal.RecursiveGraphIterator(attr.as_graph())
    ]
    for one in (node, *inside):
        for index in range(len(one.inputs)):
            one.replace_input_with(index, None)


def _sources(node: ir.Node, graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes of ``graph`` that ``node`` reads from, from its subgraphs too."""
    read: set[ir.Value | None] = set()
    readers = [node]
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            readers += list(ir.traversal.RecursiveGraphIterator(attr.as_graph()))
            read.update(attr.as_graph().outputs)
    for reader in readers:
        read.update(reader.inputs)
    producers = {value.producer() for value in read if value is not None}
    return {one for one in producers if one is not None and one.graph is graph}

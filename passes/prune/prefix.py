"""The part of a model that values depend on: all of it, or from other values on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from graphopt.records import held_graphs

__all__ = ["Part", "model_of", "part_to", "prefix_of", "sources"]

Part = tuple[list[ir.Node], list[ir.Value]]
"""Nodes, in an order that they can be run in, and what has to be fed to them."""


def prefix_of(model: ir.Model, *names: str) -> ir.Model:
    """Return a model of the nodes that the values ``names`` depend on, and of no other.

    The weights are shared with ``model``, which is not changed. Its inputs are those that are
    needed; a value that is an input of ``model`` is not returned.
    """
    values = {value.name: value for node in model.graph for value in node.outputs}
    wanted = [values[name] for name in names if name in values]
    return model_of(model, part_to(wanted), wanted)


def part_to(wanted: Iterable[ir.Value], known: Collection[ir.Value] = ()) -> Part:
    """Return what has to be run for the values ``wanted`` of one graph.

    Args:
        wanted: The values.
        known: Those that need not be computed: they are fed, as inputs of the graph are.
    """
    nodes: dict[ir.Node, None] = {}
    fed: dict[ir.Value, None] = {}
    waiting = [node for value in wanted if (node := _maker(value, known)) is not None]
    while waiting:
        node = waiting[-1]
        read = [] if node in nodes else list(sources(node))
        makers = [_maker(value, known) for value in read]
        before = [maker for maker in makers if maker is not None and maker not in nodes]
        if before:
            waiting += before
            continue
        waiting.pop()
        nodes[node] = None
        for value, maker in zip(read, makers, strict=True):
            if maker is None and not value.is_initializer():
                fed[value] = None
    return list(nodes), list(fed)


def _maker(value: ir.Value, known: Collection[ir.Value]) -> ir.Node | None:
    return None if value in known else value.producer()


def model_of(
    model: ir.Model,
    part: Part,
    wanted: Iterable[ir.Value],
    kinds: Mapping[ir.Value, np.dtype] | None = None,
) -> ir.Model:
    """Return a part of the main graph as a model; the weights are shared.

    Args:
        model: The model; it is not changed.
        part: Its nodes and inputs.
        wanted: Its outputs.
        kinds: Element types of inputs that are none of ``model``'s; their shapes stay open.
    """
    nodes, fed = part
    constants = dict.fromkeys(
        value for node in nodes for value in sources(node) if value.is_initializer()
    )
    view = ir.GraphView(
        fed,
        list(wanted),
        nodes=nodes,
        initializers=list(constants),
        opset_imports=model.graph.opset_imports,
        name=model.graph.name,
    )
    functions = [function.clone() for function in model.functions.values()]
    found = ir.Model(view.clone(), ir_version=model.ir_version, functions=functions)
    for value, copy in zip(fed, found.graph.inputs, strict=True):
        if kinds is not None and value in kinds:
            copy.type, copy.shape = ir.TensorType(ir.DataType.from_numpy(kinds[value])), None
    return found


def sources(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values of its graph that ``node`` reads, in its subgraphs too."""
    read = dict.fromkeys(node.inputs)
    for graph in held_graphs(node):
        read.update(dict.fromkeys(graph.outputs))
        for inner in graph:
            read.update(dict.fromkeys(inner.inputs))
    for value in read:
        if value is not None and value.graph is node.graph:
            yield value

"""What onnx_ir's public functions take time for that grows with the graph.

``Value.uses`` copies all uses, ``Graph.remove`` looks at all outputs of the graph, and each
``Node.replace_input_with`` goes through all inputs in Python: with one value that everything
uses, one graph output a node, or one node that takes everything, a rewrite of each node would
cost the square of their number. ``Node.attributes`` is a ``UserDict``, which takes ten times
as long to look into as the dictionary it holds. What is private is used here and nowhere else;
``tests/core/test_ir_access.py`` holds it against the public functions.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

__all__ = ["attributes_of", "is_used", "replace_input", "take_out", "use_count"]


def attributes_of(node: ir.Node) -> Mapping[str, ir.Attr]:
    """Return the attributes of ``node``, to be looked at only."""
    return node.attributes.data


def use_count(value: ir.Value) -> int:
    """Return how many inputs of nodes ``value`` is; graph outputs do not count."""
    return len(value._uses)


def is_used(value: ir.Value) -> bool:
    """Whether ``value`` is an input of a node or a graph output."""
    return bool(value._uses) or value.is_graph_output()


def replace_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Let input ``index`` of ``node`` be ``value``."""
    inputs = node._inputs
    old = inputs[index]
    node._inputs = (*inputs[:index], value, *inputs[index + 1 :])
    if old is not None:
        old._remove_usage(node, index)
    if value is not None:
        value._add_usage(node, index)
    if old is not None and old is not value:
        node._drop_sharding_for_value(old)


def take_out(node: ir.Node) -> None:
    """Take ``node`` out of its graph, if it is in one, and let it use nothing."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            value._remove_usage(node, index)
    node._inputs = ()
    graph = node.graph
    if graph is not None:
        node.graph = None
        graph._nodes.remove(node)

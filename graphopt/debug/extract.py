"""Makes a smaller model out of a part of a larger one; nothing here runs a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.debug.case import Case, made_up, shape_of, type_of
from graphopt.samples import Feed

__all__ = ["bodies", "inline_branch", "keep_in_body", "keep_nodes"]


def keep_nodes(
    case: Case, keep: Collection[int], values: Mapping[str, Sequence[np.ndarray]]
) -> Case | None:
    """Return the case of some nodes of the main graph.

    What they use of the others becomes an input, fed with what it was; what nothing uses any
    more becomes an output.

    Args:
        case: The larger case.
        keep: Places of the nodes that stay.
        values: What the nodes compute: name -> one array a feed.

    Returns:
        ``None`` where a value that must be fed is not known.
    """
    model = case.model.clone()
    graph = model.graph
    nodes = list(graph)
    kept = [node for place, node in enumerate(nodes) if place in keep]
    gone = [node for place, node in enumerate(nodes) if place not in keep]
    feeds = [dict(feed) for feed in case.feeds]
    outputs = list(graph.outputs)
    graph.outputs.clear()
    for node in gone:
        _dismantle(node)
    for node in gone:
        for value in node.outputs:
            if value.uses() and not _feed(graph, feeds, value, values):
                return None
    wanted = {value for node in kept for value in node.outputs}
    used = {value for value in wanted if value.uses()}
    loose = [
        value
        for node in kept
        for value in node.outputs
        # An output that was never used, of several, is left unused.
        if value not in used and (value in outputs or _is_used(case, value))
    ]
    graph.outputs.extend(dict.fromkeys([*(v for v in outputs if v in wanted), *loose]))
    for value in graph.outputs:
        if (name := value.name or "") in values:  # an output has to state what it is
            value.type = value.type or type_of(values[name][0])
            value.shape = value.shape if value.shape is not None else shape_of(values[name])
    return _tidy(model, feeds)


def bodies(model: ir.Model) -> Iterator[tuple[int, str, ir.Graph]]:
    """Yield every subgraph right below the main graph: place of its node, attribute, graph."""
    for place, node in enumerate(model.graph):
        for attr in node.attributes.values():
            if attr.is_ref():
                continue
            if attr.type == ir.AttributeType.GRAPH:
                yield place, attr.name, attr.as_graph()


def keep_in_body(case: Case, at: tuple[int, str], keep: Collection[int]) -> Case | None:
    """Return the case with some nodes of one subgraph.

    What they use of the others becomes an input of the main graph, of seeded values. Nodes
    that compute an output of the subgraph become ``Identity`` of such an input.
    """
    model = case.model.clone()
    body = next(graph for place, name, graph in bodies(model) if (place, name) == at)
    gone = [node for place, node in enumerate(body) if place not in keep]
    results = {value for node in gone for value in node.outputs if value.is_graph_output()}
    feeds = [dict(feed) for feed in case.feeds]
    for node in gone:
        _dismantle(node, detach=not results & set(node.outputs))
    for node in gone:
        for value in node.outputs:
            if not value.uses() and value not in results:
                continue
            made = made_up(value, len(feeds))
            if made is None:
                return None
            source = _new_input(model.graph, feeds, f"{value.name}_given", made)
            for user, index in value.uses():
                user.replace_input_with(index, source)
            if value in results:
                if node.op_type == "Identity":
                    return None  # it cannot become any smaller
                copy = ir.Node("", "Identity", [source], name=f"{node.name or 'n'}_given")
                copy.outputs[0].name = value.name
                copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
                body.insert_before(node, copy)
                for place, output in enumerate(body.outputs):
                    if output is value:
                        body.outputs[place] = copy.outputs[0]
        if node.graph is not None:
            _dismantle(node)
    return _tidy(model, feeds)


def inline_branch(case: Case, place: int, name: str) -> Case | None:
    """Return the case with one branch of an ``If`` in its place; ``None`` if it is none."""
    model = case.model.clone()
    graph = model.graph
    node = list(graph)[place]
    if node.op_type != "If":
        return None
    branch = node.attributes[name].as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[value.name or ""]
        graph.initializers.add(value)
    for inner in list(branch):
        branch.remove(inner)
        graph.insert_before(node, inner)
    for old, new in zip(node.outputs, results, strict=True):
        if old.is_graph_output():
            if new.producer() is None or new.is_graph_output():
                return None
            for index, output in enumerate(graph.outputs):
                if output is old:
                    graph.outputs[index] = new
        for user, index in old.uses():
            user.replace_input_with(index, new)
    _dismantle(node)
    return _tidy(model, [dict(feed) for feed in case.feeds])


def _dismantle(node: ir.Node, *, detach: bool = True) -> None:
    """Take ``node``, with all that is inside it, out of its graph; its outputs stay in use."""
    inner = [
        held
        for attr in node.attributes.values()
        if not attr.is_ref() and attr.type == ir.AttributeType.GRAPH
        for held in ir.traversal.RecursiveGraphIterator(attr.as_graph())
    ]
    for one in (node, *inner):
        for index in range(len(one.inputs)):
            one.replace_input_with(index, None)
    if detach and node.graph is not None:
        node.graph.remove(node)


def _feed(
    graph: ir.Graph,
    feeds: Sequence[Feed],
    value: ir.Value,
    values: Mapping[str, Sequence[np.ndarray]],
) -> bool:
    """Let an input take the place of ``value``; return whether it is known what it was."""
    name = value.name or ""
    if name not in values:
        return False
    new = _new_input(graph, feeds, name, values[name])
    if value.shape is not None:
        new.shape = value.shape
    for user, index in value.uses():
        user.replace_input_with(index, new)
    return True


def _new_input(
    graph: ir.Graph, feeds: Sequence[Feed], name: str, arrays: Sequence[np.ndarray]
) -> ir.Value:
    value = ir.Value(name=name, type=type_of(arrays[0]), shape=shape_of(arrays))
    graph.inputs.append(value)
    for feed, array in zip(feeds, arrays, strict=True):
        feed[name] = array
    return value


def _is_used(case: Case, value: ir.Value) -> bool:
    """Whether the value of that name was used, or an output, in the larger case."""
    for node in case.model.graph:
        for one in node.outputs:
            if one.name == value.name:
                return bool(one.uses()) or one.is_graph_output()
    return False


def _tidy(model: ir.Model, feeds: Iterable[Feed]) -> Case | None:
    """Drop what nothing uses any more; ``None`` where nothing would be left."""
    graph = model.graph
    for one in model.graphs():
        for name, value in list(one.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                if value.is_graph_input():
                    graph.inputs.remove(value)
                del one.initializers[name]
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output() and not value.is_initializer():
            graph.inputs.remove(value)
    if not graph.outputs or not len(graph):
        return None
    names = {value.name for value in graph.inputs}
    return Case(model, tuple({n: a for n, a in feed.items() if n in names} for feed in feeds))

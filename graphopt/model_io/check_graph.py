"""Checks that the names in a graph fit together, and puts its nodes in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import onnx

from graphopt.errors import ModelError, nearest
from graphopt.model_io.check_nodes import (
    FunctionId,
    Operators,
    check_text,
    label,
    standard_domain,
    texts_of,
)

__all__ = ["GraphChecker"]

_GRAPH = onnx.AttributeProto.GRAPH
_WITH_GRAPHS = (_GRAPH, onnx.AttributeProto.GRAPHS)
_PLAIN = frozenset({
    onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS, onnx.AttributeProto.INT,
    onnx.AttributeProto.INTS, onnx.AttributeProto.STRING, onnx.AttributeProto.STRINGS,
})  # fmt: skip

Body = onnx.GraphProto | onnx.FunctionProto


class GraphChecker:
    """Checks the graphs of a model or the bodies of its functions.

    Args:
        operators: What the nodes may be.
        look_at: Called with every graph (not with function bodies) before its names are
            looked at; checks the tensors and types in it.
        look_at_attribute: Called with every attribute that may hold a tensor or a type.
        may_edit: Called before a graph is put in order; raises where that is not wanted.

    Attributes:
        calls: Functions that were found to be called.
        sorted_graphs: Names of the graphs whose nodes had to be put in order.
    """

    def __init__(
        self,
        operators: Operators,
        look_at: Callable[[onnx.GraphProto], None],
        look_at_attribute: Callable[[onnx.NodeProto, int, onnx.AttributeProto], None],
        may_edit: Callable[[], None],
    ) -> None:
        self.calls: set[FunctionId] = set()
        self.sorted_graphs: list[str] = []
        self._operators = operators
        self._look_at = look_at
        self._look_at_attribute = look_at_attribute
        self._may_edit = may_edit

    def check_function(self, function: onnx.FunctionProto) -> None:
        """Check the body of a function.

        Raises:
            ModelError: Something in it does not fit.
        """
        where = f"function {function.name!r}"
        given = _unique(function.input, "input", where)
        self._check_body(function, where, given, list(function.output), [])

    def check_graph(self, graph: onnx.GraphProto, outer: Sequence[set[str]] = ()) -> set[str]:
        """Check a graph and those inside it.

        Args:
            graph: The graph.
            outer: Names that each of the graphs around it defines, the outermost first.

        Returns:
            The names that it takes from the graphs around it.

        Raises:
            ModelError: Something in it does not fit.
        """
        where = f"graph {graph.name!r}" if outer else "the graph"
        self._look_at(graph)
        given = _unique([value.name for value in graph.input], "input", where)
        constants = [tensor.name for tensor in graph.initializer]
        constants += [sparse.values.name for sparse in graph.sparse_initializer]
        given |= _unique(constants, "initializer", where)
        return self._check_body(
            graph, where, given, [value.name for value in graph.output], outer
        )

    def _check_body(
        self,
        body: Body,
        where: str,
        given: set[str],
        outputs: Sequence[str],
        outer: Sequence[set[str]],
    ) -> set[str]:
        producers = _producers(body, given)
        names = given | producers.keys()
        defined = set(given)
        scopes = [*outer, names]
        needs: list[set[str]] = []
        taken: set[str] = set()
        in_order = True
        for index, node in enumerate(body.node):
            self._operators.check(node, index)
            self.calls.add((standard_domain(node.domain), node.op_type, node.overload))
            needed = {name for name in node.input if name}
            for name in needed:
                if name not in names and not any(name in scope for scope in outer):
                    raise _undefined(node, index, name, names)
            for attr in node.attribute:
                if attr.type in _WITH_GRAPHS:
                    for graph in (attr.g,) if attr.type == _GRAPH else attr.graphs:
                        needed |= self.check_graph(graph, scopes)
                elif attr.type not in _PLAIN:
                    self._look_at_attribute(node, index, attr)
            taken |= needed - names
            needed = {name for name in needed if name in producers}
            in_order = in_order and needed <= defined
            needs.append(needed)
            defined.update(node.output)
        for name in outputs:
            if name not in names and not any(name in scope for scope in outer):
                raise ModelError(
                    "undefined-output",
                    f"{where} has an output {name!r} that nothing produces.",
                    hint=nearest(name, producers),
                )
        if not in_order:
            order = _order(body, needs, producers)
            self._may_edit()
            nodes = [body.node[index] for index in order]
            ordered = type(body)(node=nodes)
            del body.node[:]
            body.node.extend(ordered.node)
            self.sorted_graphs.append(where)
        return taken


def _unique(names: Sequence[str], what: str, where: str) -> set[str]:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not name or not isinstance(name, str):
            check_text(f"{what} {index} of {where}", name)
            raise ModelError("no-name", f"{what} {index} of {where} has no name.")
        if name in seen:
            raise ModelError(
                f"duplicate-{what}",
                f"{where} has two {what}s {name!r}.",
                hint="One name must stand for one value; export the model again.",
            )
        seen.add(name)
    return seen


def _producers(body: Body, given: set[str]) -> dict[str, int]:
    """Return the node that produces each name: name -> index."""
    producers: dict[str, int] = {}
    for index, node in enumerate(body.node):
        check_text(
            f"node #{index}",
            *node.input,
            *node.output,
            *(node.name, node.op_type, node.domain, node.overload, node.doc_string),
            *texts_of(node.metadata_props),
        )
        for name in node.output:
            if not name:
                continue
            if name in producers or name in given:
                other = (
                    label(body.node[producers[name]], producers[name])
                    if name in producers
                    else "an input or initializer"
                )
                raise ModelError(
                    "duplicate-output",
                    f"{label(node, index)} produces {name!r}, which is already produced by "
                    f"{other}.",
                    hint="One name must stand for one value; export the model again.",
                )
            producers[name] = index
    return producers


def _undefined(node: onnx.NodeProto, index: int, name: str, names: set[str]) -> ModelError:
    position = list(node.input).index(name)
    hint = nearest(name, names) if len(names) < 10_000 else ""
    return ModelError(
        "undefined-input",
        f"{label(node, index)} has {name!r} as input {position}, which nothing produces.",
        hint=hint if hint.startswith("Did") else "",
    )


def _order(body: Body, needs: list[set[str]], producers: dict[str, int]) -> list[int]:
    """Return the nodes in an order in which each follows what it needs, else as they were.

    Raises:
        ModelError: There is none, because of a cycle.
    """
    waiting = [{producers[name] for name in needed} for needed in needs]
    users: dict[int, list[int]] = {}
    for index, before in enumerate(waiting):
        for other in before:
            users.setdefault(other, []).append(index)
    missing = [len(before) for before in waiting]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users.get(index, ()):
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    if len(order) < len(waiting):
        raise _cycle(body, waiting, missing)
    return order


def _cycle(body: Body, waiting: list[set[int]], missing: list[int]) -> ModelError:
    # Every node that is left needs another one that is left: going back ends in a cycle.
    at = next(index for index, count in enumerate(missing) if count)
    seen: dict[int, int] = {}
    path: list[int] = []
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = min(index for index in waiting[at] if missing[index])
    cycle = path[seen[at] :][::-1]
    first = cycle.index(min(cycle))
    cycle = cycle[first:] + cycle[:first]
    shown = [label(body.node[index], index).removeprefix("node ") for index in cycle[:6]]
    if len(cycle) > 6:
        shown.append(f"... {len(cycle) - 6} more")
    return ModelError("cycle", f"nodes form a cycle: {' -> '.join([*shown, shown[0]])}.")

"""Both graphs: every node with what became of it, or where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis import shapes
from graphopt.analysis.facts import tensor_of
from graphopt.debug.explain import account
from graphopt.ledger import Ledger

from .touches import Touches

__all__ = [
    "GraphContent",
    "NodeRow",
    "Shapes",
    "State",
    "ValueRow",
    "graph_rows",
    "states",
]

Shapes = dict[ir.Value, ir.Shape | None]

_LONGEST = 160
"""Characters of an attribute that are shown; long ones are lists of numbers."""


State: TypeAlias = str
"""``kept``, ``changed``, ``removed`` or ``new``."""


@dataclasses.dataclass(frozen=True)
class ValueRow:
    """A tensor: its name, its type in words; ``computed``, ``weight`` or ``input``."""

    name: str
    type: str
    kind: str


@dataclasses.dataclass(frozen=True)
class NodeRow:
    """A node of a graph.

    Attributes:
        name: Its name; empty where it has none.
        op_type: Its operator, with the domain if that is not the standard one.
        inputs, outputs: Indices of tensors; -1 for an omitted one.
        attributes: In words.
        state: What became of it, or where it came from.
        rewrites: Numbers of the rewrites that touched it.
        where: The subgraph or function it is in; empty for the main graph.
        inner: Tensors that subgraphs below it return.
    """

    name: str
    op_type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: str
    state: State
    rewrites: tuple[int, ...]
    where: str
    inner: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GraphContent:
    """A model as nodes and tensors; graph inputs and outputs are indices of tensors."""

    nodes: tuple[NodeRow, ...]
    values: tuple[ValueRow, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def states(
    original: ir.Model, result: ir.Model, ledger: Ledger
) -> tuple[dict[str, str], dict[str, str]]:
    """Return name of the outputs -> state, of both models; the others are ``kept``."""
    found = account(original, result, ledger)
    old, new = _operators(original), _operators(result)
    before = dict.fromkeys(found.gone, "removed")
    after = dict.fromkeys(found.new, "new")
    for key in found.changed:
        # Another operator under the same name is another node.
        same = old.get(key) == new.get(key)
        before[key] = "changed" if same else "removed"
        after[key] = "changed" if same else "new"
    return before, after


def _operators(model: ir.Model) -> dict[str, tuple[str, str]]:
    return {
        ", ".join(value.name or "" for value in node.outputs): (node.domain, node.op_type)
        for _, graph in _graphs(model)
        for node in graph
    }


def graph_rows(
    model: ir.Model, state_of: dict[str, str], touches: Touches, shape_of: Shapes
) -> GraphContent:
    """Return ``model`` as rows, the main graph first, each graph in its own order."""
    values: dict[ir.Value, int] = {}
    nodes: list[NodeRow] = []

    def index(value: ir.Value | None) -> int:
        return -1 if value is None else values.setdefault(value, len(values))

    for where, graph in _graphs(model):
        for node in graph:
            names = [value.name or "" for value in node.outputs]
            nodes.append(
                NodeRow(
                    node.name or "",
                    f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
                    tuple(map(index, node.inputs)),
                    tuple(map(index, node.outputs)),
                    ", ".join(_attribute(attr) for attr in node.attributes.values()),
                    state_of.get(", ".join(names), "kept"),
                    touches.numbers([node.name or "", *names]),
                    where,
                    tuple(index(value) for g in _subgraphs(node) for value in g.outputs),
                )
            )
    ends = [
        tuple(map(index, side))
        for side in (
            [value for value in model.graph.inputs if not value.is_initializer()],
            model.graph.outputs,
        )
    ]
    return GraphContent(
        tuple(nodes), tuple(_value(value, shape_of) for value in values), ends[0], ends[1]
    )


def _value(value: ir.Value, shape_of: Shapes) -> ValueRow:
    tensor = tensor_of(value)
    dtype = value.dtype if tensor is None else tensor.dtype
    if tensor is None:
        shape = shapes.merged(value.shape, shape_of.get(value))
    else:
        shape = ir.Shape(tensor.shape.numpy())
    kind = "input" if value.is_graph_input() else "computed"
    kind = "weight" if value.is_initializer() else kind
    dims = "?" if shape is None else ", ".join(map(_dim, shape))
    return ValueRow(value.name or "", f"{dtype.name.lower() if dtype else '?'}[{dims}]", kind)


def _dim(dim: int | ir.SymbolicDim) -> str:
    return str(dim) if isinstance(dim, int) else dim.value or "?"


def _attribute(attr: ir.Attr) -> str:
    if attr.is_ref():
        text = f"@{attr.ref_attr_name}"
    elif attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        dims = ", ".join(map(str, tensor.shape))
        text = f"{tensor.dtype.name.lower()}[{dims}]"
        if tensor.size <= 4 and tensor.dtype != ir.DataType.STRING:
            text += f" {tensor.numpy().tolist()}"
    elif attr.type == ir.AttributeType.GRAPH:
        text = f"graph of {len(attr.as_graph())} nodes"
    elif attr.type == ir.AttributeType.GRAPHS:
        text = f"{len(attr.as_graphs())} graphs"
    else:
        text = str(list(attr.value)) if isinstance(attr.value, tuple) else str(attr.value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}…"
    return f"{attr.name}={text}"


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attr in node.attributes.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()


def _graphs(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """Yield every graph with the way to it in words, the main graph first."""
    waiting = [("", model.graph)]
    waiting += [(f"{f.domain}::{f.name}", f.graph) for f in model.functions.values()]
    while waiting:
        where, graph = waiting.pop(0)
        yield where, graph
        for node in graph:
            here = "/".join(filter(None, (where, node.name or node.op_type)))
            waiting += [(here, inner) for inner in _subgraphs(node)]

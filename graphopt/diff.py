"""What changed between two states of a model: nodes and weights, as text.

A state is a ``Snapshot``: one line a node and one entry a weight, found again by the names of
the node's outputs. So a diff costs as much as the graph is long, and a pass that changed
nothing gives an empty one.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping

import onnx_ir as ir

__all__ = ["Diff", "Snapshot", "diff"]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One state of a model.

    Attributes:
        nodes: Names of a node's outputs -> the node in one line. A node of a subgraph has the
            way to it in front: ``"if_1.then_branch: y = Relu(x)"``.
        weights: Name of an initializer -> its tensor. The tensors are not copied.
        interface: Inputs, outputs and operator sets, a line each.
    """

    nodes: Mapping[str, str]
    weights: Mapping[str, ir.TensorProtocol]
    interface: tuple[str, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Snapshot:
        """Return the present state of ``model``."""
        nodes: dict[str, str] = {}
        weights: dict[str, ir.TensorProtocol] = {}
        for where, graph in _graphs(model):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    weights[where + (value.name or "")] = value.const_value
            for node in graph:
                key = where + ", ".join(value.name or "" for value in node.outputs)
                nodes[key if key not in nodes else f"{key} #{len(nodes)}"] = where + line(node)
        interface = (
            *(f"input {value}" for value in model.graph.inputs),
            *(f"output {value}" for value in model.graph.outputs),
            *(f"opset {name or 'ai.onnx'} {v}" for name, v in model.opset_imports.items()),
        )
        return cls(nodes, weights, interface)


@dataclasses.dataclass(frozen=True)
class Diff:
    """What differs between two snapshots; each a tuple of lines.

    Attributes:
        nodes_removed, nodes_added: Nodes of which all outputs went or are new.
        nodes_changed: Pairs of lines, before and after.
        weights_removed, weights_added: Initializers.
        weights_changed: Pairs, before and after.
        interface: Lines with ``-`` or ``+`` in front.
    """

    nodes_removed: tuple[str, ...]
    nodes_added: tuple[str, ...]
    nodes_changed: tuple[tuple[str, str], ...]
    weights_removed: tuple[str, ...]
    weights_added: tuple[str, ...]
    weights_changed: tuple[tuple[str, str], ...]
    interface: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield the diff line by line; nothing where nothing changed."""
        yield from self.interface
        for old, new in self.nodes_changed:
            yield f"- {old}"
            yield f"+ {new}"
        yield from (f"- {text}" for text in self.nodes_removed)
        yield from (f"+ {text}" for text in self.nodes_added)
        for old, new in self.weights_changed:
            yield f"- weight {old}"
            yield f"+ weight {new}"
        yield from (f"- weight {text}" for text in self.weights_removed)
        yield from (f"+ weight {text}" for text in self.weights_added)

    def __str__(self) -> str:
        return "".join(f"{text}\n" for text in self.lines())


def diff(before: Snapshot, after: Snapshot) -> Diff:
    """Return what changed from ``before`` to ``after``."""
    old_weights, new_weights = before.weights, after.weights
    return Diff(
        tuple(text for key, text in before.nodes.items() if key not in after.nodes),
        tuple(text for key, text in after.nodes.items() if key not in before.nodes),
        tuple(
            (text, after.nodes[key])
            for key, text in before.nodes.items()
            if after.nodes.get(key, text) != text
        ),
        tuple(_weight(n, t) for n, t in old_weights.items() if n not in new_weights),
        tuple(_weight(n, t) for n, t in new_weights.items() if n not in old_weights),
        tuple(
            (_weight(name, tensor), _weight(name, new_weights[name]))
            for name, tensor in old_weights.items()
            if name in new_weights and not _same(tensor, new_weights[name])
        ),
        (
            *(f"- {text}" for text in before.interface if text not in after.interface),
            *(f"+ {text}" for text in after.interface if text not in before.interface),
        ),
    )


def line(node: ir.Node) -> str:
    """Return ``node`` in one line: outputs, operator, inputs, attributes."""
    op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    outputs = ", ".join(value.name or "_" for value in node.outputs)
    inputs = ", ".join((value.name or "_") if value else "_" for value in node.inputs)
    attributes = ", ".join(f"{a.name}={_attribute(a)}" for a in node.attributes.values())
    return f"{outputs} = {op_type}({inputs})" + (f" {{{attributes}}}" if attributes else "")


def _attribute(attr: ir.Attr) -> str:
    if attr.is_ref():
        return f"@{attr.ref_attr_name}"
    if attr.type == ir.AttributeType.TENSOR:
        return _tensor(attr.as_tensor())
    if attr.type == ir.AttributeType.GRAPH:
        return f"graph of {len(attr.as_graph())} nodes"
    if attr.type == ir.AttributeType.GRAPHS:
        return f"{len(attr.as_graphs())} graphs"
    return str(list(attr.value)) if isinstance(attr.value, tuple) else repr(attr.value)


def _tensor(tensor: ir.TensorProtocol) -> str:
    dims = ",".join(str(dim) for dim in tensor.shape)
    kind = f"{tensor.dtype.name.lower()}[{dims}]"
    if tensor.size <= 8:
        return f"{kind} {tensor.numpy().tolist()}"
    return f"{kind} crc32={zlib.crc32(tensor.tobytes()):08x}"


def _weight(name: str, tensor: ir.TensorProtocol) -> str:
    return f"{name}: {_tensor(tensor)}"


def _same(old: ir.TensorProtocol, new: ir.TensorProtocol) -> bool:
    if old is new:
        return True
    if old.dtype != new.dtype or old.shape != new.shape:
        return False
    return old.tobytes() == new.tobytes()


def _graphs(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """Yield every graph with the way to it in words, the main graph first."""
    waiting = [("", model.graph)]
    waiting += [(f"{f.domain}::{f.name}: ", f.graph) for f in model.functions.values()]
    while waiting:
        where, graph = waiting.pop(0)
        yield where, graph
        for node in graph:
            for attr in node.attributes.values():
                if attr.is_ref():
                    continue
                way = f"{where.removesuffix(': ')}/{node.name or node.op_type}.{attr.name}"
                if attr.type == ir.AttributeType.GRAPH:
                    waiting.append((f"{way.lstrip('/')}: ", attr.as_graph()))
                elif attr.type == ir.AttributeType.GRAPHS:
                    for index, inner in enumerate(attr.as_graphs()):
                        waiting.append((f"{way.lstrip('/')}[{index}]: ", inner))

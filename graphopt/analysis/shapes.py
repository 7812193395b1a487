"""Types and shapes of intermediate values, from onnx's inference and from the symbolic one."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.analysis.symbolic import Symbols

__all__ = ["Inferred", "infer", "merged"]

Inferred = tuple[ir.TypeProtocol | None, ir.Shape | None]
"""Type and shape of one value; ``None`` where unknown."""

STANDARD = ("", "ai.onnx")


def infer(model: ir.Model) -> dict[ir.Value, Inferred]:
    """Return what is known about the values of ``model``.

    Large weights stay where they are: onnx's inference sees the model without their data.
    What the file says about the results of standard operators is not shown to it, because it
    would be believed, and an edited file is often wrong there; it is asked only for what
    neither inference knows. The model is not changed.

    Returns:
        Value -> (type, shape) for every intermediate value that something is known of, in the
        main graph and its subgraphs. A dimension is a number, the name of a dimension of an
        input, or unknown.
    """
    proto = model_io.skeleton(model)
    _forget(proto.graph)
    proto = onnx.shape_inference.infer_shapes(
        proto, check_type=False, strict_mode=False, data_prop=True
    )
    official = dict(_walk(model.graph, proto.graph))
    said = {value: merged(shape, value.shape) for value, (_, shape) in official.items()}
    symbols = Symbols(model, said)
    found: dict[ir.Value, Inferred] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.name or value.is_graph_output():
                continue
            kind = official.get(value, (None, None))[0] or value.type
            dims = symbols.shape(value)
            shape = value.shape if dims is None else symbols.recordable(dims)
            if kind is not None or shape is not None:
                found[value] = (kind, shape)
    return found


def _forget(graph: onnx.GraphProto) -> None:
    """Drop what is said of the results of standard operators."""
    computed = {
        name for node in graph.node if node.domain in STANDARD for name in node.output if name
    }
    kept = [info for info in graph.value_info if info.name not in computed]
    if len(kept) != len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)
    for node in graph.node:
        for attr in node.attribute:
            for inner in (*attr.graphs, *([attr.g] if attr.HasField("g") else [])):
                _forget(inner)


def _walk(graph: ir.Graph, proto: onnx.GraphProto) -> Iterator[tuple[ir.Value, Inferred]]:
    found = {info.name: info for info in proto.value_info}
    for node, node_proto in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            info = found.get(value.name or "")
            if info is None or value.is_graph_output():
                continue
            parsed = ir.serde.deserialize_type_proto_for_type(info.type)
            yield value, (parsed, ir.serde.deserialize_type_proto_for_shape(info.type))
        by_name = {attr.name: attr for attr in node_proto.attribute}
        for attr in node.attributes.values():
            if attr.is_ref():
                continue
            if attr.type == ir.AttributeType.GRAPH:
                yield from _walk(attr.as_graph(), by_name[attr.name].g)
            elif attr.type == ir.AttributeType.GRAPHS:
                for sub, sub_proto in zip(
                    attr.as_graphs(), by_name[attr.name].graphs, strict=True
                ):
                    yield from _walk(sub, sub_proto)


def merged(known: ir.Shape | None, found: ir.Shape | None) -> ir.Shape | None:
    """Return ``known`` with the dimensions that only ``found`` knows.

    Where both know a size and differ, ``known`` is kept.
    """
    if known is None or found is None:
        return known if found is None else found
    if len(known) != len(found):
        return known
    dims = []
    for old, new in zip(known, found, strict=True):
        unnamed = not isinstance(old, int) and old.value is None
        better = isinstance(new, int) and not isinstance(old, int)
        dims.append(new if unnamed or better else old)
    return ir.Shape(dims)

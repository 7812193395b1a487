"""Types and shapes of intermediate values, from onnx's own shape inference."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from graphopt import model_io

__all__ = ["Inferred", "infer", "merged"]

Inferred = tuple[ir.TypeProtocol | None, ir.Shape | None]
"""Type and shape of one value; ``None`` where unknown."""


def infer(model: ir.Model) -> dict[ir.Value, Inferred]:
    """Return what shape inference finds out about the values of ``model``.

    Large weights stay where they are: the model is handed over without their data. Shape
    arithmetic is followed (``data_prop``). The model is not changed.

    Returns:
        Value -> (type, shape) for every intermediate value that something was found for, in
        the main graph and its subgraphs.

    Raises:
        onnx.shape_inference.InferenceError: The model contradicts itself.
    """
    proto = onnx.shape_inference.infer_shapes(
        model_io.skeleton(model), check_type=False, strict_mode=False, data_prop=True
    )
    return dict(_walk(model.graph, proto.graph))


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

    Where both know a size and differ, ``known`` is kept: it is what the file says.
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

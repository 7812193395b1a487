"""Shapes of all values of a model, without touching the model or its weights.

The official inference runs on a skeleton: the graph with its large initializers reduced to
their type and shape, so that gigabytes of weights are neither read nor copied.
"""

from __future__ import annotations

import logging
from typing import TypeAlias

import onnx
import onnx_ir as ir

__all__ = ["Dims", "dims_of", "infer_dims"]

logger = logging.getLogger(__name__)

Dims: TypeAlias = "tuple[int | str | None, ...]"
"""One entry a dimension: its length, its symbol, or ``None`` where nothing is known."""

SMALL = 1024
"""Initializers up to this many elements keep their data: shapes are computed from it."""


def dims_of(value: ir.Value) -> Dims | None:
    """Return the dimensions recorded for ``value``; ``None`` where the rank is unknown."""
    if value.shape is None:
        tensor = value.const_value
        return None if tensor is None else tuple(int(dim) for dim in tensor.shape.numpy())
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def infer_dims(model: ir.Model) -> dict[str, Dims]:
    """Return the dimensions of the values of ``model`` by name, subgraphs included.

    What the inference cannot find has the dimensions recorded in the model, or is left out.
    """
    found: dict[str, Dims] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            dims = dims_of(value)
            if dims is not None and value.name:
                found[value.name] = dims
    try:
        inferred = onnx.shape_inference.infer_shapes(_skeleton(model), data_prop=True)
    except Exception as error:  # the inference raises whatever it likes
        logger.debug("shape inference failed: %s", error)
        return found
    _collect(inferred.graph, found)
    return found


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.functions.extend(ir.to_proto(function) for function in model.functions.values())
    graph, source = proto.graph, model.graph
    graph.name = source.name or "graph"
    graph.input.extend(ir.to_proto(value) for value in source.inputs)
    graph.output.extend(ir.to_proto(value) for value in source.outputs)
    for value in source.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.size <= SMALL:
            graph.initializer.append(ir.to_proto(tensor))
            graph.initializer[-1].name = value.name or ""
        else:
            shape = [int(dim) for dim in tensor.shape.numpy()]
            graph.initializer.add(name=value.name, data_type=tensor.dtype.value, dims=shape)
    for node in source:
        graph.node.append(ir.to_proto(node))
        graph.value_info.extend(
            ir.to_proto(value)
            for value in node.outputs
            if value.name and value.type is not None and not value.is_graph_output()
        )
    return proto


def _collect(graph: onnx.GraphProto, found: dict[str, Dims]) -> None:
    for info in (*graph.value_info, *graph.output):
        kind = info.type.tensor_type
        if info.type.HasField("tensor_type") and kind.HasField("shape"):
            dims = tuple(_dim(dim) for dim in kind.shape.dim)
            found[info.name] = _better(found.get(info.name), dims)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (
                *attribute.graphs,
                *([attribute.g] if attribute.HasField("g") else []),
            ):
                _collect(inner, found)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def _better(old: Dims | None, new: Dims) -> Dims:
    """Merge what two sources know; lengths before symbols before nothing."""
    if old is None or len(old) != len(new):
        return new
    return tuple(
        a if isinstance(a, int) or (b is None and a is not None) else b
        for a, b in zip(old, new, strict=True)
    )

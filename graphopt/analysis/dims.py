"""Shapes of all values of a model, without touching the model or its weights.

The official inference runs on an outline: the graph with its large initializers reduced to
their type and shape, so that gigabytes of weights are neither read nor copied.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TypeAlias

import onnx
import onnx_ir as ir

from graphopt import model_io

__all__ = ["Dims", "Inferred", "dims_of", "infer"]

logger = logging.getLogger(__name__)

Dims: TypeAlias = "tuple[int | str | None, ...]"
"""One entry a dimension: its length, its symbol, or ``None`` where nothing is known."""


def dims_of(value: ir.Value) -> Dims | None:
    """Return the dimensions recorded for ``value``; ``None`` where the rank is unknown."""
    if value.shape is None:
        tensor = value.const_value
        return None if tensor is None else tuple(int(dim) for dim in tensor.shape.numpy())
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


@dataclasses.dataclass(frozen=True)
class Inferred:
    """What is known about the values of a model, by name, subgraphs included.

    Attributes:
        dims: Dimensions; a value of unknown rank is left out.
        kinds: Element types.
    """

    dims: dict[str, Dims] = dataclasses.field(default_factory=dict)
    kinds: dict[str, ir.DataType] = dataclasses.field(default_factory=dict)


def infer(model: ir.Model) -> Inferred:
    """Return what the model records about its values and what shape inference finds."""
    found = Inferred()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            dims = dims_of(value)
            if dims is not None and value.name:
                found.dims[value.name] = dims
            if value.dtype is not None and value.name:
                found.kinds[value.name] = value.dtype
    try:
        inferred = onnx.shape_inference.infer_shapes(model_io.outline(model), data_prop=True)
    except Exception as error:  # the inference raises whatever it likes
        logger.debug("shape inference failed: %s", error)
        return found
    _collect(inferred.graph, found)
    return found


def _collect(graph: onnx.GraphProto, found: Inferred) -> None:
    for info in (*graph.value_info, *graph.output):
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type"):
            continue
        if kind.elem_type:
            found.kinds[info.name] = ir.DataType(kind.elem_type)
        if kind.HasField("shape"):
            dims = tuple(_dim(dim) for dim in kind.shape.dim)
            found.dims[info.name] = _better(found.dims.get(info.name), dims)
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

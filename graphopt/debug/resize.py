"""Makes a model with smaller or other tensors out of one; its nodes stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphopt.debug.case import Case

__all__ = ["shrink_size", "with_weights"]


def shrink_size(case: Case, size: int, to: int) -> Case:
    """Return the case with every dimension of ``size`` cut to ``to``: inputs and weights."""
    model = case.model.clone()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and size in tuple(tensor.shape.numpy()):
                _set_data(value, _cut(tensor.numpy(), size, to))
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.outputs):
            if value.shape is not None:
                value.shape = ir.Shape([to if dim == size else dim for dim in value.shape])
    _forget_shapes(model)
    feeds = [
        {name: _cut(array, size, to) for name, array in feed.items()} for feed in case.feeds
    ]
    return Case(model, tuple(feeds))


def with_weights(case: Case, change: Mapping[str, np.ndarray]) -> Case:
    """Return the case with other data in some initializers of the main graph."""
    model = case.model.clone()
    for name, data in change.items():
        _set_data(model.graph.initializers[name], data)
    return Case(model, case.feeds)


def _cut(array: np.ndarray, size: int, to: int) -> np.ndarray:
    return array[tuple(slice(0, to if dim == size else dim) for dim in array.shape)]


def _set_data(value: ir.Value, data: np.ndarray) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(data), name=value.name)
    value.shape = ir.Shape(data.shape)


def _forget_shapes(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None

"""A model and what it is run on: what a failure is shrunk from, and to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.samples import Feed

__all__ = ["Case", "count_nodes", "made_up", "shape_of", "type_of", "weight_bytes"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and what it is run on. Nothing changes a case; smaller ones are made of it."""

    model: ir.Model
    feeds: tuple[Feed, ...]


def count_nodes(model: ir.Model) -> int:
    """Return the number of nodes, those of subgraphs included."""
    return sum(len(graph) for graph in model.graphs())


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def made_up(value: ir.Value, count: int, free: int | None = None) -> list[np.ndarray] | None:
    """Return seeded arrays for ``value``; ``None`` if its type or shape is unknown.

    Args:
        value: What they are for.
        count: How many.
        free: Size of its symbolic dimensions; ``None``: with such its shape is unknown.
    """
    if value.dtype is None or value.shape is None:
        return None
    shape: list[int] = []
    for dim in value.shape:
        size = dim if isinstance(dim, int) else free
        if size is None:
            return None
        shape.append(size)
    rng = np.random.default_rng(0)
    kind = np.dtype(value.dtype.numpy())
    if kind.kind == "f":
        return [rng.standard_normal(shape).astype(kind) for _ in range(count)]
    if kind.kind in "iub":
        return [rng.integers(0, 2, shape).astype(kind) for _ in range(count)]
    return None


def shape_of(arrays: Sequence[np.ndarray]) -> ir.Shape:
    """Return the shape of an input that is fed with ``arrays``."""
    shapes = {array.shape for array in arrays}
    return ir.Shape(shapes.pop() if len(shapes) == 1 else [None] * arrays[0].ndim)


def type_of(array: np.ndarray) -> ir.TensorType:
    """Return the type of an input that is fed with ``array``."""
    if array.dtype == object:
        return ir.TensorType(ir.DataType.STRING)
    return ir.TensorType(ir.DataType.from_numpy(array.dtype))

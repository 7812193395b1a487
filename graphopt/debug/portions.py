"""How a model is looked at in portions: which tensors together, and from which file."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from graphopt import model_io
from graphopt.analysis.cost import parameters_of
from graphopt.runtime.session import Model
from graphopt.samples import Feed

__all__ = ["budget_for", "portions_of", "sizes_of", "with_weights_aside"]

_LEAST_BUDGET = 8 << 20
_SHARE = 8
"""Both models' tensors of a portion are in two processes: half of the weights at most."""
_LARGE = 1024
"""Elements from which on a constant goes to the file of weights."""
_CONSTANT_INITIALIZERS = 4
"""The first IR version in which an initializer need not be an input."""


def budget_for(model: ir.Model) -> int:
    """Return how many bytes the tensors of one portion of ``model`` may take.

    A plain run holds the weights, which are in memory once; beside large ones larger portions
    do not count, and there are fewer of them.
    """
    return max(_LEAST_BUDGET, parameters_of(model)[1] // _SHARE)


def sizes_of(
    graph: ir.Graph,
    feeds: Sequence[Feed],
    shapes: Mapping[ir.Value, ir.Shape | None],
    budget: int,
) -> dict[str, int]:
    """Return about how many bytes each tensor takes; a part of the budget where unknown."""
    symbols: dict[str, int] = {}
    for value in graph.inputs:
        for feed in feeds:
            array = feed.get(value.name or "")
            if array is None or value.shape is None or len(value.shape) != array.ndim:
                continue
            for dim, size in zip(value.shape, array.shape, strict=True):
                if isinstance(dim, ir.SymbolicDim) and dim.value:
                    symbols[dim.value] = max(size, symbols.get(dim.value, 0))
    sizes = {}
    for node in graph:
        for value in node.outputs:
            size = value.dtype.itemsize if value.dtype is not None else 4.0
            shape = value.shape if value.shape is not None else shapes.get(value)
            known = shape is not None
            for dim in shape if shape is not None else ():
                length = dim if isinstance(dim, int) else symbols.get(dim.value or "")
                known = known and length is not None
                size *= 1 if length is None else length
            sizes[value.name or ""] = math.ceil(size if known else max(size, budget / 16))
    return sizes


def portions_of(
    names: Sequence[str], sizes: Mapping[str, int], budget: int
) -> Iterator[list[str]]:
    """Yield ``names`` in portions that take ``budget`` bytes at most; one tensor at least."""
    portion: list[str] = []
    used = 0
    for name in names:
        if portion and used + sizes[name] > budget:
            yield portion
            portion, used = [], 0
        portion.append(name)
        used += sizes[name]
    if portion:
        yield portion


def with_weights_aside(model: Model, path: pathlib.Path) -> pathlib.Path:
    """Write ``model`` to ``path``, its weights to a file beside it, and return ``path``.

    Every portion is a model of its own; weights that onnxruntime maps are copied by none. Some
    exporters write them as ``Constant`` nodes, which only initializers can leave.
    """
    loaded = model.clone() if isinstance(model, ir.Model) else model_io.load(model)
    if (loaded.ir_version or 0) >= _CONSTANT_INITIALIZERS:
        LiftConstantsToInitializersPass(size_limit=_LARGE)(loaded)
    return model_io.save(loaded, path, external_data="always", durable=False).path

"""Shapes of what moves, selects and joins data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.symbolic.base import (
    Known,
    Shape,
    ShapeRule,
    axis_of,
    broadcast_shapes,
    input_of,
    integers,
    size_of,
)
from graphopt.analysis.symbolic.expressions import (
    Dim,
    ceil_divide,
    divide,
    maximum,
    minimum,
    product,
)

__all__ = ["LAYOUT_RULES", "is_out_of_step", "slice_bounds", "slice_size"]


def _reshape(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, target = known.shape(node.inputs[0]), known.content(input_of(node, 1))
    if target is None:
        count = known.shape(input_of(node, 1))
        if count is not None and isinstance(count[0], int):
            return [tuple(known.unknown() for _ in range(count[0]))]
        return [None]
    dims: list[Dim | None] = []
    for index, item in enumerate(target.tolist()):
        if item == 0 and not attribute(node, "allowzero", 0):
            copied = shape[index] if shape is not None and index < len(shape) else None
            dims.append(copied if copied is not None else known.unknown())
        else:
            # What could be negative may stand for -1.
            dims.append(None if item == -1 else size_of(item, known))
    if None in dims:
        given = product(dim for dim in dims if dim is not None)
        total = None if shape is None else product(shape)
        left = None if total is None else divide(total, given)
        dims[dims.index(None)] = known.unknown() if left is None else left
    return [tuple(dim for dim in dims if dim is not None)]


def _flatten(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return [(known.unknown(), known.unknown())]
    axis = axis_of(node, len(shape), 1)
    return [(product(shape[:axis]), product(shape[axis:]))]


def _squeeze(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    axes = integers(node, known, "axes", 1, ())
    if shape is None or axes is None:
        return [None]
    if not axes:
        if not all(isinstance(dim, int) for dim in shape):
            return [None]
        return [tuple(dim for dim in shape if dim != 1)]
    gone = {axis % len(shape) for axis in axes}
    return [tuple(dim for index, dim in enumerate(shape) if index not in gone)]


def _unsqueeze(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, axes = known.shape(node.inputs[0]), integers(node, known, "axes", 1)
    if shape is None or axes is None:
        return [None]
    rank = len(shape) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(shape)
    return [tuple(1 if index in new else next(rest) for index in range(rank))]


def _transpose(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return [None]
    perm = attribute(node, "perm", range(len(shape))[::-1])
    return [tuple(shape[index] for index in perm)]


def _concat(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shapes = [known.shape(value) for value in node.inputs]
    present = [shape for shape in shapes if shape is not None]
    if len(present) != len(shapes):
        return [None]
    axis = axis_of(node, len(present[0]))
    dims: list[Dim] = []
    for index in range(len(present[0])):
        sizes = [shape[index] for shape in present]
        if index == axis:
            dims.append(sum(sizes[1:], sizes[0]))
        else:
            # All are equal; a number says most.
            dims.append(next((size for size in sizes if isinstance(size, int)), sizes[0]))
    return [tuple(dims)]


def _split(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, count = known.shape(node.inputs[0]), len(node.outputs)
    if shape is None:
        return [None] * count
    axis = axis_of(node, len(shape))
    sizes: list[Dim]
    given = integers(node, known, "split", 1, ())
    if given:
        sizes = list(given)
    elif given is None:
        sizes = [known.unknown() for _ in range(count)]
    else:
        # The last part is smaller where it does not come out even.
        part = ceil_divide(shape[axis], count)
        last = size_of(shape[axis] - part * (count - 1), known)
        sizes = [part] * (count - 1) + [last]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _slice(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return [None]
    bounds = slice_bounds(node, known, len(shape))
    if bounds is None:
        return [tuple(known.unknown() for _ in shape)]
    dims = list(shape)
    for axis, (start, end, step) in bounds.items():
        size = slice_size(shape[axis], start, end, step, known)
        dims[axis] = known.unknown() if size is None else size
    return [tuple(dims)]


_NO_END = (np.iinfo(np.int32).max, np.iinfo(np.int64).max)


def slice_bounds(
    node: ir.Node, known: Known, rank: int
) -> dict[int, tuple[Dim, Dim, int]] | None:
    """Return axis -> (start, end, step) of a ``Slice``; ``None`` where they are not known.

    Neither are they where an axis does not exist.
    """
    if "starts" in node.attributes:
        starts: list[Dim] = list(attribute(node, "starts"))
        ends: list[Dim] = list(attribute(node, "ends"))
        axes = tuple(attribute(node, "axes", range(len(starts))))
        steps = (1,) * len(starts)
    else:
        first, last = known.content(input_of(node, 1)), known.content(input_of(node, 2))
        if first is None or last is None:
            return None
        starts, ends = list(first.flat), list(last.flat)
        given = integers(node, known, "axes", 3, tuple(range(len(starts))))
        strides = integers(node, known, "steps", 4, (1,) * len(starts))
        if given is None or strides is None:
            return None
        axes, steps = given, strides
    if not all(-rank <= axis < rank for axis in axes):
        return None
    return {
        axis % rank: bound
        for axis, bound in zip(axes, zip(starts, ends, steps, strict=True), strict=True)
    }


def slice_size(size: Dim, start: Dim, end: Dim, step: int, known: Known) -> Dim | None:
    """Return how many elements of ``size`` a slice keeps; ``None`` where that is not known."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        if is_out_of_step(size, start, end, step):
            return None
        return len(range(*slice(start, end, step).indices(size)))
    if step != 1:
        return None
    start, end = _clamped(start, size), _clamped(end, size)
    if not known.nonnegative(start) or not known.nonnegative(end):
        return None  # may count from the back
    kept = end - start
    return kept if known.nonnegative(kept) else maximum(kept, 0)


def is_out_of_step(size: int, start: int, end: int, step: int) -> bool:
    """Whether onnxruntime and Python differ in a slice that goes backwards.

    In front of the first element it starts at the first one, and the largest integers as its
    end mean that there is none.
    """
    return step < 0 and (start < -size or end in _NO_END)


def _clamped(bound: Dim, size: Dim) -> Dim:
    """Return a bound of a slice, counted from the front and at most ``size``."""
    if bound == 0:
        return 0
    if isinstance(bound, int) and bound < 0:
        return maximum(size + bound, 0)
    if isinstance(bound, int) and bound >= np.iinfo(np.int32).max:
        return size  # what exporters write for "to the end"
    return minimum(bound, size)


def _gather(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None or indices is None:
        return [None]
    axis = axis_of(node, len(data))
    return [data[:axis] + indices + data[axis + 1 :]]


def _gather_nd(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None or indices is None or not isinstance(indices[-1], int):
        return [None]
    batch_dims = attribute(node, "batch_dims", 0)
    return [indices[:-1] + data[batch_dims + indices[-1] :]]


def _second(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    return [known.shape(node.inputs[1])]


def _as_shape(content: np.ndarray | None, known: Known) -> Shape | None:
    """Return the shape that a tensor of sizes stands for."""
    if content is None:
        return None
    return tuple(size_of(item, known) for item in content.flat)


def _expand(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    target = _as_shape(known.content(input_of(node, 1)), known)
    return [broadcast_shapes(known.shape(node.inputs[0]), target)]


def _constant_of_shape(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    return [_as_shape(known.content(node.inputs[0]), known)]


def _tile(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, repeats = known.shape(node.inputs[0]), known.content(input_of(node, 1))
    if shape is None or repeats is None or len(repeats) != len(shape):
        return [None if shape is None else tuple(known.unknown() for _ in shape)]
    pairs = zip(shape, repeats.tolist(), strict=True)
    return [tuple(size_of(dim * times, known) for dim, times in pairs)]


def _pad(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return [None]
    rank = len(shape)
    axes = integers(node, known, "axes", 3, tuple(range(rank)))
    pads: list[Dim]
    if "pads" in node.attributes:
        pads = list(attribute(node, "pads"))
    else:
        content = known.content(input_of(node, 1))
        pads = [] if content is None else content.tolist()
    if axes is None or len(pads) != 2 * len(axes):
        return [tuple(known.unknown() for _ in shape)]
    dims = list(shape)
    for index, axis in enumerate(axes):
        dims[axis] = size_of(dims[axis] + pads[index] + pads[index + len(axes)], known)
    return [tuple(dims)]


def _range(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    start, limit, delta = (known.content(value) for value in node.inputs[:3])
    if start is None or limit is None or delta is None or not isinstance(delta.item(), int):
        return [(known.unknown(),)]
    step, span = delta.item(), limit.item() - start.item()
    if step < 0:
        step, span = -step, -span
    return [(maximum(ceil_divide(span, step), 0) if step else known.unknown(),)]


def _shape(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return [(known.unknown(),)]
    return [(len(shape[attribute(node, "start", 0) : attribute(node, "end")]),)]


def _size(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    del node, known
    return [()]


def _one_hot(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    indices, depth = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if indices is None:
        return [None]
    axis = axis_of(node, len(indices) + 1, -1)
    size = known.unknown() if depth is None else size_of(depth.item(0), known)
    return [(*indices[:axis], size, *indices[axis:])]


def _non_zero(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    return [(known.unknown() if shape is None else max(len(shape), 1), known.unknown())]


def _depth_to_space(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, block = known.shape(node.inputs[0]), attribute(node, "blocksize")
    if shape is None:
        return [None]
    depth = divide(shape[1], block * block)
    channels = known.unknown() if depth is None else depth
    return [(shape[0], channels, shape[2] * block, shape[3] * block)]


def _space_to_depth(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, block = known.shape(node.inputs[0]), attribute(node, "blocksize")
    if shape is None:
        return [None]
    sizes = [divide(dim, block) for dim in shape[2:]]
    rest = [known.unknown() if size is None else size for size in sizes]
    return [(shape[0], shape[1] * block * block, *rest)]


LAYOUT_RULES: dict[str, ShapeRule] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _second,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

"""Constant results that numpy computes bit for bit as onnxruntime does.

Starting onnxruntime takes a quarter of a second and 100 MB, and most of what exporters leave
to be folded is only moved about, or has one correct answer by IEEE 754. Everything else is
onnxruntime's business: what it rounds by its own means, and what has NaN in its result, whose
bits nobody prescribes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.symbolic.layout import is_out_of_step
from graphopt.runtime.bounds import result_elements

__all__ = ["compute"]

Arrays: TypeAlias = Sequence["np.ndarray | None"]
Kernel: TypeAlias = Callable[[ir.Node, Sequence[np.ndarray]], "np.ndarray | None"]

SINCE = {
    "CastLike": 15, "ConstantOfShape": 9, "Expand": 8, "GatherND": 12, "Max": 12, "Min": 12,
    "Slice": 10, "Where": 9,
}  # fmt: skip
"""Versions of the operator set from which an operator is as it is here; others: 7, which has
broadcasting without attributes."""

_IEEE = (np.dtype(np.float32), np.dtype(np.float64))
_CASTS = {
    np.dtype(kind)
    for kind in (
        np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32,
        np.uint64, np.float32, np.float64,
    )
}  # fmt: skip


def compute(
    node: ir.Node, arrays: Arrays, opsets: Mapping[str, int], max_bytes: int
) -> np.ndarray | None:
    """Return the one output of ``node``, or ``None`` where onnxruntime is to be asked.

    Args:
        node: The node.
        arrays: One an input; ``None`` for an omitted one.
        opsets: Operator set versions, domain -> version.
        max_bytes: What is larger is not computed here.
    """
    kernel = _KERNELS.get(node.op_type)
    inputs = [array for array in arrays if array is not None]
    if kernel is None or node.domain or len(inputs) != len(arrays) or len(node.outputs) != 1:
        return None
    if opsets.get("", 0) < SINCE.get(node.op_type, 7):
        return None
    elements = result_elements(node, inputs)
    if elements is not None and elements > max_bytes:
        return None
    # What is wrong with a node, onnxruntime says in its own words.
    try:
        with np.errstate(all="ignore"):
            return kernel(node, inputs)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _concat(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    if len({array.dtype for array in inputs}) != 1:
        return None
    return np.concatenate(inputs, attribute(node, "axis"))


def _constant_of_shape(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    value = attribute(node, "value")
    item = np.zeros(1, np.float32) if value is None else value.numpy()
    return np.full(tuple(inputs[0].tolist()), item.reshape(()), item.dtype)


def _expand(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    del node
    x, shape = inputs[0], tuple(inputs[1].tolist())
    return np.ascontiguousarray(np.broadcast_to(x, np.broadcast_shapes(x.shape, shape)))


def _gather(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    data, indices = inputs
    return np.take(data, indices, axis=attribute(node, "axis", 0))  # raises where outside


def _gather_nd(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    data, indices = inputs
    if attribute(node, "batch_dims", 0):
        return None
    return np.asarray(data[tuple(np.moveaxis(indices, -1, 0))])  # raises where outside


def _range(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    del node
    start, limit, delta = inputs
    if start.dtype.kind != "i" or not delta.item():
        return None
    items = range(int(start.item()), int(limit.item()), int(delta.item()))
    return np.array(items, start.dtype)


def _slice(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    del node
    data, starts, ends, *rest = inputs
    axes = rest[0].tolist() if rest else range(len(starts))
    steps = rest[1].tolist() if len(rest) > 1 else [1] * len(starts)
    index = [slice(None)] * data.ndim
    for axis, *bounds in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        if is_out_of_step(data.shape[axis], *bounds):
            return None
        index[axis] = slice(*bounds)
    return data[tuple(index)]


def _where(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    del node
    condition, one, other = inputs
    if one.dtype != other.dtype or one.dtype.kind not in "biuf":
        return None
    result = np.where(condition, one, other)
    # onnxruntime 1.31 adds the choices up, where -0.0 may become 0.0.
    return None if np.any((result == 0) & np.signbit(result)) else result


def _cast(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    return _converted(inputs[0], np.dtype(ir.DataType(attribute(node, "to")).numpy()))


def _cast_like(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    del node
    x, like = inputs
    return _converted(x, like.dtype)


def _converted(x: np.ndarray, kind: np.dtype) -> np.ndarray | None:
    if kind not in _CASTS or x.dtype not in _CASTS:
        return None
    if kind.kind in "iu":
        # What does not fit is cut off in a way that depends on the machine.
        limits = np.iinfo(kind)
        low, high = x.min(initial=0), x.max(initial=0)
        if not (limits.min <= low and high < limits.max):
            return None
    return x.astype(kind)


def _ieee(operation: Callable[..., Any]) -> Kernel:
    def kernel(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        del node
        if any(array.dtype != inputs[0].dtype for array in inputs):
            return None
        if inputs[0].dtype not in _IEEE:
            return None
        result = np.asarray(operation(*inputs))
        return None if np.isnan(result).any() else result

    return kernel


def _arithmetic(operation: Callable[..., Any]) -> Kernel:
    floats = _ieee(operation)

    def kernel(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        kind = inputs[0].dtype
        if kind.kind not in "iu":
            return floats(node, inputs)
        if any(array.dtype != kind for array in inputs):
            return None
        # Python's integers do not overflow; what a kernel does with one is its own affair.
        exact = np.asarray(operation(*(array.astype(object) for array in inputs)), object)
        limits = np.iinfo(kind)
        if not all(limits.min <= item <= limits.max for item in exact.flat):
            return None
        return exact.astype(kind)

    return kernel


def _extreme(operation: Callable[..., Any]) -> Kernel:
    return _plain(lambda *arrays: functools.reduce(operation, arrays), "iu")


def _sqrt(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
    # Of many elements onnxruntime may take an approximation and a step of Newton's.
    return _ieee(np.sqrt)(node, inputs) if inputs[0].size == 1 else None


def _plain(operation: Callable[..., Any], kinds: str) -> Kernel:
    def kernel(node: ir.Node, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        del node
        if any(array.dtype != inputs[0].dtype for array in inputs):
            return None
        return np.asarray(operation(*inputs)) if inputs[0].dtype.kind in kinds else None

    return kernel


_KERNELS: dict[str, Kernel] = {
    "Add": _arithmetic(np.add),
    "And": _plain(np.logical_and, "b"),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _ieee(np.divide),
    "Equal": _plain(np.equal, "biuf"),
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Greater": _plain(np.greater, "iuf"),
    "Less": _plain(np.less, "iuf"),
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "Mul": _arithmetic(np.multiply),
    "Neg": _ieee(np.negative),
    "Not": _plain(np.logical_not, "b"),
    "Or": _plain(np.logical_or, "b"),
    "Range": _range,
    "Slice": _slice,
    "Sqrt": _sqrt,
    "Sub": _arithmetic(np.subtract),
    "Where": _where,
}

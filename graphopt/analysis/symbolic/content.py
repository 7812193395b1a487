"""Contents of small integer tensors: what exporters compute shapes, axes and indices with."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.symbolic.base import (
    ContentRule,
    Known,
    axis_of,
    integers,
)
from graphopt.analysis.symbolic.expressions import (
    Dim,
    Expr,
    is_nonnegative,
    maximum,
    minimum,
    modulo,
    product,
    truncated,
)
from graphopt.analysis.symbolic.layout import LAYOUT_RULES, is_out_of_step, slice_bounds

__all__ = ["CONTENT_RULES"]

_INTEGER_RANGE = {
    ir.DataType.INT64: range(-(2**63), 2**63),
    ir.DataType.INT32: range(-(2**31), 2**31),
}
_LARGEST = 256
"""No longer result is made, even for a moment: a small file can ask for a terabyte."""

_Combine: TypeAlias = "Callable[..., Dim | bool | None]"


def _fixed_shape(node: ir.Node, known: Known) -> tuple[int, ...] | None:
    """Return the shape of the output, where it is fixed, by the rule for shapes."""
    (shape, *_) = LAYOUT_RULES[node.op_type](node, known)
    if shape is None:
        return None
    sizes = tuple(dim for dim in shape if isinstance(dim, int))
    return sizes if len(sizes) == len(shape) else None


def _shape(node: ir.Node, known: Known) -> np.ndarray | None:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return None
    return _array(list(shape[attribute(node, "start", 0) : attribute(node, "end")]))


def _size(node: ir.Node, known: Known) -> np.ndarray | None:
    shape = known.shape(node.inputs[0])
    return None if shape is None else np.array(product(shape), object)


def _array(items: list[Dim]) -> np.ndarray:
    result = np.empty(len(items), object)
    result[:] = items
    return result


def _first(node: ir.Node, known: Known) -> np.ndarray | None:
    return known.content(node.inputs[0])


def _converted(content: np.ndarray | None, kind: ir.DataType | None) -> np.ndarray | None:
    """Return ``content`` as integers or truth values; ``None`` where that changes a number."""
    if content is None:
        return None
    items = list(content.flat)
    if kind in _INTEGER_RANGE:
        items = [int(item) if isinstance(item, bool) else item for item in items]
        if all(isinstance(item, Expr) or item in _INTEGER_RANGE[kind] for item in items):
            return _array(items).reshape(content.shape)
    if kind == ir.DataType.BOOL and not any(isinstance(item, Expr) for item in items):
        return _array([bool(item) for item in items]).reshape(content.shape)
    return None


def _numbers(value: ir.Value | None, known: Known) -> np.ndarray | None:
    """Return the content of ``value``, also of a constant of floats that are integers."""
    content, tensor = known.content(value), tensor_of(value)
    if content is not None or tensor is None or tensor.size > _LARGEST:
        return content
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    items = tensor.numpy().reshape(-1).tolist()
    if not all(item.is_integer() for item in items):
        return None
    return _array([int(item) for item in items]).reshape(tensor.shape.numpy())


def _cast(node: ir.Node, known: Known) -> np.ndarray | None:
    return _converted(_numbers(node.inputs[0], known), ir.DataType(attribute(node, "to", 0)))


def _cast_like(node: ir.Node, known: Known) -> np.ndarray | None:
    like = node.inputs[1]
    kind = None if like is None else like.dtype
    if kind is None and (content := known.content(like)) is not None:
        kind = ir.DataType.BOOL if isinstance(content.flat[0], bool) else ir.DataType.INT64
    return _converted(_numbers(node.inputs[0], known), kind)


def _reshaped(node: ir.Node, known: Known) -> np.ndarray | None:
    content, shape = known.content(node.inputs[0]), _fixed_shape(node, known)
    return None if content is None or shape is None else content.reshape(shape)


def _transpose(node: ir.Node, known: Known) -> np.ndarray | None:
    content = known.content(node.inputs[0])
    return None if content is None else content.transpose(attribute(node, "perm"))


def _concat(node: ir.Node, known: Known) -> np.ndarray | None:
    parts = [known.content(value) for value in node.inputs]
    present = [part for part in parts if part is not None]
    if len(present) != len(parts):
        return None
    return np.concatenate(present, axis=axis_of(node, present[0].ndim))


def _gather(node: ir.Node, known: Known) -> np.ndarray | None:
    content, indices = known.content(node.inputs[0]), known.content(node.inputs[1])
    if content is None or indices is None:
        return None
    if not all(isinstance(item, int) for item in indices.flat):
        return None
    taken = np.take(content, indices.astype(np.int64), axis=axis_of(node, content.ndim))
    return np.asarray(taken, object)


def _slice(node: ir.Node, known: Known) -> np.ndarray | None:
    content = known.content(node.inputs[0])
    bounds = None if content is None else slice_bounds(node, known, content.ndim)
    if content is None or bounds is None:
        return None
    keys = [slice(None)] * content.ndim
    for axis, (start, end, step) in bounds.items():
        if isinstance(start, Expr) or isinstance(end, Expr):
            return None
        if is_out_of_step(content.shape[axis], start, end, step):
            return None
        keys[axis] = slice(start, end, step)
    return content[tuple(keys)]


def _expand(node: ir.Node, known: Known) -> np.ndarray | None:
    content, shape = known.content(node.inputs[0]), _fixed_shape(node, known)
    if content is None or shape is None or math.prod(shape) > _LARGEST:
        return None
    return np.broadcast_to(content, shape)


def _constant_of_shape(node: ir.Node, known: Known) -> np.ndarray | None:
    shape = _fixed_shape(node, known)
    tensor = attribute(node, "value")
    if shape is None or math.prod(shape) > _LARGEST or tensor is None:
        return None  # without the attribute it is a tensor of floats
    if tensor.dtype not in (*_INTEGER_RANGE, ir.DataType.BOOL):
        return None
    return np.full(shape, tensor.numpy().item(), object)


def _range(node: ir.Node, known: Known) -> np.ndarray | None:
    bounds = [known.content(value) for value in node.inputs]
    items = [None if bound is None else bound.item() for bound in bounds]
    if not all(isinstance(item, int) for item in items) or not items[2]:
        return None
    # all() has seen to it that they are integers, which a type checker does not follow.
    numbers = range(*items)  # type: ignore[arg-type]
    return _array(list(numbers)) if len(numbers) <= _LARGEST else None


def _fits(item: Dim | bool | None, node: ir.Node) -> bool:
    """Whether ``item`` is known, and ``node`` can give it without an overflow."""
    narrow = any(
        value is not None and value.dtype == ir.DataType.INT32
        for value in (*node.inputs, *node.outputs)
    )
    kind = ir.DataType.INT32 if narrow else ir.DataType.INT64
    if isinstance(item, int):
        return item in _INTEGER_RANGE[kind]
    return item is not None


def _elementwise(combine: _Combine) -> ContentRule:
    """Return the rule of an operator that combines broadcast elements."""

    def rule(node: ir.Node, known: Known) -> np.ndarray | None:
        parts = [known.content(value) for value in node.inputs]
        present = [part for part in parts if part is not None]
        if len(present) != len(parts):
            return None
        arrays = np.broadcast_arrays(*present)
        result = np.empty(arrays[0].shape, object)
        for index in np.ndindex(result.shape):
            item = combine(*(array[index] for array in arrays))
            if not _fits(item, node):
                return None
            result[index] = item
        return result

    return rule


def _where(condition: bool, yes: Dim, no: Dim) -> Dim:
    return yes if condition else no


def _equal(a: Dim, b: Dim) -> bool | None:
    difference = a - b
    if isinstance(difference, int):
        return difference == 0
    # A sum of sizes and a positive number is not 0.
    if is_nonnegative(difference - 1) or is_nonnegative(-difference - 1):
        return False
    return None


def _less(a: Dim, b: Dim) -> bool | None:
    if is_nonnegative(b - a - 1):
        return True
    return False if is_nonnegative(a - b) else None


def _less_or_equal(a: Dim, b: Dim) -> bool | None:
    if is_nonnegative(b - a):
        return True
    return False if is_nonnegative(a - b - 1) else None


def _modulo(node: ir.Node, known: Known) -> np.ndarray | None:
    # With fmod the result has the sign of the dividend, for floating-point numbers as well.
    return None if attribute(node, "fmod", 0) else _elementwise(modulo)(node, known)


def _reduce(combine: Callable[[Dim, Dim], Dim]) -> ContentRule:
    """Return the rule of a reduction of a vector to one element."""

    def rule(node: ir.Node, known: Known) -> np.ndarray | None:
        content, axes = known.content(node.inputs[0]), integers(node, known, "axes", 1, ())
        if content is None or content.ndim != 1 or axes is None:
            return None
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return content
        total = functools.reduce(combine, content)
        if not _fits(total, node):
            return None
        return np.full((1,) if attribute(node, "keepdims", 1) else (), total, object)

    return rule


CONTENT_RULES: dict[str, ContentRule] = {
    "Abs": _elementwise(lambda a: a if is_nonnegative(a) else None),
    "Add": _elementwise(operator.add),
    "And": _elementwise(lambda a, b: a and b),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(truncated),
    "Equal": _elementwise(_equal),
    "Expand": _expand,
    "Flatten": _reshaped,
    "Gather": _gather,
    "Greater": _elementwise(lambda a, b: _less(b, a)),
    "GreaterOrEqual": _elementwise(lambda a, b: _less_or_equal(b, a)),
    "Identity": _first,
    "Less": _elementwise(_less),
    "LessOrEqual": _elementwise(_less_or_equal),
    "Max": _elementwise(lambda *items: functools.reduce(maximum, items)),
    "Min": _elementwise(lambda *items: functools.reduce(minimum, items)),
    "Mod": _modulo,
    "Mul": _elementwise(operator.mul),
    "Neg": _elementwise(operator.neg),
    "Not": _elementwise(operator.not_),
    "Or": _elementwise(lambda a, b: a or b),
    "Range": _range,
    "ReduceMax": _reduce(maximum),
    "ReduceMin": _reduce(minimum),
    "ReduceProd": _reduce(operator.mul),
    "ReduceSum": _reduce(operator.add),
    "Reshape": _reshaped,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _reshaped,
    "Sub": _elementwise(operator.sub),
    "Transpose": _transpose,
    "Unsqueeze": _reshaped,
    "Where": _elementwise(_where),
}

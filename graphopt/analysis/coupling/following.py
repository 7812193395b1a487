"""What operators make of numbers: the arithmetic of shapes that a graph contains."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.numbers import Number, Numbers, Scalar, call, constants
from graphopt.analysis.facts import attribute

__all__ = ["LIMIT", "follow"]

LIMIT = 64
"""Tensors with more elements than this are not followed; a shape has at most a dozen."""


def _map(function: Callable[..., Scalar], *operands: Numbers) -> Numbers:
    """Apply ``function`` element by element, with broadcasting."""

    def one(*args: Number) -> Number:
        value = call(function, [arg.value for arg in args])
        return Number(value, function=function, args=args)

    result = np.frompyfunc(one, len(operands), 1)(*operands)
    return np.asarray(result, object)


def _divide(a: float, b: float) -> float:
    # ONNX integer division truncates; dimensions are not negative.
    return int(a / b) if isinstance(a, int) and isinstance(b, int) else a / b


def _cast(node: ir.Node) -> Callable[..., Scalar]:
    kind = ir.DataType(int(attribute(node, "to", 1)))
    if kind in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
        return float
    return bool if kind == ir.DataType.BOOL else int


_ELEMENTWISE: dict[str, Callable[..., Scalar]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divide,
    "Mod": operator.mod,
    "Neg": operator.neg,
    "Abs": abs,
    "Min": min,
    "Max": max,
    "Pow": pow,
    "Sqrt": math.sqrt,
    "Floor": lambda a: float(math.floor(a)),
    "Ceil": lambda a: float(math.ceil(a)),
    "Reciprocal": lambda a: 1.0 / a,
    "Equal": operator.eq,
    "Less": operator.lt,
    "Greater": operator.gt,
    "Not": operator.not_,
    "And": lambda a, b: a and b,
    "Or": lambda a, b: a or b,
}


_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
"""Second operand that leaves the first one as it is, symbol included."""


def _binary(op: str) -> Callable[[Number, Number], Number]:
    function, neutral = _ELEMENTWISE[op], _NEUTRAL[op]

    def one(a: Number, b: Number) -> Number:
        if b.value == neutral and not b.axes:
            return a
        if op in ("Add", "Mul") and a.value == neutral and not a.axes:
            return b
        return Number(call(function, [a.value, b.value]), function=function, args=(a, b))

    return one


def _equal(a: Number, b: Number) -> Number:
    # A length is never negative: what exporters test with "== -1".
    for one, other in ((a, b), (b, a)):
        negative = one.value is not None and one.value < 0
        if negative and other.value is None and other.symbol is not None:
            return Number(value=False)
    return Number(call(operator.eq, [a.value, b.value]), function=operator.eq, args=(a, b))


def follow(
    node: ir.Node, inputs: Sequence[Numbers | None], lengths: Sequence[Number] | None
) -> Numbers | None:
    """Return the numbers of the output of ``node``; ``None`` where they are not followed.

    Args:
        node: A node with one output.
        inputs: The numbers of its inputs; ``None`` for one that is absent or not followed.
        lengths: The lengths of its first input; ``None`` where its rank is unknown.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        result = _follow(node, inputs, lengths)
    except (IndexError, ValueError, TypeError):
        # Not the arithmetic of a valid shape.
        return None
    return result if result is None or result.size <= LIMIT else None


def _follow(
    node: ir.Node, inputs: Sequence[Numbers | None], lengths: Sequence[Number] | None
) -> Numbers | None:
    op = node.op_type
    if op in ("Shape", "Size"):
        return None if lengths is None else _shape(node, lengths)
    given = [value is not None for value in node.inputs]
    if not inputs or any(
        there and numbers is None for there, numbers in zip(given, inputs, strict=True)
    ):
        return None
    known = [numbers for numbers in inputs if numbers is not None]
    if op == "Equal":
        return np.asarray(np.frompyfunc(_equal, 2, 1)(*known), object)
    if op in _NEUTRAL and len(known) == 2:
        return np.asarray(np.frompyfunc(_binary(op), 2, 1)(*known), object)
    if op in _ELEMENTWISE:
        return _map(_ELEMENTWISE[op], *known)
    if op == "Cast":
        function = _cast(node)
        return known[0] if function is int and _integral(known[0]) else _map(function, *known)
    if op == "Identity":
        return known[0]
    if op == "Where":
        return _where(*known)
    structure = _STRUCTURE.get(op)
    return None if structure is None else structure(node, list(inputs))


def _shape(node: ir.Node, lengths: Sequence[Number]) -> Numbers:
    if node.op_type == "Size":
        product = (
            lengths[0]
            if len(lengths) == 1
            else Number(
                None
                if any(n.value is None for n in lengths)
                else math.prod(int(n.value or 0) for n in lengths),
                function=lambda *sizes: math.prod(sizes),
                args=tuple(lengths),
            )
        )
        return np.array(product, object)
    start, end = attribute(node, "start", 0), attribute(node, "end")
    result = np.empty(len(lengths), object)
    result[:] = lengths
    return result[start:end]


def _integral(numbers: Numbers) -> bool:
    return all(n.value is None or type(n.value) is int for n in numbers.reshape(-1))


def _where(condition: Numbers, a: Numbers, b: Numbers) -> Numbers:
    def one(c: Number, x: Number, y: Number) -> Number:
        if c.value is not None and not c.axes:
            return x if c.value else y
        value = call(lambda c, x, y: x if c else y, [c.value, x.value, y.value])
        return Number(value, function=lambda c, x, y: x if c else y, args=(c, x, y))

    return np.asarray(np.frompyfunc(one, 3, 1)(condition, a, b), object)


def _fixed(numbers: Numbers | None) -> list[int] | None:
    """Return integers that no axis decides, as indices are."""
    if numbers is None:
        return None
    if any(n.value is None or n.axes for n in numbers.reshape(-1)):
        raise ValueError("an index that is not fixed")
    return [int(n.value) for n in numbers.reshape(-1)]


def _gather(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    data, index = inputs[0], inputs[1]
    assert data is not None
    assert index is not None
    where = np.array(_fixed(index)).reshape(index.shape).astype(np.int64)
    taken = np.take(data, where, axis=int(attribute(node, "axis", 0)))
    return np.asarray(taken, object)


def _slice(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    def option(position: int, name: str) -> list[int] | None:
        if len(inputs) > 1:
            return _fixed(inputs[position]) if position < len(inputs) else None
        found: list[int] | None = attribute(node, name)
        return found

    data = inputs[0]
    assert data is not None
    starts, ends = option(1, "starts"), option(2, "ends")
    assert starts is not None
    assert ends is not None
    axes = option(3, "axes") or list(range(len(starts)))
    steps = option(4, "steps") or [1] * len(starts)
    cut = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0 and end < -data.shape[axis]:
            cut[axis] = slice(start, None, step)
        else:
            cut[axis] = slice(start, end, step)
    return data[tuple(cut)]


def _axes(node: ir.Node, inputs: list[Numbers | None]) -> list[int] | None:
    if len(inputs) > 1:
        return _fixed(inputs[1])
    axes: list[int] = list(attribute(node, "axes", ()))
    return axes or None


def _unsqueeze(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    assert inputs[0] is not None
    return np.expand_dims(inputs[0], tuple(_axes(node, inputs) or ()))


def _squeeze(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    axes = _axes(node, inputs)
    assert inputs[0] is not None
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _concat(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    parts = [part for part in inputs if part is not None]
    return np.concatenate(parts, axis=int(attribute(node, "axis")))


def _expand(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    del node
    assert inputs[0] is not None
    shape = np.broadcast_shapes(inputs[0].shape, tuple(_fixed(inputs[1]) or ()))
    if math.prod(shape) > LIMIT:
        raise ValueError("too large to follow")
    return np.broadcast_to(inputs[0], shape)


def _reshape(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    del node
    assert inputs[0] is not None
    return inputs[0].reshape(_fixed(inputs[1]) or ())


def _constant_of_shape(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    shape = _fixed(inputs[0]) or []
    if math.prod(shape) > LIMIT:
        raise ValueError("too large to follow")
    value = node.attributes.get("value")
    item = 0.0 if value is None else value.as_tensor().numpy().item()
    return constants(np.full(shape, item))


def _reduce_prod(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    data = inputs[0]
    assert data is not None
    if data.ndim != 1:
        raise ValueError("only vectors are followed")
    total = data[0]
    for number in data[1:]:
        total = _map(operator.mul, np.array(total, object), np.array(number, object)).item()
    keep = attribute(node, "keepdims", 1)
    result = np.empty((1,) if keep else (), object)
    result[...] = total
    return result


def _transpose(node: ir.Node, inputs: list[Numbers | None]) -> Numbers:
    assert inputs[0] is not None
    return inputs[0].transpose(attribute(node, "perm"))


_STRUCTURE: dict[str, Callable[[ir.Node, list[Numbers | None]], Numbers]] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "ReduceProd": _reduce_prod,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

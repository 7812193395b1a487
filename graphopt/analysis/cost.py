"""What a model costs: parameters, bytes, multiply-accumulate operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from graphopt.analysis import shapes
from graphopt.analysis.facts import attribute, tensor_of
from graphopt.records import nodes_in

__all__ = ["all_nodes", "macs_of", "parameters_of", "total_macs", "weights"]


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of the main graph, of its subgraphs and of model-local functions."""
    yield from nodes_in(model.graph)
    for function in model.functions.values():
        yield from nodes_in(function)


def parameters_of(model: ir.Model) -> tuple[int, int]:
    """Return the number of parameters (elements of all stored tensors) and their bytes."""
    tensors = list(weights(model))
    return sum(t.size for t in tensors), sum(t.nbytes for t in tensors)


def weights(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield the tensors stored in the file: initializers and values of ``Constant`` nodes."""
    for graph in model.graphs():
        yield from (v.const_value for v in graph.initializers.values() if v.const_value)
    for node in all_nodes(model):
        if node.op_type == "Constant" and not node.domain:
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            if tensor is not None:
                yield tensor


def total_macs(
    model: ir.Model,
    sizes: Mapping[str, int] | None = None,
    shape_of: Mapping[ir.Value, ir.Shape | None] | None = None,
) -> tuple[int, int]:
    """Return the multiply-accumulate operations of one run of the main graph.

    Args:
        model: The model.
        sizes: Size of each symbolic dimension; 1 where not given.
        shape_of: Inferred shapes of values that the model does not state itself.

    Returns:
        The operations of the nodes whose shapes are known, and how many matrix or convolution
        nodes there are whose shapes are not.
    """
    total = unknown = 0
    for node in model.graph:
        macs = macs_of(node, sizes or {}, shape_of or {})
        if macs is None:
            unknown += 1
        else:
            total += macs
    return total, unknown


def macs_of(
    node: ir.Node,
    sizes: Mapping[str, int],
    shape_of: Mapping[ir.Value, ir.Shape | None],
) -> int | None:
    """Return the multiply-accumulate operations of ``node``; ``None`` if shapes are unknown.

    Convolutions, matrix products, recurrent layers and attention count; for every other
    operator the answer is 0.
    """
    rule = _RULES.get(node.op_type)
    if rule is None:
        return 0

    def shape(index: int) -> tuple[int, ...]:
        value = node.outputs[0] if index < 0 else node.inputs[index]
        return _sized(_shape(value, shape_of), sizes)

    try:
        return rule(node, shape)
    except _UnknownError:
        return None


def _shape(
    value: ir.Value | None, shape_of: Mapping[ir.Value, ir.Shape | None]
) -> ir.Shape | None:
    if value is None:
        return None
    tensor = tensor_of(value)
    if tensor is not None:
        return ir.Shape(tensor.shape.numpy())
    return shapes.merged(value.shape, shape_of.get(value))


def _sized(shape: ir.Shape | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return ``shape`` with every symbolic dimension replaced.

    Raises:
        _UnknownError: The shape or one of its dimensions is not known.
    """
    if shape is None:
        raise _UnknownError
    dims = []
    for dim in shape:
        if not isinstance(dim, int) and dim.value is None:
            raise _UnknownError
        dims.append(dim if isinstance(dim, int) else sizes.get(str(dim.value), 1))
    return tuple(dims)


class _UnknownError(Exception):
    """A shape is not known."""


_ShapeOf = Callable[[int], tuple[int, ...]]
"""Index of an input -> its shape; -1: the first output."""


def _conv(node: ir.Node, shape: _ShapeOf) -> int:
    return math.prod(shape(-1)) * math.prod(shape(1)[1:])


def _qlinear_conv(node: ir.Node, shape: _ShapeOf) -> int:
    return math.prod(shape(-1)) * math.prod(shape(3)[1:])


def _conv_transpose(node: ir.Node, shape: _ShapeOf) -> int:
    return math.prod(shape(0)) * math.prod(shape(1)[1:])


def _gemm(node: ir.Node, shape: _ShapeOf) -> int:
    return math.prod(shape(-1)) * shape(0)[0 if attribute(node, "transA", 0) else 1]


def _matmul(node: ir.Node, shape: _ShapeOf) -> int:
    return math.prod(shape(-1)) * shape(0)[-1]


def _recurrent(node: ir.Node, shape: _ShapeOf) -> int:
    steps, batch = shape(0)[:2]
    return steps * batch * (math.prod(shape(1)) + math.prod(shape(2)))


def _attention(node: ir.Node, shape: _ShapeOf) -> int:
    if not node.domain:
        return _products_of_attention(node, shape, past=4)
    if node.domain != "com.microsoft":
        raise _UnknownError
    # onnxruntime's takes the projections in: x, and the weights of all three side by side.
    (batch, rows, width), columns = shape(0), shape(1)[1]
    sizes = attribute(node, "qkv_hidden_sizes", [columns // 3] * 3)
    return batch * rows * (width * columns + rows * int(sizes[0] + sizes[2]))


def _multi_head_attention(node: ir.Node, shape: _ShapeOf) -> int:
    return _products_of_attention(node, shape, past=6)


def _products_of_attention(node: ir.Node, shape: _ShapeOf, past: int) -> int:
    """Count queries times keys, and probabilities times values; ``past``: keys so far."""
    if len(node.inputs) < 2:
        raise _UnknownError  # all three in one tensor
    earlier = shape(past)[2] if any(node.inputs[past : past + 1]) else 0
    # Each element of queries and of the result meets each key.
    return (math.prod(shape(0)) + math.prod(shape(-1))) * (shape(1)[-2] + earlier)


_RULES = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MultiHeadAttention": _multi_head_attention,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _matmul,
    "RNN": _recurrent,
}

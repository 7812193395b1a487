"""Shapes of what computes: elementwise, reductions, products, convolutions, recurrences."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
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
from graphopt.analysis.symbolic.expressions import Dim, broadcast, ceil_divide, floor_divide

__all__ = ["COMPUTE_RULES"]

_SAME = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization",
    "Bernoulli", "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "CumProd", "CumSum", "DequantizeLinear", "Elu", "Erf", "Exp", "EyeLike", "Floor", "Gelu",
    "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu", "Log",
    "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Mish", "Neg", "Not",
    "PRelu", "QuantizeLinear", "RMSNormalization", "RandomNormalLike", "RandomUniformLike",
    "Reciprocal", "Relu", "ReverseSequence", "RotaryEmbedding", "Round", "Scatter",
    "ScatterElements", "ScatterND", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "TensorScatter",
    "ThresholdedRelu", "Trilu",
)  # fmt: skip
"""Operators whose first output has the shape of their first input."""

_ELEMENTWISE = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal",
    "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul",
    "Or", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
"""Operators that broadcast all their inputs."""

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip


def _same(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    return [known.shape(node.inputs[0])]


def _all_same(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    return [known.shape(node.inputs[0])] * len(node.outputs)


def _elementwise(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    return [broadcast_shapes(*(known.shape(value) for value in node.inputs))]


def _reduce(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    axes = integers(node, known, "axes", 1, ())
    if shape is None or axes is None:
        return [None]
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return [shape]
    gone = {axis % len(shape) for axis in axes} if axes else set(range(len(shape)))
    if attribute(node, "keepdims", 1):
        return [tuple(1 if index in gone else dim for index, dim in enumerate(shape))]
    return [tuple(dim for index, dim in enumerate(shape) if index not in gone)]


def _arg(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return [None]
    axis = axis_of(node, len(shape))
    kept: Shape = (1,) if attribute(node, "keepdims", 1) else ()
    return [shape[:axis] + kept + shape[axis + 1 :]]


def _top_k(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, k = known.shape(node.inputs[0]), known.content(input_of(node, 1))
    if shape is None:
        return [None, None]
    axis = axis_of(node, len(shape), -1)
    size: Dim = attribute(node, "k", 0) if k is None else k.item(0)
    if k is None and "k" not in node.attributes:
        size = known.unknown()
    found = (*shape[:axis], size_of(size, known), *shape[axis + 1 :])
    return [found, found]


def _dynamic_quantize(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    """The integers, their scale and their zero point."""
    return [known.shape(node.inputs[0]), (), ()]


def _matmul(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    a, b = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if a is None or b is None:
        return [None]
    batch = broadcast_shapes(a[:-2], b[:-2])
    if batch is None:
        return [None]
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else ()
    return [batch + rows + columns]


def _gemm(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    a, b = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    rows = None if a is None else a[1 if attribute(node, "transA", 0) else 0]
    columns = None if b is None else b[0 if attribute(node, "transB", 0) else 1]
    return [
        (
            known.unknown() if rows is None else rows,
            known.unknown() if columns is None else columns,
        )
    ]


def _window(node: ir.Node, known: Known, channels: Dim, kernel: Sequence[int]) -> Shape | None:
    """Return the shape behind windows of size ``kernel`` moving over the first input."""
    shape = known.shape(node.inputs[0])
    if shape is None:
        return None
    count = len(shape) - 2
    strides = attribute(node, "strides", [1] * count)
    dilations = attribute(node, "dilations", [1] * count)
    pads = attribute(node, "pads", [0] * 2 * count)
    auto = attribute(node, "auto_pad", "NOTSET")
    sizes: list[Dim] = []
    for index in range(count):
        size, reach = shape[index + 2], dilations[index] * (kernel[index] - 1) + 1
        room = size - reach
        if auto == "NOTSET":
            room = room + pads[index] + pads[index + count]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            found: Dim = ceil_divide(size, strides[index])
        elif attribute(node, "ceil_mode", 0):
            # It depends on whether the last window starts inside of the input.
            found = known.unknown()
        else:
            # One window, and one for each stride that there is room for.
            stride = strides[index]
            found = floor_divide(room + stride, stride, nonnegative=True)
        sizes.append(found)
    return (shape[0], channels, *sizes)


def _conv(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    weight = known.shape(node.inputs[1])
    if weight is None:
        return [None]
    kernel = [dim for dim in weight[2:] if isinstance(dim, int)]
    return [
        _window(node, known, weight[0], kernel) if len(kernel) == len(weight) - 2 else None
    ]


def _conv_transpose(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, weight = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if shape is None or weight is None:
        return [None]
    count = len(shape) - 2
    channels = weight[1] * attribute(node, "group", 1)
    sizes: list[Dim] = [known.unknown() for _ in range(count)]
    if "output_shape" in node.attributes:
        sizes = list(attribute(node, "output_shape"))[-count:]
    elif attribute(node, "auto_pad", "NOTSET") == "NOTSET":
        strides = attribute(node, "strides", [1] * count)
        dilations = attribute(node, "dilations", [1] * count)
        pads = attribute(node, "pads", [0] * 2 * count)
        extra = attribute(node, "output_padding", [0] * count)
        sizes = [
            strides[i] * (shape[i + 2] - 1)
            + (extra[i] + 1 - pads[i] - pads[i + count])
            + (weight[i + 2] - 1) * dilations[i]
            for i in range(count)
        ]
    return [(shape[0], channels, *sizes)]


def _pool(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, kernel = known.shape(node.inputs[0]), attribute(node, "kernel_shape")
    found = None if shape is None else _window(node, known, shape[1], kernel)
    return [found] * len(node.outputs)


def _global_pool(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    return [None if shape is None else (*shape[:2], *[1] * (len(shape) - 2))]


def _recurrence(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, hidden = known.shape(node.inputs[0]), attribute(node, "hidden_size")
    if shape is None or attribute(node, "layout", 0) or hidden is None:
        return [None, None, None]
    length, batch = shape[:2]
    directions = 2 if attribute(node, "direction", "forward") == "bidirectional" else 1
    last = (directions, batch, hidden)
    return [(length, directions, batch, hidden), last, last]


def _resize(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape, sizes = known.shape(node.inputs[0]), known.content(input_of(node, 3))
    if shape is None:
        return [None]
    plain = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if sizes is not None and plain and "axes" not in node.attributes:
        return [tuple(size_of(size, known) for size in sizes.tolist())]
    scales = tensor_of(input_of(node, 2 if known.opset > 10 else 1))
    if scales is None or scales.size != len(shape) or "axes" in node.attributes:
        return [tuple(known.unknown() for _ in shape)]
    # A factor that is no integer is rounded; that is left to onnx's inference.
    return [
        tuple(
            dim * int(scale) if float(scale).is_integer() else known.unknown()
            for dim, scale in zip(shape, scales.numpy().tolist(), strict=True)
        )
    ]


def _einsum(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    equation = attribute(node, "equation").replace(" ", "")
    if "->" not in equation or "..." in equation:
        return [None]
    terms, result = equation.split("->")
    sizes: dict[str, Dim] = {}
    for term, value in zip(terms.split(","), node.inputs, strict=True):
        shape = known.shape(value)
        if shape is None:
            return [None]
        for letter, dim in zip(term, shape, strict=True):
            sizes[letter] = broadcast(sizes.get(letter, 1), dim)
    return [tuple(sizes[letter] for letter in result)]


def _attention(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    query, value = known.shape(node.inputs[0]), known.shape(node.inputs[2])
    if query is None or value is None or len(query) not in (3, 4):
        return [None]
    width = value[-1]
    if len(query) == 3:
        shared = attribute(node, "kv_num_heads")
        width = floor_divide(width, shared) * attribute(node, "q_num_heads")
    return [(*query[:-1], width)]


COMPUTE_RULES: dict[str, ShapeRule] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "Attention": _attention,
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": _all_same,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Einsum": _einsum,
    "GRU": _recurrence,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "LSTM": _recurrence,
    "LpPool": _pool,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MaxPool": _pool,
    "RNN": _recurrence,
    "Resize": _resize,
    "TopK": _top_k,
    "Upsample": _resize,
}

"""Random networks in which operators of all families stand between layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]


class Builder:
    """Grows one network node by node; every step keeps the shapes known.

    Args:
        seed: Decides everything.
        dynamic: Let the first axis of the input have a symbolic length.
    """

    def __init__(self, seed: int, dynamic: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.dynamic = dynamic

    def one_of(self, *options: object) -> object:
        """Return one of ``options``."""
        return options[int(self.rng.integers(len(options)))]

    def weight(self, *shape: int, positive: bool = False) -> str:
        """Add a random constant and return its name."""
        fan = max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 1
        data = self.rng.standard_normal(shape) / np.sqrt(fan)
        return self.constant(
            (np.abs(data) + 0.5 if positive else data).astype(np.float32), "w"
        )

    def integers(self, *values: int) -> str:
        """Add a constant vector of int64 and return its name."""
        return self.constant(np.array(values, np.int64), "i")

    def constant(self, data: np.ndarray, prefix: str) -> str:
        """Add a constant and return its name."""
        name = f"{prefix}{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(data, name))
        return name

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """Add a node; return the name of its output, or of the first."""
        index = len(self.nodes)
        names = [f"v{index}"] + [f"v{index}_{k}" for k in range(1, outputs)]
        self.nodes.append(
            helper.make_node(op_type, inputs, names, name=f"{op_type}_{index}", **attributes)
        )
        return names[0]

    def model(self, inputs: str, shape: Shape, output: str, rank: int) -> ir.Model:
        """Return the model."""
        first: object = "N" if self.dynamic else shape[0]
        graph = helper.make_graph(
            self.nodes,
            "generated",
            [helper.make_tensor_value_info(inputs, TensorProto.FLOAT, [first, *shape[1:]])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
            self.weights,
        )
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        )
        onnx.checker.check_model(proto)
        return ir.from_proto(proto)


State = tuple[str, Shape]
Step = Callable[[Builder, str, Shape], State]


def conv(b: Builder, x: str, shape: Shape) -> State:
    groups = [g for g in (1, 1, 2, 4, shape[1]) if shape[1] % g == 0]
    group = int(b.one_of(*groups))
    out = group * int(b.rng.integers(1, 4)) if group > 1 else int(b.rng.integers(3, 13))
    size = int(b.one_of(1, 3))
    inputs = [x, b.weight(out, shape[1] // group, size, size)]
    if b.rng.random() < 0.5:
        inputs.append(b.weight(out))
    pads = [size // 2] * 4
    return b.node("Conv", *inputs, group=group, pads=pads), (shape[0], out, *shape[2:])


def conv_transpose(b: Builder, x: str, shape: Shape) -> State:
    out = int(b.rng.integers(2, 7))
    y = b.node("ConvTranspose", x, b.weight(shape[1], out, 1, 1))
    return y, (shape[0], out, *shape[2:])


def batch_norm(b: Builder, x: str, shape: Shape) -> State:
    vectors = [b.weight(shape[1]) for _ in range(3)]
    y = b.node("BatchNormalization", x, *vectors, b.weight(shape[1], positive=True))
    return y, shape


def activation(b: Builder, x: str, shape: Shape) -> State:
    return b.node(str(b.one_of("Relu", "Sigmoid", "Tanh", "Erf", "Softplus")), x), shape


def channel_constant(b: Builder, x: str, shape: Shape) -> State:
    rank = len(shape)
    where = 1 if rank == 4 else rank - 1
    extra = [1] * (rank - 1 - where)
    return b.node(str(b.one_of("Add", "Mul", "Sub")), x, b.weight(shape[where], *extra)), shape


def residual(b: Builder, x: str, shape: Shape) -> State:
    if len(shape) == 4:
        inner = conv(b, x, shape)
        inner = activation(b, *inner)
        y = b.node("Conv", inner[0], b.weight(shape[1], inner[1][1], 1, 1))
    else:
        width = int(b.rng.integers(3, 10))
        h = b.node("Relu", b.node("MatMul", x, b.weight(shape[-1], width)))
        y = b.node("MatMul", h, b.weight(width, shape[-1]))
    return b.node("Add", x, y), shape


def squeeze_excite(b: Builder, x: str, shape: Shape) -> State:
    width = int(b.rng.integers(2, 6))
    p = b.node("GlobalAveragePool", x)
    h = b.node("Relu", b.node("Conv", p, b.weight(width, shape[1], 1, 1)))
    gate = b.node("Sigmoid", b.node("Conv", h, b.weight(shape[1], width, 1, 1)))
    return b.node("Mul", x, gate), shape


def _channel_axis(shape: Shape) -> int:
    return 1 if len(shape) == 4 else len(shape) - 1


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def dense_connection(b: Builder, x: str, shape: Shape) -> State:
    axis = _channel_axis(shape)
    other, inner = conv(b, x, shape) if len(shape) == 4 else dense(b, x, shape)
    parts = [x, other] if b.rng.random() < 0.5 else [other, x]
    size = shape[axis] + inner[axis]
    return b.node("Concat", *parts, axis=axis), _with(shape, axis, size)


def split_gate(b: Builder, x: str, shape: Shape) -> State:
    axis = _channel_axis(shape)
    if shape[axis] % 2:
        return x, shape
    half = shape[axis] // 2
    if b.rng.random() < 0.5:
        first = b.node("Split", x, b.integers(half, half), outputs=2, axis=axis)
    else:
        first = b.node("Split", x, outputs=2, axis=axis, num_outputs=2)
    gate = b.node("Sigmoid", f"{first}_1")
    return b.node("Mul", first, gate), _with(shape, axis, half)


def split_and_join(b: Builder, x: str, shape: Shape) -> State:
    axis = _channel_axis(shape)
    if shape[axis] < 3:
        return x, shape
    cut = int(b.rng.integers(1, shape[axis]))
    parts = b.node("Split", x, b.integers(cut, shape[axis] - cut), outputs=2, axis=axis)
    return b.node("Concat", f"{parts}_1", b.node("Relu", parts), axis=axis), shape


def slice_channels(b: Builder, x: str, shape: Shape) -> State:
    axis = _channel_axis(shape)
    if shape[axis] < 4:
        return x, shape
    start = int(b.rng.integers(0, shape[axis] // 2))
    end = int(b.rng.integers(start + 2, shape[axis] + 1))
    last = int(b.one_of(end, end - shape[axis] if end < shape[axis] else 1 << 60))
    y = b.node("Slice", x, b.integers(start), b.integers(last), b.integers(axis))
    return y, _with(shape, axis, end - start)


def gather_channels(b: Builder, x: str, shape: Shape) -> State:
    axis = _channel_axis(shape)
    size = int(b.rng.integers(2, shape[axis] + 2))
    index = b.rng.integers(-shape[axis], shape[axis], size)
    return b.node("Gather", x, b.integers(*index.tolist()), axis=axis), _with(
        shape, axis, size
    )


def pad_channels(b: Builder, x: str, shape: Shape) -> State:
    axis = _channel_axis(shape)
    before, after = (int(n) for n in b.rng.integers(0, 3, 2))
    pads = [0] * (2 * len(shape))
    pads[axis], pads[axis + len(shape)] = before, after
    return b.node("Pad", x, b.integers(*pads)), _with(
        shape, axis, shape[axis] + before + after
    )


def shuffle(b: Builder, x: str, shape: Shape) -> State:
    axis = _channel_axis(shape)
    groups = [g for g in (2, 3, 4) if shape[axis] % g == 0 and shape[axis] > g]
    if not groups:
        return x, shape
    group = int(b.one_of(*groups))
    rest = list(shape[axis + 1 :])
    lead = [0] * axis
    r = b.node("Reshape", x, b.integers(*lead, group, shape[axis] // group, *rest))
    order = list(range(len(shape) + 1))
    order[axis], order[axis + 1] = axis + 1, axis
    t = b.node("Transpose", r, perm=order)
    return b.node("Reshape", t, b.integers(*lead, -1, *rest)), shape


def there_and_back(b: Builder, x: str, shape: Shape) -> State:
    order = [0, *(1 + b.rng.permutation(len(shape) - 1)).tolist()]
    t = b.node("Relu", b.node("Transpose", x, perm=order))
    return b.node("Transpose", t, perm=np.argsort(order).tolist()), shape


def group_norm(b: Builder, x: str, shape: Shape) -> State:
    groups = [g for g in (2, 3, 4) if shape[1] % g == 0]
    if not groups:
        return x, shape
    group = int(b.one_of(*groups))
    r = b.node("Reshape", x, b.integers(0, group, -1))
    ones = b.constant(np.ones(group, np.float32), "one")
    zeros = b.constant(np.zeros(group, np.float32), "zero")
    n = b.node("InstanceNormalization", r, ones, zeros)
    back = b.node("Shape", x)
    y = b.node("Reshape", n, back)
    return b.node("Mul", y, b.weight(shape[1], 1, 1)), shape


def depth_to_space(b: Builder, x: str, shape: Shape) -> State:
    if shape[1] % 4 or shape[2] > 4:
        return x, shape
    mode = str(b.one_of("DCR", "CRD"))
    y = b.node("DepthToSpace", x, blocksize=2, mode=mode)
    return y, (shape[0], shape[1] // 4, shape[2] * 2, shape[3] * 2)


def pool(b: Builder, x: str, shape: Shape) -> State:
    if shape[2] < 2:
        return x, shape
    kind = str(b.one_of("MaxPool", "AveragePool"))
    y = b.node(kind, x, kernel_shape=[2, 2], strides=[2, 2])
    return y, (shape[0], shape[1], shape[2] // 2, shape[3] // 2)


def resize(b: Builder, x: str, shape: Shape) -> State:
    if shape[2] > 4:
        return x, shape
    scales = b.constant(np.array([1, 1, 2, 2], np.float32), "scale")
    y = b.node("Resize", x, "", scales, mode="nearest")
    return y, (shape[0], shape[1], shape[2] * 2, shape[3] * 2)


def flatten(b: Builder, x: str, shape: Shape) -> State:
    flat = int(np.prod(shape[1:]))
    kind = int(b.rng.integers(4))
    if kind == 0:
        return b.node("Flatten", x), (shape[0], flat)
    if kind == 1:
        return b.node("Reshape", x, b.integers(-1, flat)), (shape[0], flat)
    if kind == 2:
        return b.node("Reshape", x, b.integers(0, -1)), (shape[0], flat)
    shapes = b.node("Shape", x)
    n = b.node("Gather", shapes, b.integers(0), axis=0)
    target = b.node("Concat", n, b.integers(flat), axis=0)
    return b.node("Reshape", x, target), (shape[0], flat)


def to_tokens(b: Builder, x: str, shape: Shape) -> State:
    length = shape[2] * shape[3]
    r = b.node("Reshape", x, b.integers(0, shape[1], length))
    t = b.node("Transpose", r, perm=[0, 2, 1])
    return t, (shape[0], length, shape[1])


def mean_of_positions(b: Builder, x: str, shape: Shape) -> State:
    y = b.node("ReduceMean", x, b.integers(2, 3), keepdims=0)
    return y, shape[:2]


def dense(b: Builder, x: str, shape: Shape) -> State:
    out = int(b.rng.integers(3, 13))
    if len(shape) == 2 and b.rng.random() < 0.5:
        inputs = [x, b.weight(out, shape[1]), b.weight(out)]
        return b.node("Gemm", *inputs, transB=1), (shape[0], out)
    y = b.node("MatMul", x, b.weight(shape[-1], out))
    return y, (*shape[:-1], out)


def attention(b: Builder, x: str, shape: Shape) -> State:
    heads, width, wide = (int(n) for n in b.rng.integers(2, 4, 3))
    shared = heads if b.rng.random() < 0.6 else 1

    def project(count: int, size: int) -> str:
        flat = b.node("MatMul", x, b.weight(shape[2], count * size))
        flat = b.node("Add", flat, b.weight(count * size))
        r = b.node("Reshape", flat, b.integers(0, 0, count, size))
        return b.node("Transpose", r, perm=[0, 2, 1, 3])

    q, k, v = project(heads, width), project(shared, width), project(shared, wide)
    kt = b.node("Transpose", k, perm=[0, 1, 3, 2])
    p = b.node("Softmax", b.node("MatMul", q, kt), axis=-1)
    o = b.node("Transpose", b.node("MatMul", p, v), perm=[0, 2, 1, 3])
    f = b.node("Reshape", o, b.integers(0, 0, heads * wide))
    y = b.node("MatMul", f, b.weight(heads * wide, shape[2]))
    return b.node("Add", x, y), shape


def recurrent(b: Builder, x: str, shape: Shape) -> State:
    kind, gates = [("LSTM", 4), ("GRU", 3), ("RNN", 1)][int(b.rng.integers(3))]
    size, both = int(b.rng.integers(2, 6)), b.rng.random() < 0.5
    directions = 2 if both else 1
    t = b.node("Transpose", x, perm=[1, 0, 2])
    y = b.node(
        kind,
        t,
        b.weight(directions, gates * size, shape[2]),
        b.weight(directions, gates * size, size),
        b.weight(directions, 2 * gates * size),
        hidden_size=size,
        direction="bidirectional" if both else "forward",
    )
    p = b.node("Transpose", y, perm=[2, 0, 1, 3])
    f = b.node("Reshape", p, b.integers(0, 0, directions * size))
    return f, (shape[0], shape[1], directions * size)


IMAGE_STEPS: tuple[Step, ...] = (
    conv, conv, conv, conv_transpose, batch_norm, activation, channel_constant, residual,
    squeeze_excite, dense_connection, split_gate, split_and_join, slice_channels,
    gather_channels, pad_channels, shuffle, there_and_back, group_norm, depth_to_space, pool,
    resize,
)  # fmt: skip
TOKEN_STEPS: tuple[Step, ...] = (
    dense, dense, activation, channel_constant, residual, dense_connection, split_gate,
    split_and_join, slice_channels, gather_channels, pad_channels, shuffle, there_and_back,
    attention, recurrent,
)  # fmt: skip
DENSE_STEPS: tuple[Step, ...] = (
    dense, dense, activation, channel_constant, residual, dense_connection, split_gate,
    split_and_join, slice_channels, gather_channels, pad_channels, shuffle,
)  # fmt: skip


def generate(seed: int) -> ir.Model:
    """Return the random network of ``seed``: an image or tokens in, a few numbers out."""
    b = Builder(seed, dynamic=seed % 4 != 0)
    kind = str(b.one_of("image", "tokens", "dense"))
    shape: Shape = {"image": (2, 3, 4, 4), "tokens": (2, 4, 6), "dense": (2, 7)}[kind]
    start = shape
    x = "x"
    for _ in range(int(b.rng.integers(4, 9))):
        if len(shape) == 4:
            steps = IMAGE_STEPS
            if b.rng.random() < 0.15:
                steps = (flatten, to_tokens, mean_of_positions)
        else:
            steps = TOKEN_STEPS if len(shape) == 3 else DENSE_STEPS
        x, shape = b.one_of(*steps)(b, x, shape)
    if len(shape) == 4:
        x, shape = b.one_of(flatten, mean_of_positions)(b, x, shape)
    y = b.node("MatMul", x, b.weight(shape[-1], 3))
    return b.model("x", start, y, len(shape))

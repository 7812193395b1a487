"""The patterns of Q and DQ whose fusion onnxruntime decides about, and what it makes of them.

Built small, with float graph inputs. Unless a pattern says otherwise: activations u8 with
scale 0.05 and zero point 128 (s8: 0), weights s8 with scale 0.01 and zero point 0 (u8: 128), a
Q/DQ pair on every input and on the output, 0-d scales of activations, opset 17.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass(frozen=True)
class Act:
    """How an activation is quantized."""

    kind: type[np.generic] = np.uint8
    scale: float = 0.05
    zero: int = 128
    shape: tuple[int, ...] = ()


U8 = Act()
U8_RELU = Act(zero=0)
S8 = Act(np.int8, 0.05, 0)
S8_RELU = Act(np.int8, 0.05, -128)


class Graph:
    """Collects nodes; each method returns the name of what it made."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def input(self, *shape: int | str) -> str:
        name = self._name("x")
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, name: str) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def const(self, array: np.ndarray) -> str:
        name = self._name("c")
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def op(
        self, op_type: str, *inputs: str, outputs: int = 1, **attributes
    ) -> str | list[str]:
        names = [self._name("v") for _ in range(outputs)]
        self._nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def q(self, x: str, act: Act = U8) -> tuple[str, str, str]:
        scale = self.const(np.full(act.shape, act.scale, np.float32))
        zero = self.const(np.full(act.shape, act.zero, act.kind))
        return self.op("QuantizeLinear", x, scale, zero), scale, zero

    def qdq(self, x: str, act: Act = U8) -> str:
        return self.op("DequantizeLinear", *self.q(x, act))

    def weight(
        self,
        *shape: int,
        axis: int | None = 0,
        kind: type[np.generic] = np.int8,
        zeros: Sequence[int] | None = None,
        scale: float = 0.01,
        seed: int = 0,
    ) -> str:
        """Return the DQ of an integer weight; ``axis`` None: one scale for all of it."""
        low = 0 if kind is np.uint8 else -127
        rng = np.random.default_rng(seed)
        integers = self.const(rng.integers(low, low + 254, shape).astype(kind))
        middle = 128 if kind is np.uint8 else 0
        size = () if axis is None else (shape[axis],)
        # Different scales, so that no two weights share theirs.
        scales = np.full(size, scale) * (1 + 0.01 * seed) + 1e-5 * rng.random(size)
        zero = np.full(size, middle, kind) if zeros is None else np.array(zeros, kind)
        inputs = (integers, self.const(scales.astype(np.float32)), self.const(zero))
        return self.op("DequantizeLinear", *inputs, **({} if axis is None else {"axis": axis}))

    def bias(self, size: int, x_scale: float = 0.05, w_scale: float = 0.01) -> str:
        integers = self.const(np.arange(size, dtype=np.int32))
        scales = self.const(np.full(size, x_scale * w_scale, np.float32))
        return self.op("DequantizeLinear", integers, scales, axis=0)

    def conv(
        self, x: str, *, bias: str = "", group: int = 1, weight: str = "", size: int = 3
    ) -> str:
        weight = weight or self.weight(8, 8 // group, size, size)
        inputs = (x, weight, bias) if bias else (x, weight)
        return self.op("Conv", *inputs, group=group, pads=[size // 2] * 4)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, "pattern", self._inputs, self._outputs, self._constants
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)


IMAGE = (1, 8, 8, 8)
TOKENS = (1, 4, 16)


def convolution(
    act: Act = U8,
    out: Act | None = None,
    between: Callable[[Graph, str], str] | None = None,
    *,
    bias: bool = True,
    **weight,
) -> Graph:
    """Q/DQ -> Conv (-> what ``between`` adds) -> Q/DQ."""
    g = Graph()
    group = weight.pop("group", 1)
    w = g.weight(8, 8 // group, 3, 3, **weight)
    x = g.qdq(g.input(*IMAGE), act)
    y = g.conv(x, weight=w, bias=g.bias(8) if bias else "", group=group)
    g.output(g.qdq(between(g, y) if between else y, out or act))
    return g


def clip(g: Graph, x: str, high: float = 6.0) -> str:
    return g.op("Clip", x, g.const(np.float32(0)), g.const(np.float32(high)))


def silu(g: Graph, x: str) -> str:
    return g.op("Mul", x, g.op("Sigmoid", x))


def float_bias() -> Graph:
    g = Graph()
    x = g.qdq(g.input(*IMAGE))
    g.output(g.qdq(g.conv(x, bias=g.const(np.ones(8, np.float32)))))
    return g


def float_weight() -> Graph:
    g = Graph()
    x = g.qdq(g.input(*IMAGE))
    weight = g.const(np.ones((8, 8, 3, 3), np.float32))
    g.output(g.qdq(g.conv(x, weight=weight, bias=g.bias(8))))
    return g


def conv_without_q() -> Graph:
    g = Graph()
    g.output(g.conv(g.qdq(g.input(*IMAGE)), bias=g.bias(8)))
    return g


def conv_with_float_reader() -> Graph:
    g = Graph()
    y = g.conv(g.qdq(g.input(*IMAGE)))
    g.output(g.qdq(y))
    g.output(y)
    return g


def conv_transpose() -> Graph:
    g = Graph()
    x = g.qdq(g.input(*IMAGE))
    g.output(g.qdq(g.op("ConvTranspose", x, g.weight(8, 8, 3, 3))))
    return g


def two_convs() -> Graph:
    g = Graph()
    x = g.qdq(g.input(*IMAGE))
    for seed in (1, 2):
        g.output(g.qdq(g.conv(x, weight=g.weight(8, 8, 3, 3, seed=seed))))
    return g


def residual(*, inner: bool) -> Graph:
    g = Graph()
    x = g.qdq(g.input(*IMAGE))
    y = g.conv(x)
    y = g.qdq(y) if inner else y
    g.output(g.qdq(g.op("Relu", g.op("Add", y, x)), U8_RELU))
    return g


def requantized(op_type: str, out: Act = U8) -> Graph:
    """Conv -> Q/DQ -> operator -> Q/DQ."""
    return convolution(between=lambda g, y: g.op(op_type, g.qdq(y)), out=out, bias=False)


def gated(op_type: str) -> Graph:
    """Conv -> Q/DQ -> {operator -> Q/DQ, Mul} -> Q/DQ."""

    def between(g: Graph, y: str) -> str:
        y = g.qdq(y)
        return g.op("Mul", y, g.qdq(g.op(op_type, y), Act(scale=1 / 255, zero=0)))

    return convolution(between=between, bias=False)


def hard_swish_of_adds() -> Graph:
    """x * clip(x + 3, 0, 6) / 6, the sixth put into the scale of the DQ."""

    def between(g: Graph, y: str) -> str:
        y = g.qdq(y)
        three = g.const(np.array(255, np.uint8))
        scale, zero = g.const(np.float32(3 / 255)), g.const(np.array(0, np.uint8))
        moved = g.op("Add", y, g.op("DequantizeLinear", three, scale, zero))
        q, _, _ = g.q(clip(g, moved), Act(scale=6 / 255, zero=0))
        gate = g.op("DequantizeLinear", q, g.const(np.float32(1 / 255)), zero)
        return g.op("Mul", y, gate)

    return convolution(between=between, bias=False)


def conv_chain() -> Graph:
    g = Graph()
    x = g.qdq(g.input(*IMAGE))
    for seed in range(3):
        y = g.op("Relu", g.conv(x, weight=g.weight(8, 8, 3, 3, seed=seed)))
        x = g.qdq(y, U8_RELU)
    g.output(x)
    return g


def matmul(
    act: Act = U8,
    *,
    axis: int | None = 1,
    q: bool = True,
    bias: str = "",
    shape: tuple[int | str, ...] = TOKENS,
    q_between: bool = False,
) -> Graph:
    g = Graph()
    y = g.op("MatMul", g.qdq(g.input(*shape), act), g.weight(16, 8, axis=axis))
    if q_between:
        y = g.qdq(y, act)
    if bias:
        b = g.bias(8) if bias == "int32" else g.const(np.ones(8, np.float32))
        y = g.op("Add", y, b)
    g.output(g.qdq(y, act) if q else y)
    return g


def product(*, q: bool) -> Graph:
    g = Graph()
    y = g.op("MatMul", g.qdq(g.input(1, 4, 16)), g.qdq(g.input(1, 16, 8)))
    g.output(g.qdq(y) if q else y)
    return g


def gemm(bias: str, *, q: bool, trans: bool = False) -> Graph:
    g = Graph()
    weight = g.weight(8, 16, axis=0) if trans else g.weight(16, 8, axis=1)
    b = g.bias(8) if bias == "int32" else g.const(np.ones(8, np.float32))
    y = g.op("Gemm", g.qdq(g.input(4, 16)), weight, b, transB=int(trans))
    g.output(g.qdq(y) if q else y)
    return g


def dynamic(count: int, *, bias: bool = False, same_scales: bool = False) -> Graph:
    g = Graph()
    x, scale, zero = g.op("DynamicQuantizeLinear", g.input("b", 4, 16), outputs=3)
    for index in range(count):
        rng = np.random.default_rng(index)
        weight = g.const(rng.integers(-127, 128, (16, 8)).astype(np.int8))
        w_scale = np.full(8, 0.01 if same_scales else 0.01 + 0.001 * index, np.float32)
        y = g.op("Cast", g.op("MatMulInteger", x, weight, zero), to=TensorProto.FLOAT)
        y = g.op("Mul", y, g.op("Mul", scale, g.const(w_scale)))
        g.output(g.op("Add", y, g.const(np.ones(8, np.float32))) if bias else y)
    return g


def weight_only(op_type: str, axis: int | None = None) -> Graph:
    g = Graph()
    if op_type == "Conv":
        g.output(g.conv(g.input(*IMAGE)))
    elif op_type == "Gather":
        indices = g.const(np.array([1, 2]))
        weight = g.weight(16, 8, axis=None)
        g.output(g.op("MatMul", g.input(4, 2), g.op("Gather", weight, indices)))
    else:
        shape = (4, 16) if op_type == "Gemm" else TOKENS
        g.output(g.op(op_type, g.input(*shape), g.weight(16, 8, axis=axis)))
    return g


def weight_only_int4() -> Graph:
    g = Graph(opset=21)
    values = np.random.default_rng(0).integers(-8, 8, 64 * 8)
    tensor = helper.make_tensor("w4", TensorProto.INT4, (64, 8), values)
    g._constants.append(tensor)
    scale = g.const(np.full((2, 8), 0.01, np.float32))
    weight = g.op("DequantizeLinear", "w4", scale, axis=0, block_size=32)
    g.output(g.op("MatMul", g.input(1, 4, 64), weight))
    return g


def single(
    op_type: str,
    act: Act = U8,
    out: Act | None = None,
    *,
    inputs: int = 1,
    extra: Sequence[np.ndarray | None] = (),
    opset: int = 17,
    shape: tuple[int, ...] = IMAGE,
    **attributes,
) -> Graph:
    """Q/DQ on each input -> operator -> Q/DQ."""
    g = Graph(opset)
    values = [g.qdq(g.input(*shape), act) for _ in range(inputs)]
    values += ["" if array is None else g.const(array) for array in extra]
    g.output(g.qdq(g.op(op_type, *values, **attributes), out or act))
    return g


_HEAD = "Transpose x2, ms:QLinearConv, "
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])
ONES = np.ones(8, np.float32)

PATTERNS: dict[str, tuple[str, Callable[[], Graph], str]] = {
    # verdict, pattern, nodes of the optimized graph
    "Conv u8s8": ("int8", lambda: convolution(), _HEAD + "Q, DQ"),
    "Conv s8s8": ("int8", lambda: convolution(S8), _HEAD + "Q, DQ"),
    "Conv u8u8 per tensor": (
        "int8",
        lambda: convolution(axis=None, kind=np.uint8),
        _HEAD + "Q, DQ",
    ),
    "Conv depthwise": ("int8", lambda: convolution(group=8), _HEAD + "Q, DQ"),
    "Conv+Relu zp 0": (
        "int8",
        lambda: convolution(out=U8_RELU, between=lambda g, y: g.op("Relu", y)),
        _HEAD + "Q, DQ",
    ),
    "Conv+Relu zp 128": (
        "float",
        lambda: convolution(between=lambda g, y: g.op("Relu", y)),
        "ms:FusedConv, DQ x4, Q x2",
    ),
    "Conv s8s8+Relu zp -128": (
        "int8",
        lambda: convolution(S8, S8_RELU, lambda g, y: g.op("Relu", y)),
        _HEAD + "Q, DQ",
    ),
    "Conv s8s8+Relu zp 0": (
        "float",
        lambda: convolution(S8, S8, lambda g, y: g.op("Relu", y)),
        "ms:FusedConv, DQ x4, Q x2",
    ),
    "Conv+Clip(0,6), range to 12.75": (
        "float",
        lambda: convolution(out=U8_RELU, between=clip),
        "ms:FusedConv, DQ x4, Q x2",
    ),
    "Conv+Clip(0,6), zp 128": (
        "float",
        lambda: convolution(out=Act(scale=6 / 255), between=clip, bias=False),
        "ms:FusedConv, DQ x3, Q x2",
    ),
    "Conv+Clip(0,6), range to 5.99": (
        "int8",
        lambda: convolution(out=Act(scale=5.99 / 255, zero=0), between=clip),
        _HEAD + "Q, DQ",
    ),
    "Conv+Clip(0,6), range to 6": (
        "int8",
        lambda: convolution(out=Act(scale=6 / 255, zero=0), between=clip),
        _HEAD + "Q, DQ",
    ),
    "Conv+LeakyRelu": (
        "float",
        lambda: convolution(between=lambda g, y: g.op("LeakyRelu", y)),
        "ms:FusedConv, DQ x4, Q x2",
    ),
    "Conv+HardSwish": (
        "float",
        lambda: convolution(between=lambda g, y: g.op("HardSwish", y)),
        "Conv, HardSigmoid, Mul, DQ x4, Q x2",
    ),
    "Conv+SiLU": (
        "float",
        lambda: convolution(between=silu),
        "Conv, ms:QuickGelu, DQ x4, Q x2",
    ),
    "Conv without output Q": ("float", conv_without_q, "Conv, DQ x3, Q"),
    "Conv, float bias": ("int8", float_bias, _HEAD + "Q, DQ"),
    "Conv, float weight": ("float", float_weight, "Conv, DQ x3, Q x2"),
    "ConvTranspose": ("float", conv_transpose, "ConvTranspose, DQ x3, Q x2"),
    "2 Conv share a DQ": (
        "int8",
        two_convs,
        "Transpose x3, ms:QLinearConv x2, Q, DQ x2",
    ),
    "residual with inner Q/DQ": (
        "int8",
        lambda: residual(inner=True),
        "Transpose x2, ms:QLinearConv, ms:QLinearAdd, Q, DQ",
    ),
    "residual without": (
        "float",
        lambda: residual(inner=False),
        "Conv, Add, Q x2, DQ x4",
    ),
    "Conv with a float reader": ("float", conv_with_float_reader, "Conv, DQ x3, Q x2"),
    "SiLU, Q/DQ everywhere": (
        "int8",
        lambda: gated("Sigmoid"),
        "Transpose x2, ms:QLinearConv, ms:QLinearSigmoid, ms:QLinearMul, Q, DQ",
    ),
    "Conv->Q/DQ->HardSwish": (
        "mixed",
        lambda: requantized("HardSwish"),
        _HEAD + "HardSigmoid, Mul, Q x2, DQ x2",
    ),
    "HardSigmoid gate, Q/DQ everywhere": (
        "mixed",
        lambda: gated("HardSigmoid"),
        _HEAD + "HardSigmoid, ms:QLinearMul, Q x2, DQ x2",
    ),
    "HardSwish as Add, Clip and Mul": (
        "int8",
        hard_swish_of_adds,
        _HEAD + "ms:QLinearAdd, ms:QLinearMul, Q, DQ",
    ),
    "Conv->Q/DQ->Relu zp 0": (
        "mixed",
        lambda: requantized("Relu", U8_RELU),
        _HEAD + "Q x2, DQ x2",
    ),
    "3 Conv+Relu": ("int8", conv_chain, "Transpose x2, ms:QLinearConv x3, Q, DQ"),
    "Conv, zero points of weights differ": (
        "int8",
        lambda: convolution(zeros=range(8)),
        _HEAD + "Q, DQ",
    ),
    # MatMul and Gemm
    "MatMul per tensor": ("int8", lambda: matmul(axis=None), "QLinearMatMul, Q, DQ"),
    "MatMul per channel": ("int8", lambda: matmul(), "QLinearMatMul, Q, DQ"),
    "MatMul u8s8 without Q": (
        "int8",
        lambda: matmul(q=False),
        "ms:MatMulIntegerToFloat, Q",
    ),
    "MatMul s8s8 without Q": (
        "int8",
        lambda: matmul(S8, q=False),
        "ms:MatMulIntegerToFloat, Q",
    ),
    "MatMul without Q + float bias, static": (
        "float",
        lambda: matmul(q=False, bias="float"),
        "Reshape x2, Gemm, Q, DQ x2",
    ),
    "MatMul + float bias + Q, static": (
        "int8",
        lambda: matmul(bias="float"),
        "Reshape x2, ms:QGemm, Q, DQ",
    ),
    "MatMul of activations + Q": (
        "int8",
        lambda: product(q=True),
        "QLinearMatMul, Q x2, DQ",
    ),
    "MatMul of activations": (
        "int8",
        lambda: product(q=False),
        "ms:MatMulIntegerToFloat, Q x2",
    ),
    "MatMul without Q + float bias, symbolic": (
        "mixed",
        lambda: matmul(q=False, bias="float", shape=("b", "s", 16)),
        "ms:MatMulIntegerToFloat, Add, Q",
    ),
    "MatMul + float bias + Q, symbolic": (
        "mixed",
        lambda: matmul(bias="float", shape=("b", "s", 16)),
        "ms:MatMulIntegerToFloat, Add, Q x2, DQ",
    ),
    "MatMul->Q/DQ->+ float bias": (
        "mixed",
        lambda: matmul(q=False, bias="float", q_between=True),
        "QLinearMatMul, Add, Q, DQ",
    ),
    "MatMul without Q + int32 bias, static": (
        "int8",
        lambda: matmul(q=False, bias="int32"),
        "Reshape x2, ms:QGemm, Q",
    ),
    "MatMul of a matrix without Q + int32 bias": (
        "int8",
        lambda: matmul(q=False, bias="int32", shape=("b", 16)),
        "ms:QGemm, Q",
    ),
    "Gemm int32 bias + Q": ("int8", lambda: gemm("int32", q=True), "ms:QGemm, Q, DQ"),
    "Gemm transB int32 bias + Q": (
        "int8",
        lambda: gemm("int32", q=True, trans=True),
        "ms:QGemm, Q, DQ",
    ),
    "Gemm float bias + Q": ("int8", lambda: gemm("float", q=True), "ms:QGemm, Q, DQ"),
    "Gemm float bias": ("float", lambda: gemm("float", q=False), "Gemm, Q, DQ x2"),
    "Gemm int32 bias": ("int8", lambda: gemm("int32", q=False), "ms:QGemm, Q"),
    # Dynamic quantization
    "dynamic": ("int8", lambda: dynamic(1), "ms:DynamicQuantizeMatMul"),
    "dynamic + bias": (
        "int8",
        lambda: dynamic(1, bias=True),
        "ms:DynamicQuantizeMatMul",
    ),
    "dynamic, 3 on one activation": (
        "int8",
        lambda: dynamic(3),
        "ms:MatMulIntegerToFloat x3, DQL",
    ),
    "dynamic, 3 on one activation, same scales": (
        "unfused",
        lambda: dynamic(3, same_scales=True),
        "Mul x4, MatMulInteger x3, Cast x3, DQL",
    ),
    "dynamic, 3 on one activation + bias": (
        "int8",
        lambda: dynamic(3, bias=True),
        "ms:MatMulIntegerToFloat x3, DQL",
    ),
    # Weight-only
    "weight-only MatMul per channel": (
        "int8",
        lambda: weight_only("MatMul", 1),
        "ms:MatMulNBits",
    ),
    "weight-only MatMul per tensor": (
        "int8",
        lambda: weight_only("MatMul"),
        "ms:MatMulNBits",
    ),
    "weight-only Gemm per channel": (
        "int8",
        lambda: weight_only("Gemm", 1),
        "ms:MatMulNBits",
    ),
    "weight-only Conv": ("float", lambda: weight_only("Conv"), "Conv, DQ"),
    "weight-only int4 in blocks": ("int8", weight_only_int4, "ms:MatMulNBits"),
    # Single operators
    "Add u8": ("int8", lambda: single("Add", inputs=2), "ms:QLinearAdd, Q x2, DQ"),
    "Mul u8": ("int8", lambda: single("Mul", inputs=2), "ms:QLinearMul, Q x2, DQ"),
    "Add s8": ("int8", lambda: single("Add", S8, inputs=2), "ms:QLinearAdd, Q x2, DQ"),
    "Sub": ("float", lambda: single("Sub", inputs=2), "Sub, Q x3, DQ x3"),
    "Div": ("float", lambda: single("Div", inputs=2), "Div, Q x3, DQ x3"),
    "Min": ("float", lambda: single("Min", inputs=2), "Min, Q x3, DQ x3"),
    "Concat": (
        "int8",
        lambda: single("Concat", inputs=2, axis=1),
        "ms:QLinearConcat, Q x2, DQ",
    ),
    "Concat, another output scale": (
        "int8",
        lambda: single("Concat", out=Act(scale=0.1), inputs=2, axis=1),
        "ms:QLinearConcat, Q x2, DQ",
    ),
    "Sigmoid": ("int8", lambda: single("Sigmoid"), "ms:QLinearSigmoid, Q, DQ"),
    "Softmax": ("int8", lambda: single("Softmax"), "ms:QLinearSoftmax, Q, DQ"),
    "LeakyRelu": ("int8", lambda: single("LeakyRelu"), "ms:QLinearLeakyRelu, Q, DQ"),
    "AveragePool": (
        "int8",
        lambda: single("AveragePool", kernel_shape=[2, 2]),
        "ms:QLinearAveragePool, Q, DQ",
    ),
    "GlobalAveragePool": (
        "int8",
        lambda: single("GlobalAveragePool"),
        "ms:QLinearGlobalAveragePool, Q, DQ",
    ),
    "MaxPool": (
        "int8-move",
        lambda: single("MaxPool", kernel_shape=[2, 2]),
        "MaxPool, Q, DQ",
    ),
    "MaxPool, another output scale": (
        "float",
        lambda: single("MaxPool", out=Act(scale=0.1), kernel_shape=[2, 2]),
        "MaxPool, Q x2, DQ x2",
    ),
    "Transpose": (
        "int8-move",
        lambda: single("Transpose", perm=[0, 2, 3, 1]),
        "Transpose, Q, DQ",
    ),
    "Reshape": (
        "int8-move",
        lambda: single("Reshape", extra=[np.array([1, -1])]),
        "Reshape, Q, DQ",
    ),
    "Slice": (
        "int8-move",
        lambda: single("Slice", extra=[np.array([0]), np.array([1]), np.array([1])]),
        "Slice, Q, DQ",
    ),
    "Gather": (
        "int8-move",
        lambda: single("Gather", extra=[np.array([0, 1])], axis=1),
        "Gather, Q, DQ",
    ),
    "ReduceMax": ("int8-move", lambda: single("ReduceMax", axes=[2, 3]), "ReduceMax, Q, DQ"),
    "DepthToSpace": (
        "int8-move",
        lambda: single("DepthToSpace", blocksize=2),
        "DepthToSpace, Q, DQ",
    ),
    "Resize nearest": (
        "int8-move",
        lambda: single(
            "Resize", extra=[None, np.array([1, 1, 2, 2], np.float32)], mode="nearest"
        ),
        "Resize, Q, DQ",
    ),
    "Resize linear": (
        "float",
        lambda: single(
            "Resize", extra=[None, np.array([1, 1, 2, 2], np.float32)], mode="linear"
        ),
        "Resize, Q x2, DQ x2",
    ),
    "SpaceToDepth": (
        "float",
        lambda: single("SpaceToDepth", blocksize=2),
        "SpaceToDepth, Q x2, DQ x2",
    ),
    "Pad": ("float", lambda: single("Pad", extra=[PADS]), "Pad, Q x2, DQ x2"),
    "BatchNormalization": (
        "float",
        lambda: single("BatchNormalization", extra=[ONES] * 4),
        "BatchNormalization, Q x2, DQ x2",
    ),
    "LayerNormalization": (
        "float",
        lambda: single("LayerNormalization", extra=[ONES]),
        "LayerNormalization, Q x2, DQ x2",
    ),
    "Clip, not redundant": (
        "float",
        lambda: single("Clip", extra=[np.float32(-1), np.float32(1)]),
        "Clip, Q x2, DQ x2",
    ),
    "ReduceMean": (
        "float",
        lambda: single("ReduceMean", axes=[2, 3]),
        "ReduceMean, Q x2, DQ x2",
    ),
    "Gelu": ("float", lambda: single("Gelu", opset=20), "Gelu, Q x2, DQ x2"),
    "HardSwish": ("float", lambda: single("HardSwish"), "HardSigmoid, Mul, Q x2, DQ x2"),
    **{
        op_type: ("float", lambda op_type=op_type: single(op_type), f"{op_type}, Q x2, DQ x2")
        for op_type in (
            "Abs", "Elu", "Erf", "Exp", "GlobalMaxPool", "HardSigmoid", "Neg", "Relu",
            "Softplus", "Tanh",
        )
    },
    # Shape [1] of scale and zero point in place of 0-d
    "Conv+Relu zp 0, scales [1]": (
        "int8",
        lambda: convolution(
            Act(shape=(1,)), Act(zero=0, shape=(1,)), lambda g, y: g.op("Relu", y)
        ),
        _HEAD + "Q, DQ",
    ),
    "Conv+Clip(0,6), range to 6, scales [1]": (
        "float",
        lambda: convolution(
            Act(shape=(1,)), Act(scale=6 / 255, zero=0, shape=(1,)), clip
        ),
        "ms:FusedConv, DQ x4, Q x2",
    ),
    **{
        f"{name}, scales [1]": (
            "error",
            lambda op_type=name, count=count, more=more: single(
                op_type, Act(shape=(1,)), inputs=count, **more
            ),
            "must be a scalar",
        )
        for name, count, more in (
            ("Add", 2, {}),
            ("Mul", 2, {}),
            ("AveragePool", 1, {"kernel_shape": [2, 2]}),
        )
    },
}  # fmt: skip

"""Rules of integer operators, and of operators with packed weights."""

from __future__ import annotations

from graphopt.analysis.coupling.dense import couple_channels, gemm_like, matmul_like, windows
from graphopt.analysis.coupling.rules import Axis, Op, rule

__all__: list[str] = []


def _per_channel(op: Op, index: int, axis: Axis) -> None:
    """Couple a scale or zero point: one for all, or one an index of ``axis``."""
    if op.has(index):
        of_scale = op.axes(index)
        if of_scale and of_scale[-1].size != 1:
            op.unify(of_scale[-1], axis)


@rule("ConvInteger")
def conv_integer(op: Op) -> None:
    """As Conv; zero points of the weight are one a channel, perhaps."""
    out = _convolution(op, 0, 1)
    _per_channel(op, 3, out[1])
    op.output(out)


@rule("QLinearConv")
def qlinear_conv(op: Op) -> None:
    """As Conv; scale and zero point of the weight and the bias go with the channels."""
    out = _convolution(op, 0, 3)
    for index in (4, 5, 8):
        _per_channel(op, index, out[1])
    op.output(out)


def _convolution(op: Op, data: int, weight: int) -> list[Axis]:
    x, w = op.axes(data), op.axes(weight)
    if op.attr("channels_last"):
        op.refuse("its channels come last")
    op.kernel(w[2:])
    op.whole(x[2:], "slides over it")
    couple_channels(op, x[1], w[1], w[0], op.attr_int("group", 1), (data, weight))
    op.layer(weight)
    return [x[0], w[0], *windows(op, x[2:], [axis.size for axis in w[2:]])]


@rule("MatMulInteger")
def matmul_integer(op: Op) -> None:
    """As MatMul; a zero point of the weight is one a column, perhaps."""
    out = matmul_like(op, 0, 1)
    _per_channel(op, 3, out[-1])
    op.output(out)


@rule("QLinearMatMul")
def qlinear_matmul(op: Op) -> None:
    """As MatMul; scale and zero point of the weight are one a column, perhaps."""
    out = matmul_like(op, 0, 3)
    for index in (4, 5):
        _per_channel(op, index, out[-1])
    op.output(out)


@rule("com.microsoft::MatMulIntegerToFloat", "com.microsoft::DynamicQuantizeMatMul")
def matmul_to_float(op: Op) -> None:
    """As MatMul; scale, zero point and bias go with the columns."""
    out = matmul_like(op, 0, 1)
    dynamic = op.node.op_type == "DynamicQuantizeMatMul"
    for index in (2, 3, 4) if dynamic else (3, 5, 6):
        _per_channel(op, index, out[-1])
    op.output(out)


@rule("com.microsoft::QGemm")
def qgemm(op: Op) -> None:
    """As Gemm; scale, zero point and bias go with the columns."""
    out = gemm_like(op, 0, 3)
    for index in (4, 5, 6):
        _per_channel(op, index, out[1])
    op.output(out)


@rule("com.microsoft::QLinearAdd", "com.microsoft::QLinearMul")
def qlinear_binary(op: Op) -> None:
    """Element by element; every third input is data."""
    a, b = op.axes(0), op.axes(3)
    rank = max(len(a), len(b))
    if len(a) != len(b) and min(len(a), len(b)):
        op.refuse(f"its inputs have ranks {len(a)} and {len(b)}")
    a, b = (a or b), (b or a)
    op.output([op.broadcast(a[i], b[i]) for i in range(rank)])


@rule(
    "com.microsoft::QLinearLeakyRelu",
    "com.microsoft::QLinearSigmoid",
    "com.microsoft::QGelu",
)
def qlinear_unary(op: Op) -> None:
    """Element by element, with scales for the whole tensor."""
    op.output(op.axes(0))


@rule("com.microsoft::QLinearGlobalAveragePool")
def qlinear_pool(op: Op) -> None:
    """Batch and channels stay."""
    x = op.axes(0)
    if op.attr("channels_last"):
        op.refuse("its channels come last")
    op.whole(x[2:], "pools over it")
    op.output([*x[:2], *(op.frozen(1, "") for _ in x[2:])])


@rule("com.microsoft::MatMulNBits")
def matmul_n_bits(op: Op) -> None:
    """``B [N, blocks, bytes]``, packed: columns may be cut, and inputs in whole blocks."""
    x, b = op.axes(0), op.axes(1)
    columns, inputs = op.attr_int("N", 0), op.attr_int("K", 0)
    block = op.attr_int("block_size", 0)
    if len(b) != 3 or b[0].size != columns or not block or op.has(4):
        op.refuse("its packed weight is not understood")
    op.whole(b[2:], "packs bits there")
    blocks = b[1]
    if inputs % block or x[-1].size != inputs:
        op.whole([x[-1], blocks], "packs a part of a block")
    else:
        of_input, within = op.split(x[-1], [inputs // block, block])
        op.whole([within], "has one scale for a block of it")
        op.unify(of_input, blocks)
        op.count("K", of_input, block)
    for index in (2, 3):
        if op.has(index):
            _packed_scales(op, op.axes(index), b[0], blocks)
    if op.has(5):
        op.unify(op.axes(5)[0], b[0])
    op.count("N", b[0])
    op.layer(1)
    op.cost([*x[:-1], x[-1], b[0]])
    op.output([*x[:-1], b[0]])


def _packed_scales(op: Op, scales: tuple[Axis, ...], columns: Axis, blocks: Axis) -> None:
    """Couple scales ``[N, blocks]``, flat or not; zero points may pack several blocks."""
    if len(scales) == 2:
        op.unify(scales[0], columns)
        if scales[1].size == blocks.size:
            op.unify(scales[1], blocks)
        else:
            op.whole([scales[1], blocks], "packs several blocks in a byte")
    elif columns.size and scales[0].size == columns.size * (blocks.size or 1):
        op.unify(scales[0], op.merge([columns, blocks]))
    elif columns.size and scales[0].size is not None and scales[0].size % columns.size == 0:
        of_columns, packed = op.split(
            scales[0], [columns.size, scales[0].size // columns.size]
        )
        op.unify(of_columns, columns)
        op.whole([packed, blocks], "packs several blocks in a byte")
    else:
        op.refuse("its scales are not understood")

"""Rules of what multiplies and sums: Conv, ConvTranspose, Gemm, MatMul, Einsum.

``W.k`` below is axis ``k`` of the weight, ``X`` the input, ``Y`` the output, ``B`` the bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.analysis.coupling.rules import ONE, Axis, Op, rule

__all__: list[str] = []


def _volume(axes: list[Axis] | tuple[Axis, ...]) -> int:
    """Return the product of the lengths; an unknown one counts as 1."""
    return math.prod(axis.size or 1 for axis in axes)


@rule("Conv", "com.microsoft::FusedConv")
def conv(op: Op) -> None:
    """``W [M, C/group, kernel...]``: X.1 = group x W.1, Y.1 = W.0 = B.0; the rest slides.

    One group: X.1 = W.1. As many groups as channels: a channel in is one, or a few, out.
    Otherwise both channel axes are ``[group, width]``: a whole group goes, or the same
    channel of every group.
    """
    x, w = op.axes(0), op.axes(1)
    if len(x) < 3 or len(x) != len(w):
        op.refuse(f"its input has rank {len(x)} and its weight {len(w)}")
    op.kernel(w[2:])
    op.whole(x[2:], "slides over it")
    couple_channels(op, x[1], w[1], w[0], op.attr_int("group", 1), (0, 1))
    spatial = windows(op, x[2:], [axis.size for axis in w[2:]])
    if op.has(2):
        op.unify(op.axes(2)[0], w[0])
    out = [x[0], w[0], *spatial]
    if op.has(3):
        # FusedConv adds a tensor before its activation.
        out = [op.broadcast(a, b) for a, b in zip(out, op.axes(3), strict=True)]
    op.layer(1)
    op.cost([x[0], w[0], w[1]], _volume(w[2:]) * _volume(spatial))
    op.output(out)


@rule("DeformConv")
def deform_conv(op: Op) -> None:
    """As Conv; the offsets and the mask say where to look and are needed whole."""
    x, w, offset = op.axes(0), op.axes(1), op.axes(2)
    op.kernel(w[2:])
    op.whole(x[2:], "slides over it")
    op.whole(offset[1:], "looks at these places")
    if op.attr_int("offset_group", 1) != 1:
        op.whole(x[1:2], "has offsets for parts of it")
    couple_channels(op, x[1], w[1], w[0], op.attr_int("group", 1), (0, 1))
    if op.has(3):
        op.unify(op.axes(3)[0], w[0])
    if op.has(4):
        op.whole(op.axes(4)[1:], "weighs these places")
    op.layer(1)
    op.output([x[0], w[0], *windows(op, x[2:], [axis.size for axis in w[2:]])])


def couple_channels(
    op: Op, x: Axis, inner: Axis, outer: Axis, group: int, operands: tuple[int, int]
) -> None:
    """Couple the channels of a (possibly grouped) convolution.

    Args:
        op: The convolution; its attribute ``group`` is kept right.
        x: Input channels, ``group * inner`` of them.
        inner: The weight's axis of input channels within a group.
        outer: The weight's axis of all output channels.
        group: Number of groups.
        operands: Indices of the input and of the weight.
    """
    if x.size is None or outer.size is None or inner.size is None:
        op.refuse("the number of its channels is not known")
    if x.size != group * inner.size or outer.size % group:
        op.refuse(f"{x.size} channels in {group} groups do not fit its weight")
    if group == 1:
        op.contract((operands[0], x), (operands[1], inner))
        return
    blocks_in, within_in = op.split(x, [group, inner.size])
    blocks_out, _ = op.split(outer, [group, outer.size // group])
    op.unify(blocks_in, blocks_out)
    op.unify(within_in, inner)
    op.coupling.contractions.append((op.node, ((operands[0], x), (operands[1], inner))))
    op.count("group", blocks_in)


def windows(op: Op, x: Sequence[Axis], kernel: Sequence[int | None]) -> list[Axis]:
    """Return the axes of the positions that a window of ``kernel`` takes on ``x``."""
    rank, dims = len(x), op.dims()
    strides = op.attr("strides", [1] * rank)
    dilations = op.attr("dilations", [1] * rank)
    pads = op.attr("pads", [0] * (2 * rank))
    mode = str(op.attr("auto_pad", "NOTSET"))
    axes: list[Axis] = []
    for i, (axis, size) in enumerate(zip(x, kernel, strict=True)):
        found = dims[2 + i] if dims is not None else None
        if not isinstance(found, int) and axis.size is not None and size is not None:
            if mode.startswith("SAME"):
                found = -(-axis.size // strides[i])
            elif not op.attr("ceil_mode"):
                both = pads[i] + pads[i + rank] if mode == "NOTSET" else 0
                span = axis.size + both - dilations[i] * (size - 1) - 1
                found = span // strides[i] + 1
        axes.append(op.frozen(found, "slides over it"))
    return axes


@rule("ConvTranspose")
def conv_transpose(op: Op) -> None:
    """``W [C, M/group, kernel...]``: X.1 = W.0, Y.1 = group x W.1 = B.0; the rest slides."""
    x, w, group = op.axes(0), op.axes(1), op.attr_int("group", 1)
    if len(x) < 3 or len(x) != len(w):
        op.refuse(f"its input has rank {len(x)} and its weight {len(w)}")
    kernel = op.kernel(w[2:])
    op.whole(x[2:], "slides over it")
    if w[0].size is None or w[1].size is None or w[0].size % group:
        op.refuse("its weight does not fit the number of groups")
    op.contract((0, x[1]), (1, w[0]))
    if group == 1:
        out = w[1]
    else:
        blocks, _ = op.split(w[0], [group, w[0].size // group])
        op.mixes(w[0])
        out = op.merge([blocks, w[1]])
        op.count("group", blocks)
    dims = op.dims()
    spatial = [
        op.frozen(dims[i] if dims is not None else None, "slides over it")
        for i in range(2, len(x))
    ]
    if op.has(2):
        op.unify(op.axes(2)[0], out)
    op.layer(1)
    op.cost([x[0], w[0], w[1]], _volume(kernel) * _volume(x[2:]))
    op.output([x[0], out, *spatial])


@rule("Gemm", "com.microsoft::FusedGemm")
def gemm(op: Op) -> None:
    """``A [M, K]``, ``B [K, N]`` (each perhaps transposed), ``C`` broadcast to ``[M, N]``."""
    m, n = gemm_like(op, 0, 1)
    if op.has(2):
        for axis, out in zip(reversed(op.axes(2)), (n, m), strict=False):
            op.broadcast(axis, out)
    op.output([m, n])


def gemm_like(op: Op, left: int, right: int) -> list[Axis]:
    """Couple two matrices as Gemm does; return the axes of the product."""
    a, b = op.axes(left), op.axes(right)
    if len(a) != 2 or len(b) != 2:
        op.refuse(f"its operands have ranks {len(a)} and {len(b)}")
    m, k = reversed(a) if op.attr("transA") else a
    inner, n = reversed(b) if op.attr("transB") else b
    op.contract((left, k), (right, inner))
    op.layer(left)
    op.layer(right)
    op.cost([m, k, n])
    return [m, n]


@rule("MatMul", "com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul")
def matmul(op: Op) -> None:
    """``[..., M, K] x [..., K, N] -> [..., M, N]``; the leading axes broadcast."""
    op.output(matmul_like(op, 0, 1))


def matmul_like(op: Op, left: int, right: int) -> list[Axis]:
    """Couple two stacks of matrices as MatMul does; return the axes of the product."""
    a, b = op.axes(left), op.axes(right)
    if not a or not b:
        op.refuse("an operand is a scalar")
    if op.attr("transBatchA") or op.attr("transBatchB"):
        op.refuse("it moves axes of the batch")
    if op.node.op_type.startswith(("Fused", "Transpose")):
        a = (*a[:-2], *reversed(a[-2:])) if op.attr("transA") and len(a) > 1 else a
        b = (*b[:-2], *reversed(b[-2:])) if op.attr("transB") and len(b) > 1 else b
    inner = b[0] if len(b) == 1 else b[-2]
    op.contract((left, a[-1]), (right, inner))
    batch = align(op, a[:-2], b[:-2])
    m = [] if len(a) == 1 else [a[-2]]
    n = [] if len(b) == 1 else [b[-1]]
    op.layer(left)
    op.layer(right)
    op.cost([*batch, *m, a[-1], *n])
    return [*batch, *m, *n]


def align(op: Op, a: tuple[Axis, ...], b: tuple[Axis, ...]) -> list[Axis]:
    """Broadcast two lists of axes against each other, aligned at the end."""
    rank = max(len(a), len(b))
    a = (ONE,) * (rank - len(a)) + tuple(a)
    b = (ONE,) * (rank - len(b)) + tuple(b)
    return [op.broadcast(one, other) for one, other in zip(a, b, strict=True)]


@rule("Einsum")
def einsum(op: Op) -> None:
    """Equal letters are the same axis; a letter that is not in the result is summed."""
    equation = str(op.attr("equation", "")).replace(" ", "")
    if "." in equation:
        op.refuse("an ellipsis in the equation is not followed")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(op.node.inputs):
        op.refuse(f"{equation!r} does not fit its {len(op.node.inputs)} inputs")
    if not arrow:
        letters = "".join(terms)
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    found: dict[str, Axis] = {}
    used: dict[str, list[tuple[int, Axis]]] = {}
    for index, term in enumerate(terms):
        axes = op.axes(index)
        if len(axes) != len(term):
            op.refuse(f"{term!r} does not fit an input of rank {len(axes)}")
        for letter, axis in zip(term, axes, strict=True):
            used.setdefault(letter, []).append((index, axis))
            found[letter] = op.broadcast(found[letter], axis) if letter in found else axis
    for letter in found:
        if letter not in right:
            op.contract(*used[letter])
    for index in range(len(terms)):
        op.layer(index)
    op.cost(found.values())
    op.output([found[letter] for letter in right])

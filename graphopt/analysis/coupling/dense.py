"""Rules of what multiplies and sums: Conv, ConvTranspose, Gemm, MatMul, Einsum.

``W.k`` below is axis ``k`` of the weight, ``X`` the input, ``Y`` the output, ``B`` the bias.
"""

from __future__ import annotations

import math

from graphopt.analysis.coupling.rules import ONE, Axis, Op, rule

__all__: list[str] = []


def _volume(axes: list[Axis] | tuple[Axis, ...]) -> int:
    """Return the product of the lengths; an unknown one counts as 1."""
    return math.prod(axis.size or 1 for axis in axes)


@rule("Conv")
def conv(op: Op) -> None:
    """``W [M, C/group, kernel...]``: X.1 = group x W.1, Y.1 = W.0 = B.0; the rest slides.

    One group: X.1 = W.1. As many groups as channels: a channel in is one, or a few, out.
    Otherwise both channel axes are ``[group, width]``: a whole group goes, or the same
    channel of every group.
    """
    x, w, group = op.axes(0), op.axes(1), op.attr_int("group", 1)
    if len(x) < 3 or len(x) != len(w):
        op.refuse(f"its input has rank {len(x)} and its weight {len(w)}")
    kernel = op.kernel(w[2:])
    op.whole(x[2:], "slides over it")
    couple_channels(op, x[1], w[1], w[0], group)
    dims = op.dims()
    spatial = [
        op.frozen(dims[i] if dims is not None else None, "slides over it")
        for i in range(2, len(x))
    ]
    if op.has(2):
        op.unify(op.axes(2)[0], w[0])
    op.layer(1)
    op.cost([x[0], w[0], w[1]], _volume(kernel) * _volume(spatial))
    op.output([x[0], w[0], *spatial])


def couple_channels(op: Op, x: Axis, inner: Axis, outer: Axis, group: int) -> None:
    """Couple the channels of a (possibly grouped) convolution.

    Args:
        op: The convolution; its attribute ``group`` is kept right.
        x: Input channels, ``group * inner`` of them.
        inner: The weight's axis of input channels within a group.
        outer: The weight's axis of all output channels.
        group: Number of groups.
    """
    if x.size is None or outer.size is None or inner.size is None:
        op.refuse("the number of its channels is not known")
    if x.size != group * inner.size or outer.size % group:
        op.refuse(f"{x.size} channels in {group} groups do not fit its weight")
    if group == 1:
        op.contract((0, x), (1, inner))
        return
    blocks_in, within_in = op.split(x, [group, inner.size])
    blocks_out, _ = op.split(outer, [group, outer.size // group])
    op.unify(blocks_in, blocks_out)
    op.unify(within_in, inner)
    op.coupling.contractions.append((op.node, ((0, x), (1, inner))))
    op.count("group", blocks_in)


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


@rule("Gemm")
def gemm(op: Op) -> None:
    """``A [M, K]``, ``B [K, N]`` (each perhaps transposed), ``C`` broadcast to ``[M, N]``."""
    a, b = op.axes(0), op.axes(1)
    if len(a) != 2 or len(b) != 2:
        op.refuse(f"its operands have ranks {len(a)} and {len(b)}")
    m, k = reversed(a) if op.attr("transA") else a
    inner, n = reversed(b) if op.attr("transB") else b
    op.contract((0, k), (1, inner))
    if op.has(2):
        c = op.axes(2)
        for axis, out in zip(reversed(c), (n, m), strict=False):
            op.broadcast(axis, out)
    op.layer(0)
    op.layer(1)
    op.cost([m, k, n])
    op.output([m, n])


@rule("MatMul")
def matmul(op: Op) -> None:
    """``[..., M, K] x [..., K, N] -> [..., M, N]``; the leading axes broadcast."""
    a, b = op.axes(0), op.axes(1)
    if not a or not b:
        op.refuse("an operand is a scalar")
    inner = b[0] if len(b) == 1 else b[-2]
    op.contract((0, a[-1]), (1, inner))
    batch = align(op, a[:-2], b[:-2])
    m = [] if len(a) == 1 else [a[-2]]
    n = [] if len(b) == 1 else [b[-1]]
    op.layer(0)
    op.layer(1)
    op.cost([*batch, *m, a[-1], *n])
    op.output([*batch, *m, *n])


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

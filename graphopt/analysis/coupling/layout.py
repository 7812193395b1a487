"""Rules of operators that move axes around without touching the elements."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from graphopt.analysis.coupling.cut import Cut
from graphopt.analysis.coupling.rules import ONE, Axis, Op, rule

__all__ = ["regroup"]

Target = "int | _Unknown"


class _Unknown:
    """A length of the result that depends on the input."""

    def __init__(self, symbol: Hashable = None) -> None:
        self.symbol = symbol


@rule("Transpose")
def transpose(op: Op) -> None:
    """The axes are permuted."""
    x = op.axes(0)
    order = op.attr("perm", list(reversed(range(len(x)))))
    op.output([x[int(axis)] for axis in order])


@rule("Unsqueeze")
def unsqueeze(op: Op) -> None:
    """Axes of length 1 come in."""
    x = op.axes(0)
    axes: Sequence[int] = op.integers(1) if op.has(1) else op.attr("axes", [])
    rank = len(x) + len(axes)
    new = {op.axis(int(axis), rank) for axis in axes}
    rest = iter(x)
    op.output([ONE if index in new else next(rest) for index in range(rank)])


@rule("Squeeze")
def squeeze(op: Op) -> None:
    """Axes of length 1 go."""
    x = op.axes(0)
    axes: Sequence[int] | None = op.integers(1) if op.has(1) else op.attr("axes")
    if axes is None:
        if any(axis.size is None for axis in x):
            op.refuse("which axes have length 1 is not known")
        axes = [index for index, axis in enumerate(x) if axis.size == 1]
    gone = {op.axis(int(axis), len(x)) for axis in axes}
    op.output([axis for index, axis in enumerate(x) if index not in gone])


@rule("Flatten")
def flatten(op: Op) -> None:
    """The axes before ``axis`` become one, and those from it on."""
    x = op.axes(0)
    axis = op.attr_int("axis", 1)
    first = axis if axis >= 0 else axis + len(x)
    out = []
    for part in (x[:first], x[first:]):
        unknown = [one for one in part if one.size is None]
        if not unknown:
            out.append(op.merge(part))
        elif len(unknown) == 1 and math.prod(one.size or 1 for one in part) == 1:
            out.append(unknown[0])
        else:
            op.whole(part, "merges it with an axis of unknown length")
            out.append(Axis(symbol=object()))
    op.output(out)


@rule("Reshape")
def reshape(op: Op) -> None:
    """Neighbouring axes are merged and divided; see ``regroup``."""
    x = op.axes(0)
    allow_zero = bool(op.attr_int("allowzero", 0))
    out = regroup(op, x, _target(op, x, allow_zero))
    op.output(out)
    numbers = op.numbers(1)
    op.coupling.shape_inputs.add((op.node, 1))

    def defers(cut: Cut, position: int, value: int) -> bool:
        if (
            value == 0
            and not allow_zero
            and position < len(x)
            and x[position].size is not None
        ):
            return cut.length(x[position]) == cut.length(out[position])
        return value == -1

    read = [axis for axis in (*out, *x) if axis.rows is not None]
    if numbers is not None:
        read += [axis for number in numbers.reshape(-1) for axis in number.axes]
    op.fix(read, lambda cut: cut.set_lengths(1, out, 0, defers))


def _target(op: Op, x: Sequence[Axis], allow_zero: bool) -> list[int | _Unknown]:
    """Return the lengths of the result, as far as anything says."""
    numbers, dims = op.numbers(1), op.dims()
    if numbers is None:
        if dims is None:
            op.refuse("its target is not known")
        return [dim if isinstance(dim, int) else _Unknown(dim) for dim in dims]
    target: list[int | _Unknown] = []
    wild = None
    for index, number in enumerate(numbers.reshape(-1)):
        value = number.value
        inferred = dims[index] if dims is not None and index < len(dims) else None
        if value is None and isinstance(inferred, int):
            target.append(inferred)
        elif value is None:
            target.append(_Unknown(number.symbol if number.symbol is not None else inferred))
        elif value == 0 and not allow_zero:
            size = x[index].size
            target.append(_Unknown(x[index].symbol) if size is None else size)
        elif value == -1:
            wild = index
            target.append(inferred if isinstance(inferred, int) else _Unknown())
        else:
            target.append(int(value))
    if wild is not None and isinstance(target[wild], _Unknown):
        target[wild] = _wild(x, [t for i, t in enumerate(target) if i != wild])
    return target


def _wild(x: Sequence[Axis], others: Sequence[int | _Unknown]) -> int | _Unknown:
    """Return what -1 stands for: the quotient of what is known and matched."""
    unknown = [axis.symbol for axis in x if axis.size is None]
    for other in others:
        if isinstance(other, _Unknown):
            if other.symbol is None or other.symbol not in unknown:
                return _Unknown()
            unknown.remove(other.symbol)
    total = math.prod(axis.size for axis in x if axis.size is not None)
    known = math.prod(other for other in others if not isinstance(other, _Unknown))
    if not unknown and known and total % known == 0:
        return total // known
    if len(unknown) == 1 and total == known:
        return _Unknown(unknown[0])
    return _Unknown()


def regroup(op: Op, x: Sequence[Axis], target: Sequence[int | _Unknown]) -> list[Axis]:
    """Return the axes of ``x`` regrouped to the lengths of ``target``.

    Blocks of neighbours with the same product are found from the left and from the right;
    each is merged and divided again. What is left in between, around unknown lengths that
    nothing matches, is needed whole.
    """
    out: list[Axis | None] = [None] * len(target)
    left = _match(op, x, target, out, range(len(x)), range(len(target)))
    right = _match(
        op,
        x,
        target,
        out,
        range(len(x) - 1, left[0] - 1, -1),
        range(len(target) - 1, left[1] - 1, -1),
    )
    op.whole(x[left[0] : right[0] + 1], "regroups it with an axis of unknown length")
    for index in range(left[1], right[1] + 1):
        if out[index] is None:
            dim = target[index]
            if isinstance(dim, _Unknown):
                out[index] = Axis(symbol=dim.symbol if dim.symbol is not None else object())
            else:
                out[index] = op.frozen(dim, "regroups it with an axis of unknown length")
    return [axis if axis is not None else ONE for axis in out]


def _match(
    op: Op,
    x: Sequence[Axis],
    target: Sequence[int | _Unknown],
    out: list[Axis | None],
    source: range,
    result: range,
) -> tuple[int, int]:
    """Match blocks in one direction; return the positions where that ended."""
    i = j = 0
    while i < len(source) and j < len(result):
        axis, dim = x[source[i]], target[result[j]]
        if axis.size is None or isinstance(dim, _Unknown):
            same = (
                axis.size is None
                and isinstance(dim, _Unknown)
                and dim.symbol is not None
                and dim.symbol == axis.symbol
            )
            if axis.size == 1:
                i += 1
                continue
            if dim == 1:
                out[result[j]] = ONE
                j += 1
                continue
            if not same:
                break
            out[result[j]] = axis
            i, j = i + 1, j + 1
            continue
        block = _block(x, target, source, result, i, j)
        if block is None:
            break
        stop_i, stop_j = block
        merged = op.merge(
            [x[source[k]] for k in sorted(range(i, stop_i), key=source.__getitem__)]
        )
        places = sorted(result[k] for k in range(j, stop_j))
        sizes = [target[place] for place in places]
        parts = op.split(merged, sizes)  # type: ignore[arg-type]  # all are known
        for place, part in zip(places, parts, strict=True):
            out[place] = part
        i, j = stop_i, stop_j
    return (
        source[i] if i < len(source) else source.start + i * source.step,
        result[j] if j < len(result) else result.start + j * result.step,
    )


def _block(
    x: Sequence[Axis],
    target: Sequence[int | _Unknown],
    source: range,
    result: range,
    i: int,
    j: int,
) -> tuple[int, int] | None:
    """Return where the smallest block of equal products that starts here ends."""
    a = b = 1
    first = True
    while first or a != b:
        if first or a < b:
            size = x[source[i]].size if i < len(source) else None
            if size is None or size == 0:
                return None
            a, i = a * size, i + 1
        if first or b < a:
            dim = target[result[j]] if j < len(result) else None
            if dim is None or isinstance(dim, _Unknown) or dim == 0:
                return None
            b, j = b * dim, j + 1
        first = False
    return i, j


@rule("DepthToSpace")
def depth_to_space(op: Op) -> None:
    """Channels are ``[b, b, c]`` (DCR) or ``[c, b, b]`` (CRD); ``c`` may be cut."""
    x, block = op.axes(0), op.attr_int("blocksize", 1)
    if x[1].size is None or x[1].size % (block * block):
        op.refuse("its channels do not divide into blocks")
    width = x[1].size // (block * block)
    if op.attr("mode", "DCR") in ("CRD", b"CRD"):
        channels, *blocks = op.split(x[1], [width, block, block])
    else:
        *blocks, channels = op.split(x[1], [block, block, width])
    op.whole([*blocks, *x[2:]], "turns it into positions")
    dims = op.dims()
    out = [op.frozen(dims[i] if dims is not None else None, "makes positions") for i in (2, 3)]
    op.output([x[0], channels, *out])


@rule("SpaceToDepth")
def space_to_depth(op: Op) -> None:
    """Channels become ``[b, b, c]``."""
    x, block = op.axes(0), op.attr_int("blocksize", 1)
    if x[1].size is None:
        op.refuse("the number of its channels is not known")
    op.whole(x[2:], "turns it into channels")
    blocks = [op.frozen(block, "makes channels of positions") for _ in range(2)]
    dims = op.dims()
    out = [op.frozen(dims[i] if dims is not None else None, "moves it") for i in (2, 3)]
    op.output([x[0], op.merge([*blocks, x[1]]), *out])

"""Rules of operators that repeat elements."""

from __future__ import annotations

from graphopt.analysis.coupling.cut import Cut
from graphopt.analysis.coupling.rules import ONE, Axis, Op, rule

__all__ = ["expand", "tile"]


@rule("Expand")
def expand(op: Op) -> None:
    """Axes of the input stay; an axis of length 1 becomes a new one."""
    x, numbers, dims = op.axes(0), op.numbers(1), op.dims()
    if numbers is None and dims is None:
        op.refuse("the new shape is not known")
    wanted = list(dims or ()) if numbers is None else [n.value for n in numbers.reshape(-1)]
    rank = max(len(x), len(wanted))
    x = (ONE,) * (rank - len(x)) + tuple(x)
    skip = rank - len(wanted)
    out: list[Axis] = list(x[:skip])
    for index, dim in enumerate(wanted):
        axis = x[skip + index]
        if axis.size != 1:
            out.append(axis)
        elif isinstance(dim, int) and dim >= 0:
            out.append(op.fresh(dim) if dim else op.frozen(0, "is empty"))
        else:
            symbol = numbers.reshape(-1)[index].symbol if numbers is not None else dim
            out.append(Axis(symbol=symbol if symbol is not None else object()))
    op.output(out)
    inputs = x[skip:]

    def defers(cut: Cut, position: int, value: int) -> bool:
        return value in (1, -1) and cut.length(inputs[position]) == cut.length(
            out[skip + position]
        )

    op.coupling.shape_inputs.add((op.node, 1))
    read = [axis for axis in out if axis.rows is not None]
    if numbers is not None:
        read += [axis for number in numbers.reshape(-1) for axis in number.axes]
    op.fix(read, lambda cut: cut.set_lengths(1, out[skip:], 0, defers))


@rule("Tile")
def tile(op: Op) -> None:
    """A repeated axis is ``[times, axis]``; the repetitions are needed whole."""
    x, dims = op.axes(0), op.dims()
    numbers = op.numbers(1)
    times = [None] * len(x) if numbers is None else [n.value for n in numbers.reshape(-1)]
    out: list[Axis] = []
    for index, (axis, count) in enumerate(zip(x, times, strict=True)):
        if count == 1:
            out.append(axis)
        elif count is None or axis.size is None:
            op.whole([axis], "repeats it")
            dim = dims[index] if dims is not None else None
            out.append(op.frozen(dim, "repeats it"))
        else:
            out.append(op.merge([op.frozen(int(count), "repeats it"), axis]))
    op.output(out)

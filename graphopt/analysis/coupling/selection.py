"""Rules of operators that put axes end to end or take parts of them."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.coupling.cut import Cut
from graphopt.analysis.coupling.rules import ONE, Axis, Op, rule

__all__: list[str] = []


@rule("Concat")
def concat(op: Op) -> None:
    """Along the axis the inputs lie end to end; the other axes are the same."""
    inputs = [op.axes(index) for index in range(len(op.node.inputs))]
    axis = op.axis(op.attr_int("axis", 1), len(inputs[0]))
    out = list(inputs[0])
    for other in inputs[1:]:
        for index, of_other in enumerate(other):
            if index != axis:
                out[index] = _same(op, out[index], of_other)
    parts = [axes[axis] for axes in inputs if axes[axis].size != 0]
    if all(part.size is not None for part in parts):
        out[axis] = op.concatenate(parts) if parts else inputs[0][axis]
    else:
        op.whole(parts, "puts it beside an axis of unknown length")
        dims = op.dims()
        out[axis] = op.frozen(dims[axis] if dims is not None else None, "is concatenated")
    op.output(out)


def _same(op: Op, a: Axis, b: Axis) -> Axis:
    op.unify(a, b)
    return b if a.rows is None else a


@rule("Split")
def split(op: Op) -> None:
    """The outputs are pieces of the axis; the sizes are kept right."""
    x = op.axes(0)
    axis = op.axis(op.attr_int("axis", 0), len(x))
    size, count = x[axis].size, len(op.node.outputs)
    given = op.has(1) or op.attr("split") is not None
    if size is None:
        for index in range(count):
            dims = op.dims(index)
            dim = dims[axis] if dims is not None else None
            op.output([*x[:axis], op.frozen(dim, "divides it"), *x[axis + 1 :]], index)
        return
    if op.has(1):
        sizes = op.integers(1)
    elif given:
        sizes = [int(part) for part in op.attr("split")]
    else:
        part = -(-size // count)
        sizes = [min(part, size - part * index) for index in range(count)]
    if sum(sizes) != size or len(sizes) != count:
        op.refuse(f"its parts {sizes} do not make up {size}")
    ends = np.cumsum(sizes).tolist()
    parts = [
        op.part(x[axis], slice(end - length, end))
        for end, length in zip(ends, sizes, strict=True)
    ]
    for index, piece in enumerate(parts):
        op.output([*x[:axis], piece, *x[axis + 1 :]], index)

    def set_sizes(cut: Cut) -> None:
        lengths = [cut.length(piece) for piece in parts]
        if op.opset < 13:
            cut.set_attribute("split", lengths)
            return
        if op.opset >= 18:
            cut.set_attribute("num_outputs", None)
        cut.set_vector(1, lengths, np.dtype(np.int64))

    if op.has(1):
        op.coupling.shape_inputs.add((op.node, 1))
    op.fix(parts, set_sizes)


@rule("Slice")
def slice_(op: Op) -> None:
    """A contiguous part of an axis is a part of its indices; the bounds are kept right."""
    x, dims = op.axes(0), op.dims()
    bounds = _bounds(op, len(x))
    out = list(x)
    for axis, (start, end, step, position) in bounds.items():
        size = x[axis].size
        if size is None or start is None or end is None or step is None:
            op.whole([x[axis]], "takes a part of it that is not fixed")
            out[axis] = op.frozen(dims[axis] if dims is not None else None, "takes a part")
            continue
        where = np.arange(size)[_python_slice(start, end, step)]
        if size == 1:
            out[axis] = ONE if len(where) == 1 else op.frozen(0, "takes nothing")
        elif len(where) == size and step == 1:
            # Everything: the bounds may stay unless they come to be too small.
            _keep_bounds(op, x[axis], position, 0, size)
        elif step == 1 and len(where):
            out[axis] = op.part(x[axis], where)
            _keep_bounds(op, x[axis], position, int(where[0]), int(where[-1]) + 1)
        else:
            op.whole([x[axis]], f"takes every {step}th of it")
            out[axis] = op.frozen(len(where), f"takes every {step}th")
    op.output(out)


def _python_slice(start: int, end: int, step: int) -> slice:
    if step < 0 and end < -(1 << 31):
        return slice(start, None, step)
    return slice(start, end, step)


def _bounds(op: Op, rank: int) -> dict[int, tuple[int | None, int | None, int | None, int]]:
    """Return axis -> (start, end, step, position in the inputs); ``None``: not known."""
    if op.opset < 10:
        starts, ends = list(op.attr("starts", [])), list(op.attr("ends", []))
        axes = list(op.attr("axes", range(len(starts))))
        steps: list[int | None] = [1] * len(starts)
    else:
        first = op.axes(1)[0].size
        if first is None:
            op.refuse("its bounds are not known")
        starts, ends = _known(op, 1, first), _known(op, 2, first)
        axes = op.integers(3) if op.has(3) else list(range(first))
        steps = _known(op, 4, first) if op.has(4) else [1] * first
        op.coupling.shape_inputs.update(((op.node, 1), (op.node, 2)))
    return {
        op.axis(int(axis), rank): (start, end, step, position)
        for position, (axis, start, end, step) in enumerate(
            zip(axes, starts, ends, steps, strict=True)
        )
    }


def _known(op: Op, index: int, size: int) -> list[int | None]:
    numbers = op.numbers(index)
    if numbers is None:
        return [None] * size
    return [None if n.value is None else int(n.value) for n in numbers.reshape(-1)]


def _keep_bounds(op: Op, axis: Axis, position: int, start: int, end: int) -> None:
    """Let the bounds of a slice follow the indices between them."""

    def set_bounds(cut: Cut) -> None:
        alive = cut.alive(axis)
        new = (int(alive[:start].sum()), int(alive[:end].sum()))
        length = int(alive.sum())
        for index, bound in enumerate(new, 1):
            cut.set_bound(index, position, bound, length, "starts" if index == 1 else "ends")

    read = [axis]
    for index in (1, 2):
        numbers = op.numbers(index) if op.opset >= 10 else None
        if numbers is not None:
            read += list(numbers.reshape(-1)[position].axes)
    op.fix(read, set_bounds)


@rule("Gather")
def gather(op: Op) -> None:
    """Constant indices pick rows of the axis; others need it whole. The rest stays."""
    x, index = op.axes(0), op.node.inputs[1]
    axis = op.axis(op.attr_int("axis", 0), len(x))
    assert index is not None
    constant = op.is_constant(1)
    rows = x[axis].rows
    if not constant or rows is None:
        op.whole([x[axis]], "looks up positions in it")
        op.output([*x[:axis], *op.axes(1), *x[axis + 1 :]])
        return
    tensor = op.coupling.constant(index)
    where = np.asarray(tensor, np.int64)
    if where.ndim != 1 or x[axis].size == 1:
        op.whole([x[axis]], "takes fixed positions of it")
        shape = [op.frozen(int(dim), "takes fixed positions") for dim in where.shape]
        op.output([*x[:axis], *shape, *x[axis + 1 :]])
        return
    taken = op.part(x[axis], where)
    op.output([*x[:axis], taken, *x[axis + 1 :]])
    size = len(rows)

    def remap(cut: Cut) -> None:
        alive = cut.alive(x[axis])
        new = np.cumsum(alive) - 1
        cut.set_vector(1, new[where % size][alive[where % size]].tolist(), where.dtype)

    op.coupling.shape_inputs.add((op.node, 1))
    op.fix([x[axis]], remap)


@rule("GatherElements", "ScatterElements", "Scatter")
def gather_elements(op: Op) -> None:
    """Indices have the shape of the data: every axis is needed whole."""
    for index in range(len(op.node.inputs)):
        op.whole(op.axes(index), "addresses single elements")
    dims = op.dims()
    if dims is None:
        op.refuse("the shape of its output is not known")
    op.output([op.frozen(dim, "addresses single elements") for dim in dims])


@rule("GatherND", "ScatterND")
def gather_nd(op: Op) -> None:
    """The axes that the last axis of the indices addresses are needed whole."""
    x, indices = op.axes(0), op.axes(1)
    depth, batch = indices[-1].size, op.attr_int("batch_dims", 0)
    if depth is None or batch:
        op.refuse("which axes it addresses is not known")
    op.whole([*x[:depth], *indices], "looks up positions")
    if op.node.op_type == "GatherND":
        op.output([*indices[:-1], *x[depth:]])
        return
    updates = op.axes(2)
    for a, b in zip(reversed(x[depth:]), reversed(updates), strict=False):
        op.unify(a, b)
    op.whole(updates[: len(updates) - len(x[depth:])], "looks up positions")
    op.output(x)


@rule("Pad")
def pad(op: Op) -> None:
    """New positions at the ends of an axis stay; what was there may be cut."""
    x = op.axes(0)
    if op.has(3):
        axes = [op.axis(axis, len(x)) for axis in op.integers(3)]
    else:
        axes = list(range(len(x)))
    pads = op.integers(1) if op.has(1) else [int(p) for p in op.attr("pads", [])]
    if len(pads) != 2 * len(axes):
        op.refuse(f"its pads {pads} do not fit {len(axes)} axes")
    mode = op.attr("mode", "constant")
    out = list(x)
    for index, axis in enumerate(axes):
        before, after = pads[index], pads[index + len(axes)]
        if not before and not after:
            continue
        size = x[axis].size
        if size is None or before < 0 or after < 0 or mode not in ("constant", b"constant"):
            op.whole([x[axis]], "pads it")
            dims = op.dims()
            out[axis] = op.frozen(dims[axis] if dims is not None else None, "pads it")
            continue
        parts = [op.frozen(before, "pads it"), x[axis], op.frozen(after, "pads it")]
        out[axis] = op.concatenate([part for part in parts if part.size])
    op.output(out)


@rule("Compress", "Unique", "ReverseSequence")
def by_position(op: Op) -> None:
    """Positions decide; everything is needed whole."""
    op.refuse("it works by position")

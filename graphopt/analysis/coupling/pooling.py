"""Rules of what looks at positions within a channel: pooling, resizing; and of reductions."""

from __future__ import annotations

from graphopt.analysis.coupling.dense import windows
from graphopt.analysis.coupling.rules import ONE, Axis, Op, rule

__all__: list[str] = []


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(op: Op) -> None:
    """Batch and channels stay, positions are needed whole."""
    x = op.axes(0)
    op.whole(x[2:], "pools over it")
    if op.node.op_type.startswith("Global"):
        positions = [ONE for _ in x[2:]]
    else:
        positions = windows(op, x[2:], op.attr("kernel_shape"))
    op.output([*x[:2], *positions])
    if len(op.node.outputs) > 1:
        # The indices of MaxPool count through all channels.
        op.whole(x[:2], "returns positions in the whole tensor")
        op.output([*x[:2], *positions], 1)


@rule("GridSample", "com.microsoft::GridSample")
def grid_sample(op: Op) -> None:
    """Batch and channels stay."""
    x, grid = op.axes(0), op.axes(1)
    op.whole([*x[2:], *grid[1:]], "samples positions")
    op.broadcast(x[0], grid[0])
    op.output([x[0], x[1], *grid[1:-1]])


@rule("Resize", "Upsample")
def resize(op: Op) -> None:
    """Axes that keep their length stay; the others are needed whole."""
    x, dims = op.axes(0), op.dims()
    if dims is None or op.attr("axes") is not None:
        op.refuse("the new shape is not known")
    if (
        op.node.op_type == "Resize"
        and op.has(1)
        and op.opset > 10
        and (
            op.attr("coordinate_transformation_mode") == b"tf_crop_and_resize"
            or op.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        )
    ):
        op.refuse("it crops")
    out: list[Axis] = []
    for axis, dim in zip(x, dims, strict=True):
        if not out or (len(out) == 1 and axis.size is not None and axis.size == dim):
            out.append(axis)
        else:
            op.whole([axis], "interpolates along it")
            out.append(op.frozen(dim, "interpolates along it"))
    op.output(out)
    if op.has(3):
        op.shape_input(3, out)


# fmt: off
REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)
# fmt: on


@rule(*REDUCTIONS)
def reduce(op: Op) -> None:
    """Axes that are not reduced stay; a sum may lose terms, a statistic may not unasked."""
    x = op.axes(0)
    axes = reduced_axes(op, len(x))
    kept = bool(op.attr_int("keepdims", 1))
    out: list[Axis] = []
    for index, axis in enumerate(x):
        if index not in axes:
            out.append(axis)
            continue
        if op.node.op_type in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
            op.contract((0, axis))
        elif op.node.op_type == "ReduceProd":
            op.whole([axis], "multiplies over it")
        else:
            op.statistics(axis, "takes statistics over it")
        if kept:
            out.append(ONE)
    op.output(out)


def reduced_axes(op: Op, rank: int) -> set[int]:
    """Return the axes that a reduction reduces, from its attribute or its second input."""
    axes = op.integers(1) if op.has(1) else op.attr("axes")
    if not axes:
        return set() if op.attr("noop_with_empty_axes") else set(range(rank))
    return {op.axis(int(axis), rank) for axis in axes}


@rule("ArgMax", "ArgMin")
def arg_reduce(op: Op) -> None:
    """The index found is along an axis that must stay whole."""
    x = op.axes(0)
    axis = op.axis(op.attr_int("axis", 0), len(x))
    op.whole([x[axis]], "returns positions along it")
    kept = [ONE] if op.attr_int("keepdims", 1) else []
    op.output([*x[:axis], *kept, *x[axis + 1 :]])


@rule("TopK")
def top_k(op: Op) -> None:
    """The axis that is sorted must stay whole."""
    x, dims = op.axes(0), op.dims()
    axis = op.axis(op.attr_int("axis", -1), len(x))
    op.whole([x[axis]], "sorts along it")
    out = list(x)
    out[axis] = op.frozen(dims[axis] if dims is not None else None, "sorts along it")
    op.output(out)
    op.output(out, 1)


@rule("CumSum")
def cumulative_sum(op: Op) -> None:
    """The axis that is summed along must stay whole."""
    x = op.axes(0)
    (axis,) = op.integers(1)
    op.whole([x[op.axis(axis, len(x))]], "sums along it")
    op.output(x)

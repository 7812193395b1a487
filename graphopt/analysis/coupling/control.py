"""Rules at the edges: shapes that become values, and nodes that hold subgraphs."""

from __future__ import annotations

from graphopt.analysis.coupling.rules import Axis, Op, rule

__all__: list[str] = []


@rule("Shape", "Size")
def shape(op: Op) -> None:
    """Lengths become values, which are followed by themselves (see ``numbers``)."""
    op.ignore(0)
    dims = op.dims() or ()
    op.output([op.frozen(dim, "is a shape") for dim in dims])


@rule("ConstantOfShape")
def constant_of_shape(op: Op) -> None:
    """Every axis is new and as long as its input says."""
    numbers, dims = op.numbers(0), op.dims()
    if numbers is None and dims is None:
        op.refuse("the shape is not known")
    known = [None] * len(dims or ()) if numbers is None else [n.value for n in numbers]
    axes: list[Axis] = []
    for index, value in enumerate(known):
        symbol = numbers[index].symbol if numbers is not None else None
        if value is not None:
            axes.append(op.fresh(int(value)) if value else op.frozen(0, "is empty"))
        else:
            axes.append(Axis(symbol=symbol if symbol is not None else object()))
    op.shape_input(0, axes)
    op.output(axes)


@rule(
    "Range",
    "NonZero",
    "OneHot",
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "NonMaxSuppression",
)
def created(op: Op) -> None:
    """What they make depends on values; every axis is needed whole."""
    for index, value in enumerate(op.node.inputs):
        if value is not None:
            op.whole(op.axes(index), "makes positions from it")
    for index in range(len(op.node.outputs)):
        dims = op.dims(index)
        if dims is None:
            op.refuse("the rank of its output is not known")
        op.output([op.frozen(dim, "makes positions") for dim in dims], index)


@rule("If")
def if_(op: Op) -> None:
    """What both branches return is the same, index by index."""
    branches = [op.attr("then_branch"), op.attr("else_branch")]
    for index in range(len(op.node.outputs)):
        results = [op.coupling.axes.get(graph.outputs[index]) for graph in branches]
        a, b = results
        if a is None or b is None or len(a) != len(b):
            for axes in results:
                op.whole(axes or (), "returns it from one branch")
            continue
        op.output([_either(op, one, other) for one, other in zip(a, b, strict=True)], index)


def _either(op: Op, a: Axis, b: Axis) -> Axis:
    if a.size == b.size and a.size is not None:
        op.unify(a, b)
        return a
    op.whole([a, b], "returns other lengths from its branches")
    return Axis(symbol=object())


@rule("Loop", "Scan", "SequenceMap")
def loop(op: Op) -> None:
    """What goes round or is taken in slices is needed whole."""
    op.refuse("nothing is cut across the border of a subgraph")

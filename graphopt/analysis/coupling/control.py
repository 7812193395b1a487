"""Rules at the edges: shapes that become values, and nodes that hold subgraphs."""

from __future__ import annotations

from graphopt.analysis.coupling.rules import Axis, Op, rule

__all__: list[str] = []


@rule("Shape", "Size")
def shape(op: Op) -> None:
    """Lengths become values, which are followed by themselves (see ``numbers``)."""
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


@rule("If", "Loop", "Scan", "SequenceMap")
def subgraph(op: Op) -> None:
    """Nothing is cut across the border of a subgraph; inside it is analysed by itself."""
    op.refuse("nothing is cut across the border of a subgraph")

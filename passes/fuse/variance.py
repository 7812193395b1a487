"""The mean square under a root: the first half of a normalization."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.analysis.symbolic import Shape
from graphopt.rewrite import Reason

from .formulas import number

__all__ = ["Variance", "find_variance", "kept_axes", "operand", "producer"]


def operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the other operand of ``node``; ``value`` itself where it is both."""
    a, b = node.inputs
    return b if a is value else a


@dataclasses.dataclass(frozen=True)
class Variance:
    """What is under the root: the mean square of ``deviation``, plus epsilon.

    Attributes:
        x: What is normalized: ``deviation``, or what it is without its mean.
        deviation: What is squared.
        mean: The mean of x, if it was subtracted.
        sizes: Sizes of the reduced axes.
        epsilon: What is added.
        square: The node that squares.
        value: The root, or its inverse.
        inverse: Whether ``value`` is 1 / sqrt(...).
        nodes: All of it.
    """

    x: ir.Value
    deviation: ir.Value
    mean: ir.Value | None
    sizes: tuple[int, ...]
    epsilon: float
    square: ir.Node
    value: ir.Value
    inverse: bool
    nodes: tuple[ir.Node, ...]


def find_variance(root: ir.Node, facts: Facts) -> Variance | Reason | None:
    """Return the mean square plus epsilon that ``root`` takes the root of, if it does."""
    exponent = 0.5 if root.op_type == "Sqrt" else number(root.inputs[1])
    add = producer(root.inputs[0], "Add")
    if add is None or exponent not in (0.5, -0.5):
        return None
    for mean_square, constant in (add.inputs, add.inputs[::-1]):
        reduce, epsilon = producer(mean_square, "ReduceMean"), number(constant)
        square = producer(reduce.inputs[0], "Mul", "Pow") if reduce is not None else None
        deviation = _squared(square) if square is not None else None
        if reduce is None or epsilon is None or square is None or deviation is None:
            continue
        sizes = _sizes(reduce, deviation, facts)
        if isinstance(sizes, Reason):
            return sizes
        if epsilon < 0:
            return Reason("epsilon is negative")
        x, mean, centering = _centered(deviation, sizes, facts)
        nodes = (*centering, square, reduce, add, root)
        value, inverse = root.outputs[0], exponent < 0
        return Variance(x, deviation, mean, sizes, epsilon, square, value, inverse, nodes)
    return None


def _squared(node: ir.Node) -> ir.Value | None:
    a, b = node.inputs
    same = a is b if node.op_type == "Mul" else number(b) == 2.0
    return a if same else None


def kept_axes(reduce: ir.Node, shape: Shape | None) -> list[int] | None:
    """Return the axes that ``reduce`` reduces an input of ``shape`` along, and keeps.

    Returns:
        Sorted, from 0; ``None`` where they are not known, or not kept.
    """
    given = reduce.inputs[1] if len(reduce.inputs) > 1 else None
    tensor = tensor_of(given)
    if given is None:
        listed = attribute(reduce, "axes", [])
    else:
        listed = [] if tensor is None else tensor.numpy().tolist()
    if not shape or not listed or not attribute(reduce, "keepdims", 1):
        return None
    return sorted({axis % len(shape) for axis in listed})


def _sizes(reduce: ir.Node, value: ir.Value, facts: Facts) -> tuple[int, ...] | Reason:
    """Return the sizes of the axes that ``reduce`` takes the mean over: the last ones."""
    shape = facts.shape(value)
    axes = kept_axes(reduce, shape)
    if shape is None or axes is None:
        return Reason("the axes of its mean are not known, or not kept")
    if axes != list(range(len(shape) - len(axes), len(shape))):
        return Reason("its axes are not the last ones")
    sizes = tuple(size for size in shape[axes[0] :] if isinstance(size, int))
    if len(sizes) != len(axes):
        return Reason("the sizes of its axes are not known")
    return sizes


def _centered(
    value: ir.Value, sizes: tuple[int, ...], facts: Facts
) -> tuple[ir.Value, ir.Value | None, tuple[ir.Node, ...]]:
    """Return what ``value`` is without its mean, the mean, and the nodes; or it itself."""
    sub = producer(value, "Sub")
    mean = producer(sub.inputs[1], "ReduceMean") if sub is not None else None
    x = sub.inputs[0] if sub is not None else None
    if sub is None or mean is None or x is None or mean.inputs[0] is not x:
        return value, None, ()
    if _sizes(mean, x, facts) != sizes:
        return value, None, ()
    return x, mean.outputs[0], (mean, sub)

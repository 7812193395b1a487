"""What the rules of the operators have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.symbolic.expressions import Dim, Expr, broadcast

__all__ = [
    "ContentRule",
    "Known",
    "Shape",
    "ShapeRule",
    "axis_of",
    "broadcast_shapes",
    "input_of",
    "integers",
    "size_of",
]

Shape: TypeAlias = tuple[Dim, ...]


class Known(Protocol):
    """What a rule may ask; ``Symbols`` answers."""

    opset: int

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return a shape."""
        ...

    def content(self, value: ir.Value | None) -> np.ndarray | None:
        """Return the elements of a small integer tensor."""
        ...

    def nonnegative(self, dim: Dim) -> bool:
        """Whether ``dim`` is known to be at least 0."""
        ...

    def unknown(self, *, nonnegative: bool = True) -> Expr:
        """Return an expression of which nothing is known."""
        ...


ShapeRule: TypeAlias = "Callable[[ir.Node, Known], Sequence[Shape | None]]"
"""Returns the shapes of the first outputs; ``None`` where not even the rank is known."""

ContentRule: TypeAlias = "Callable[[ir.Node, Known], np.ndarray | None]"
"""Returns the elements of the first output, an object array; ``None`` where not known."""


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input; ``None`` where it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else None


def integers(
    node: ir.Node, known: Known, name: str, index: int, default: tuple[int, ...] | None = None
) -> tuple[int, ...] | None:
    """Return integers that are an attribute in old operator sets and an input in new ones.

    Returns:
        Them; ``default`` where neither is given; ``None`` where they are not constant.
    """
    if name in node.attributes:
        found = attribute(node, name)
        return tuple(found) if isinstance(found, Sequence) else None
    if input_of(node, index) is None:
        return default
    content = known.content(node.inputs[index])
    if content is None or not all(isinstance(item, int) for item in content.flat):
        return None
    return tuple(int(item) for item in content.flat)


def axis_of(node: ir.Node, rank: int, default: int = 0) -> int:
    """Return the attribute ``axis``, counted from the front."""
    axis = attribute(node, "axis", default)
    assert isinstance(axis, int)
    return axis + rank if axis < 0 else axis


def size_of(dim: Dim, known: Known) -> Dim:
    """Return ``dim`` as a size: where it could be negative, it is taken for unknown."""
    return dim if known.nonnegative(dim) else known.unknown()


def broadcast_shapes(*shapes: Shape | None) -> Shape | None:
    """Return the shape that ``shapes`` are broadcast to; ``None`` where one is unknown."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    rank = max((len(shape) for shape in known), default=0)
    result: list[Dim] = [1] * rank
    for shape in known:
        for index, dim in enumerate(shape, rank - len(shape)):
            result[index] = broadcast(result[index], dim)
    return tuple(result)

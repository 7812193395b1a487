"""Where the axes of an attention lie in a tensor, and lay before a change of layout.

A view says of each dimension of a tensor which axes it runs over, outer ones first. Queries
``[batch * 12, length, 64]`` that were made from ``[batch, length, 768]``::

    [(batch*heads), (row), (width)]     Reshape from [batch, 12, length, 64]
    [(batch), (heads), (row), (width)]  Transpose from [batch, length, 12, 64]
    [(batch), (row), (heads), (width)]  Reshape from [batch, length, 768]
    [(batch), (row), (heads, width)]

So an operator in front of a view gives the view of its input, and what spelling led there
does not matter. An axis of size 1 is nowhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from graphopt.analysis.symbolic.expressions import Dim, divide, product

__all__ = ["Axis", "View", "axes_of", "permuted", "regrouped"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of an attention, or a part of one that was split.

    Attributes:
        role: ``"lead"``: batch and heads; ``"row"``: queries; ``"column"``: keys; ``"width"``;
            ``"part"``: of a tensor that holds several, of which one is taken.
        size: Its length.
        order: Place among the axes of its role; the parts of a split axis come in its place.
        index: Which one is taken, of a ``"part"``.
    """

    role: str
    size: Dim
    order: tuple[int, ...] = ()
    index: int = 0

    def split(self, outer: Dim, inner: Dim) -> tuple[Axis, Axis]:
        """Return the two axes that this one runs over."""
        return (
            dataclasses.replace(self, size=outer, order=(*self.order, 0)),
            dataclasses.replace(self, size=inner, order=(*self.order, 1)),
        )


View: TypeAlias = "tuple[tuple[Axis, ...], ...]"


def axes_of(view: Iterable[Sequence[Axis]]) -> list[Axis]:
    """Return the axes of ``view`` in the order of the elements in memory."""
    return [axis for group in view for axis in group if axis.size != 1]


def permuted(view: View, perm: Sequence[int]) -> View:
    """Return the view of the input of a ``Transpose`` whose output has ``view``."""
    groups: list[tuple[Axis, ...]] = [()] * len(view)
    for group, source in zip(view, perm, strict=True):
        groups[source] = group
    return tuple(groups)


def regrouped(view: View, sizes: Sequence[Dim]) -> View | None:
    """Return the view of the same elements in dimensions of ``sizes``; axes may be split.

    Returns:
        ``None`` where the axes do not fall into such dimensions, or it is not known.
    """
    waiting = axes_of(view)
    groups: list[tuple[Axis, ...]] = []
    for size in sizes:
        group: list[Axis] = []
        while (have := product(axis.size for axis in group)) != size:
            missing = divide(size, have)
            if not waiting or missing is None:
                return None
            axis = waiting.pop(0)
            if missing != axis.size and divide(missing, axis.size) is None:
                rest = divide(axis.size, missing)
                if rest is None:
                    return None
                axis, inner = axis.split(missing, rest)
                waiting.insert(0, inner)
            group.append(axis)
        groups.append(tuple(group))
    return None if waiting else tuple(groups)

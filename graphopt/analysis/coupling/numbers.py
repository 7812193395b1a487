"""Integers that a graph computes from its own shapes, followed element by element.

A raw export is full of ``Shape -> Gather -> Mul -> Concat -> Reshape``. Small tensors are
followed as arrays of ``Number``: an element knows its value where that is fixed, the axes
whose lengths it was computed from, and how to compute itself again when these change. So the
analysis knows every target of a ``Reshape``, and compaction knows which of them still come out
right by themselves once axes have become shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from graphopt.analysis.coupling.rules import Axis

__all__ = ["Number", "Numbers", "Scalar", "call", "constants", "evaluate"]

Scalar: TypeAlias = "int | float | bool | None"


class Number:
    """One element of a followed tensor.

    Attributes:
        value: Its value in the model as it is; ``None`` where that depends on the input.
        symbol: Which unknown it is: two numbers with the same symbol are equal.
        axes: The axes of fixed length whose lengths it was computed from.
    """

    __slots__ = ("_args", "_axis", "_function", "axes", "symbol", "value")

    def __init__(
        self,
        value: Scalar,
        symbol: Hashable = None,
        axis: Axis | None = None,
        function: Callable[..., Scalar] | None = None,
        args: tuple[Number, ...] = (),
    ) -> None:
        self.value = value
        self.symbol = symbol
        self._axis = axis
        self._function = function
        self._args = args
        self.axes: frozenset[Axis] = frozenset() if axis is None else frozenset((axis,))
        for arg in args:
            self.axes |= arg.axes

    @classmethod
    def of_axis(cls, axis: Axis, may_change: bool) -> Number:
        """Return the length of ``axis``."""
        if axis.size is None:
            return cls(None, symbol=axis.symbol)
        return cls(axis.size, axis=axis if may_change else None)

    def computed_with(self, length: Callable[[Axis], int]) -> Scalar:
        """Return its value when the axes have the lengths that ``length`` says."""
        if not self.axes:
            return self.value
        if self._axis is not None:
            return length(self._axis)
        assert self._function is not None, "what depends on an axis is computed somehow"
        return call(self._function, [arg.computed_with(length) for arg in self._args])


Numbers: TypeAlias = np.ndarray
"""An object array of ``Number``, of the shape of the tensor."""


def call(function: Callable[..., Scalar], args: Sequence[Scalar]) -> Scalar:
    """Return what ``function`` makes of ``args``; ``None`` where that is not known."""
    if any(arg is None for arg in args):
        return None
    try:
        return function(*args)
    except (ArithmeticError, ValueError):
        return None


def constants(data: np.ndarray) -> Numbers:
    """Return the numbers of a constant tensor."""
    result = np.empty(data.shape, object)
    flat = result.reshape(-1)
    flat[:] = [Number(item) for item in data.reshape(-1).tolist()]
    return result


def evaluate(numbers: Numbers) -> list[Scalar]:
    """Return the values of the elements, flat."""
    return [number.value for number in numbers.reshape(-1)]

"""Shapes as constants that operators take."""

from __future__ import annotations

from graphopt.analysis.symbolic.base import Shape
from graphopt.analysis.symbolic.expressions import is_positive

__all__ = ["reshape_target"]


def reshape_target(source: Shape, result: Shape) -> list[int] | None:
    """Return a constant target that reshapes ``source`` to ``result``; ``None``: none does.

    A symbolic size is copied with 0 where the source has it at the same place; one other may
    be left to -1, which is what remains of the elements. Beside -1, onnxruntime refuses a
    copied size that turns out to be 0, so there it has to be one that only an empty input
    makes 0. The number 0 cannot be stated: it means a copy.
    """
    target: list[int] = []
    safe = True
    for index, dim in enumerate(result):
        if isinstance(dim, int):
            target.append(dim or -2)
        elif index < len(source) and source[index] == dim:
            target.append(0)
            safe = safe and is_positive(dim)
        else:
            target.append(-1)
    if -2 in target or target.count(-1) > 1 or (-1 in target and not safe):
        return None
    return target

"""Symbolic sizes as numbers, for tests."""

import math

from graphopt.analysis.symbolic import Dim

_FUNCTIONS = {
    "floor": math.floor,
    "min": min,
    "max": max,
    "bc": lambda a, b: b if a == 1 else a,
}


def value_of(dim: Dim, **sizes: int) -> int:
    """Return what ``dim`` is when the atoms have these values; their names are Python."""
    return int(eval(str(dim), {**_FUNCTIONS, **sizes}))

"""All families of operators; importing this module registers their rules."""

from graphopt.analysis.coupling import (
    control,
    dense,
    elementwise,
    layout,
    normalization,
    pooling,
    selection,
)

__all__ = [
    "control",
    "dense",
    "elementwise",
    "layout",
    "normalization",
    "pooling",
    "selection",
]

"""All families of operators; importing this module registers their rules."""

from graphopt.analysis.coupling import (
    attention,
    control,
    dense,
    elementwise,
    expansion,
    layout,
    normalization,
    pooling,
    quantized,
    recurrent,
    selection,
    sequences,
)

__all__ = [
    "attention",
    "control",
    "dense",
    "elementwise",
    "expansion",
    "layout",
    "normalization",
    "pooling",
    "quantized",
    "recurrent",
    "selection",
    "sequences",
]

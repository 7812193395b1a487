"""Compares two models on samples, in onnxruntime: the proof of a rewrite.

``graphopt.validate`` is the function for people; it and the optimizer call ``compare``.
"""

from graphopt.metrics import Difference, Tolerance
from graphopt.validation.accepted import AcceptedSamples, accepted
from graphopt.validation.comparing import compare
from graphopt.validation.comparison import (
    Comparison,
    LevelComparison,
    OutputComparison,
    judge,
)
from graphopt.validation.precision import tolerance_of

__all__ = [
    "AcceptedSamples",
    "Comparison",
    "Difference",
    "LevelComparison",
    "OutputComparison",
    "Tolerance",
    "accepted",
    "compare",
    "judge",
    "tolerance_of",
]

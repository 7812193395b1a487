"""The verdict of the validation, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.passbase import Promise

if TYPE_CHECKING:
    from graphopt.api import Result

__all__ = ["verdict_of"]


def verdict_of(result: Result) -> tuple[str, str]:
    """Return ``good``, ``bad`` or ``open`` (nothing was asked for), and why in words."""
    comparison = result.comparison
    if not comparison.passed:
        return "bad", "does not validate"
    if comparison.promise is Promise.EXACT:
        return "good", "the same answers, bit for bit"
    if comparison.promise is Promise.CLOSE:
        if all(output.difference.equal == 1 for output in comparison.outputs):
            return "good", "the same answers, bit for bit"
        return "good", "the same answers, up to the order of operations"
    if comparison.target is None:
        return "open", "not judged, since no target was given: it loads, runs and is finite"
    return "good", f"keeps its target: {comparison.metric} of at least {comparison.target:g}"

"""Which operators a pass may quantize: by pattern, and all of them or the safer half."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias, TypeVar

import onnx_ir as ir

from graphopt.errors import PipelineError, nearest

__all__ = ["Scope", "Selection", "label", "least_sensitive_half"]

Scope: TypeAlias = Literal["full", "half"]

_T = TypeVar("_T")


def label(node: ir.Node) -> str:
    """Return what a node is called in plans: its name, else that of its first output."""
    return node.name or (node.outputs[0].name if node.outputs else "") or ""


class Selection:
    """Patterns of operators.

    A pattern is an operator type (``MatMul``), or a glob for the name of a node or of one of
    its outputs (``*layer.3*``). An operator is selected if any pattern of ``include`` fits it,
    or there is none, and no pattern of ``exclude`` fits.

    Args:
        include: Patterns; empty for everything.
        exclude: Patterns.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self.include = tuple(include)
        self.exclude = tuple(exclude)

    def refusal(self, node: ir.Node) -> str:
        """Return why ``node`` is not selected; empty if it is."""
        for pattern in self.exclude:
            if _fits(node, pattern):
                return f"excluded by {pattern!r}"
        if self.include and not any(_fits(node, pattern) for pattern in self.include):
            return "not among the operators to include"
        return ""

    def check(self, nodes: Iterable[ir.Node]) -> None:
        """Check that each pattern fits one of ``nodes`` at least.

        Raises:
            PipelineError: One fits none: it is misspelt, or the node was renamed.
        """
        seen = list(nodes) if self.include or self.exclude else []
        for pattern in (*self.include, *self.exclude):
            if not any(_fits(node, pattern) for node in seen):
                known = {label(node) for node in seen} | {node.op_type for node in seen}
                raise PipelineError(
                    "pattern",
                    f"no operator of the model has a type or name like {pattern!r}.",
                    hint=nearest(pattern, sorted(known)[:2000]) if known else "",
                )


def _fits(node: ir.Node, pattern: str) -> bool:
    if pattern == node.op_type or fnmatch.fnmatchcase(node.name or "", pattern):
        return True
    return any(fnmatch.fnmatchcase(value.name or "", pattern) for value in node.outputs)


def least_sensitive_half(
    operators: Sequence[_T], noise: Callable[[_T], float]
) -> tuple[list[tuple[_T, float]], list[tuple[_T, float]]]:
    """Split ``operators`` into the half with the least noise, and the rest.

    Args:
        operators: In graph order.
        noise: Measure of the harm done by quantizing one, >= 0.

    Returns:
        ``ceil(n / 2)`` operators and the others, each with its noise and in graph order; of
        two with the same noise the earlier one is in the first half.
    """
    measured = [(operator, noise(operator)) for operator in operators]
    order = sorted(range(len(measured)), key=lambda index: (measured[index][1], index))
    middle = (len(order) + 1) // 2
    return (
        [measured[index] for index in sorted(order[:middle])],
        [measured[index] for index in sorted(order[middle:])],
    )

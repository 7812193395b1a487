"""Sizes of results that are known before anything is computed.

A node of a few bytes can unfold to terabytes. What is refused here costs nothing; what is not
known here is held by the memory limit and the timeout of the child process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["result_elements"]

_ELEMENTWISE = frozenset(
    {
        "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal",
        "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul",
        "Or", "Pow", "Sub", "Sum", "Where", "Xor",
    }
)  # fmt: skip


def result_elements(node: ir.Node, inputs: Sequence[np.ndarray | None]) -> int | None:
    """Return how many elements the first output of ``node`` has; ``None`` if not known.

    Args:
        node: The node.
        inputs: Its inputs.
    """
    rule = _RULES.get(node.op_type)
    if node.domain or rule is None or any(value is None for value in inputs):
        return None
    try:
        return int(rule(*inputs))
    except (TypeError, ValueError, IndexError, OverflowError):
        return None  # the inputs are invalid; onnxruntime says why


def _integers(array: np.ndarray) -> list[int]:
    # Of Python, which do not overflow.
    return [int(value) for value in array.ravel().tolist()]


def _broadcast(*shapes: Sequence[int]) -> int:
    rank = max(map(len, shapes))
    return math.prod(
        max(shape[axis] for shape in shapes if len(shape) >= -axis) for axis in range(-rank, 0)
    )


def _matmul(a: np.ndarray, b: np.ndarray) -> int:
    rows = a.shape[-2] if a.ndim > 1 else 1
    columns = b.shape[-1] if b.ndim > 1 else 1
    return rows * columns * _broadcast(a.shape[:-2], b.shape[:-2], (1,))


def _range(start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> int:
    step = delta.item()
    return max(0, math.ceil((limit.item() - start.item()) / step)) if step else 0


def _tile(data: np.ndarray, repeats: np.ndarray) -> int:
    return data.size * math.prod(_integers(repeats))


def _pad(data: np.ndarray, pads: np.ndarray, *more: np.ndarray) -> int:
    axes = _integers(more[1]) if len(more) > 1 else list(range(data.ndim))
    sizes, widths = list(data.shape), _integers(pads)
    for at, axis in enumerate(axes):
        sizes[axis] += widths[at] + widths[at + len(axes)]
    return math.prod(sizes)


_RULES: dict[str, Callable[..., Any]] = {
    "ConstantOfShape": lambda shape: math.prod(_integers(shape)),
    "Expand": lambda data, shape: _broadcast(data.shape, _integers(shape)),
    "MatMul": _matmul,
    "OneHot": lambda indices, depth, values: indices.size * max(_integers(depth)),
    "Pad": _pad,
    "Range": _range,
    "Tile": _tile,
    **dict.fromkeys(_ELEMENTWISE, lambda *inputs: _broadcast(*(i.shape for i in inputs))),
}

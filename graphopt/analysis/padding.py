"""What a ``Pad`` adds, whatever the version that spells it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts

__all__ = ["WIDTHS_ARE_INPUTS", "pad_value", "pad_widths"]

WIDTHS_ARE_INPUTS = 11


def pad_widths(pad: ir.Node, facts: Facts, rank: int) -> list[int] | None:
    """Return the widths of all axes, in front of each, then behind each.

    Returns:
        2 * ``rank`` integers; ``None`` where they are not constant, or an axis does not exist.
    """
    if facts.opset < WIDTHS_ARE_INPUTS:
        found = attribute(pad, "pads")
        return None if found is None or len(found) != 2 * rank else list(found)
    given = facts.content(pad.inputs[1])
    axes_input = pad.inputs[3] if len(pad.inputs) > 3 else None
    listed = facts.content(axes_input)
    if given is None or (axes_input is not None and listed is None):
        return None
    widths = given.tolist()
    given_axes = list(range(rank)) if listed is None else listed.tolist()
    if not all(isinstance(axis, int) and -rank <= axis < rank for axis in given_axes):
        return None
    axes = [axis % rank for axis in given_axes]
    if not all(isinstance(width, int) for width in widths) or len(widths) != 2 * len(axes):
        return None
    full = [0] * (2 * rank)
    for index, axis in enumerate(axes):
        full[axis], full[axis + rank] = widths[index], widths[index + len(axes)]
    return full


def pad_value(pad: ir.Node, facts: Facts) -> np.ndarray | None:
    """Return the constant that a ``Pad`` adds, one element; ``None`` where it is fed."""
    if facts.opset < WIDTHS_ARE_INPUTS:
        return np.array(attribute(pad, "value", 0.0), np.float32)
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is None:
        return np.array(0.0, np.float32)
    tensor = tensor_of(value)
    return None if tensor is None or tensor.size != 1 else tensor.numpy().reshape(())

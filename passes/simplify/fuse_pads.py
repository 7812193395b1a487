"""Fuse two paddings, one after the other, into one; and a slice that cuts off what was added.

Before -> after::

    y = Pad(x, [0, 1, 0, 1])                    z = Pad(x, [2, 1, 0, 4])
    z = Pad(y, [2, 0, 0, 3])             ->     (y only where something else uses it)

    y = Pad(x, [0, 1, 0, 1])                    z = x
    z = Slice(y, 1, 9, axes=1)           ->     # x: float[N, 8]

Preconditions, per match:
    1. The widths are constant and none is negative: what is cut off may have been added.
    2. Both paddings are of the mode ``constant`` with the same constant, bit for bit, or both
       of the mode ``edge``; ``reflect`` and ``wrap`` see what the first one added.
    3. ``Slice``: by steps of 1; it starts on each axis where ``x`` starts, and gives its
       shape.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Pad.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.padding import WIDTHS_ARE_INPUTS, pad_value, pad_widths
from graphopt.analysis.producers import producer
from graphopt.analysis.symbolic.layout import slice_bounds
from graphopt.edit import AttributeValue, Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FusePads"]

MODES = ("constant", "edge")


@dataclasses.dataclass(frozen=True)
class FusePads(RulePass):
    """Fuse paddings of paddings; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-pads"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("pad-pad", ("Pad",), _match),
            Rule("pad-slice", ("Slice",), _match_slice),
        ]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    first = producer(node.inputs[0], "Pad")
    x = first.inputs[0] if first is not None else None
    if first is None or x is None:
        return None
    shape = facts.shape(x)
    # 1.
    inner = None if shape is None else pad_widths(first, facts, len(shape))
    outer = None if shape is None else pad_widths(node, facts, len(shape))
    if shape is None or inner is None or outer is None or min((*inner, *outer), default=0) < 0:
        return Reason("a width of the two is not known, or negative")
    # 2.
    modes = {attribute(pad, "mode", "constant") for pad in (first, node)}
    if len(modes) > 1 or not modes < set(MODES):
        return Reason(f"one of them pads by {max(modes - {'constant'}, default='constant')}")
    value, other = pad_value(first, facts), pad_value(node, facts)
    if modes == {"constant"} and not _same(value, other):
        return Reason("they do not pad with the same constant")
    widths = [a + b for a, b in zip(inner, outer, strict=True)]

    def rewrite(edit: Edit) -> None:
        result = node.outputs[0]
        attributes: dict[str, AttributeValue] = {
            name: attr for name, attr in node.attributes.items() if name != "pads"
        }
        inputs: list[ir.Value | None] = [x]
        if facts.opset < WIDTHS_ARE_INPUTS:
            attributes["pads"] = widths
        else:
            data = np.array(widths, np.int64)
            inputs += [
                edit.constant(data, f"{result.name}_pads", near=node),
                node.inputs[2] if len(node.inputs) > 2 else None,
            ]
        edit.substitute(node, "Pad", inputs, attributes)

    return rewrite


def _same(value: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two constants are the same, also where one is left out and the other is 0."""
    if value is None or other is None:
        return False
    if value.dtype != other.dtype:
        # Only the one that is left out has a type of its own.
        return not value.tobytes().strip(b"\0") and not other.tobytes().strip(b"\0")
    return value.tobytes() == other.tobytes()


def _match_slice(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    pad = producer(node.inputs[0], "Pad")
    x = pad.inputs[0] if pad is not None else None
    if pad is None or x is None:
        return None
    shape = facts.shape(x)
    # 1.
    widths = None if shape is None else pad_widths(pad, facts, len(shape))
    bounds = None if shape is None else slice_bounds(node, facts.symbols, len(shape))
    if shape is None or widths is None or bounds is None or min(widths, default=0) < 0:
        return Reason("its bounds, or the widths of the Pad, are not known")
    # 3.
    starts = [bounds[axis][0] if axis in bounds else 0 for axis in range(len(shape))]
    steps = {step for _, _, step in bounds.values()}
    if starts != widths[: len(shape)] or not steps <= {1}:
        return Reason("it does not start where the Pad has stopped")
    if facts.shape(node.outputs[0]) != shape:
        return Reason("it leaves another shape than the Pad was given")
    return lambda edit: edit.supersede(node, x)

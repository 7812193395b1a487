"""Let what follows from the sizes of other values be constant.

Before -> after::

    t = Concat(Gather(Shape(x), 0), [12, -1])               # x: float[batch, 96, 8]
    y = Reshape(x, t)                      ->     y = Reshape(x, [0, 12, -1])

    n = Gather(Shape(x), [1])                               # x: float[batch, seq]
    y = Slice(x, 0, n, axes=1)             ->     y = Slice(x, 0, maximum, axes=1)

Preconditions:
    1. ``Reshape``: its target is not constant; each size of the result is a number, or the
       size that the input has at the same place (0 copies it), or is the only other one (-1).
       Beside -1, only an empty input of the model may make a copied size 0.
    2. ``Reshape``: no size of the result is the number 0. ``allowzero=1`` is then dropped:
       what is copied may well be 0.
    3. ``Slice``: an end is not constant and at least the size of its axis in every run; the
       steps are 1.

Numerics: exact. One difference: onnxruntime refuses -1 beside a copied size that is 0, so that
with an empty batch, and two other sizes that are merged, a Reshape that ran fails.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: the nodes that computed the shape, which ``eliminate-dead-code`` removes.
Reference: https://onnx.ai/onnx/operators/onnx__Reshape.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, is_constant
from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic.layout import slice_bounds
from graphopt.analysis.symbolic.targets import reshape_target
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FoldShapes"]

TO_THE_END = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class FoldShapes(RulePass):
    """Let shapes and ends of slices be constant; see the module docstring for the contract."""

    name: ClassVar[str] = "fold-shapes"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("reshape-target", ("Reshape",), _reshape),
            Rule("slice-to-the-end", ("Slice",), _slice),
        ]


def _reshape(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    if len(node.inputs) < 2 or is_constant(node.inputs[1]):
        return None
    source, result = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if source is None or result is None:
        return Reason("the shape of its input or output is not known")
    # 1. and 2.
    target = reshape_target(source, result)
    if target is None:
        words = " x ".join(map(str, result))
        return Reason(
            f"more than one size of {words} is neither a number nor copied, or may be 0"
        )

    def rewrite(edit: Edit) -> None:
        name = f"{node.outputs[0].name}_shape"
        edit.set_input(node, 1, edit.constant(np.array(target, np.int64), name, near=node))
        if attribute(node, "allowzero", 0):
            edit.set_attribute(node, "allowzero", None)

    return rewrite


def _slice(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    if len(node.inputs) < 3 or is_constant(node.inputs[2]):
        return None
    shape = facts.shape(node.inputs[0])
    bounds = None if shape is None else slice_bounds(node, facts.symbols, len(shape))
    if shape is None or bounds is None:
        return Reason("the shape of its input, its axes or its steps are not known")
    ends: list[int] = []
    for axis, (_, end, step) in bounds.items():
        if isinstance(end, int):
            ends.append(end)
        # 3.
        elif step == 1 and facts.symbols.nonnegative(end - shape[axis]):
            ends.append(TO_THE_END)
        else:
            return Reason(f"the end {end} of axis {axis} may lie inside of it")

    def rewrite(edit: Edit) -> None:
        name = f"{node.outputs[0].name}_ends"
        dtype = (
            node.inputs[1].dtype.numpy() if node.inputs[1] and node.inputs[1].dtype else None
        )
        kind = np.int32 if dtype == np.int32 else np.int64
        limit = np.iinfo(kind).max
        data = np.array([min(end, limit) for end in ends], kind)
        edit.set_input(node, 2, edit.constant(data, name, near=node))

    return rewrite

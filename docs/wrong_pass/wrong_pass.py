"""Eliminate ``Clip`` behind ``Relu``: a pass with a mistake in it, to try the tools on.

Before -> after::

    y = Relu(x)
    z = Clip(y, low, high)      ->      z = Relu(x)

The mistake: the lower bound is looked at, the upper one is forgotten.

Preconditions, per match:
    1. The input of the ``Clip`` is computed by a ``Relu``.
    2. The lower bound is a constant that is not above 0.

Numerics: said to be exact, and is not.
Scope: main graph and subgraphs.
Reference: https://onnx.ai/onnx/operators/onnx__Clip.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass


@dataclasses.dataclass(frozen=True)
class EliminateClip(RulePass):
    """Eliminate ``Clip`` behind ``Relu``; see the module docstring."""

    name: ClassVar[str] = "eliminate-clip"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("clip-behind-relu", ("Clip",), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "Relu":
        return Reason("its input is no Relu")
    low = facts.array(node.inputs[1]) if len(node.inputs) > 1 else None
    if low is None or low > 0:
        return Reason("its lower bound is above 0 or not known")

    def rewrite(edit: Edit) -> None:
        edit.replace(node.outputs[0], source.outputs[0])
        edit.remove(node)

    return rewrite

"""Fuse what computes a Gelu into ``Gelu``.

Before -> after::

    y = x * 0.5 * (1 + Erf(x / 1.41421356))                     ->     y = Gelu(x)

    y = 0.5 * x * (1 + Tanh(0.79788456 * (x + 0.044715 * x^3)))
                                                  ->     y = Gelu<approximate = "tanh">(x)

However the products and sums are spelled and ordered. onnxruntime 1.31.1 has a kernel for
both; by itself it fuses only the first. The second becomes 2.3 (16 x 1536 elements) to 7
times (1024 x 1536) as fast on one thread.

Preconditions, per match:
    1. The model imports opset 20 or later; see upgrade-opset.
    2. The argument of ``Erf`` or ``Tanh``, and what is made of its result, are the formulas
       above, their constants to 1e-5 (float16: 1e-3). No constant adds a dimension.
    3. Nothing else uses what is computed on the way.
    4. The type is float32 or float16: onnxruntime has no kernels of others.

Numerics: close. Measured: rtol 1e-6 of the largest output for float32.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``x * Sigmoid(1.702 * x)``, which is another function.
Reference: https://onnx.ai/onnx/operators/onnx__Gelu.html
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

from .gelu import find_gelu

__all__ = ["FuseGelu"]

FIRST_OPSET = 20
TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclasses.dataclass(frozen=True)
class FuseGelu(RulePass):
    """Fuse Gelu; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-gelu"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("gelu", ("Erf", "Tanh"), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 2. and 3.
    gelu = find_gelu(node, facts)
    if gelu is None or isinstance(gelu, Reason):
        return gelu
    # 1.
    if facts.opset < FIRST_OPSET:
        return Reason(f"Gelu needs opset {FIRST_OPSET}; see upgrade-opset")
    # 4.
    if gelu.x.dtype not in TYPES:
        return Reason(f"there is no kernel for {gelu.x.dtype}")
    attributes = {"approximate": "tanh"} if gelu.approximate == "tanh" else {}

    def rewrite(edit: Edit) -> None:
        (y,) = edit.node(
            "Gelu", [gelu.x], before=gelu.last, attributes={**attributes}, like=[gelu.output]
        )
        edit.supersede(gelu.last, y)
        edit.remove(*gelu.nodes)

    return rewrite

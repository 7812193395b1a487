"""Fuse what computes a layer normalization into ``LayerNormalization``.

Before -> after::

    d = Sub(x, ReduceMean(x))
    v = ReduceMean(Pow(d, 2))
    z = Div(d, Sqrt(Add(v, 1e-5)))
    y = Add(Mul(z, s), b)                    ->     y = LayerNormalization(x, s, b)

    r = Mul(Reciprocal(Sqrt(Add(v, 1e-5))), s)
    y = Add(Mul(x, r), Sub(b, Mul(ReduceMean(x), r)))     ->     the same

``Mul(d, d)`` for the square, ``Pow(v, 0.5)`` for the root, the inverse of the root as
``Reciprocal``, ``Div`` or ``Pow``, multiplied by ``s`` before or after ``d``; ``s`` and ``b``
may be missing. With float16, also what is computed between casts to and from float32.

Preconditions, per match:
    1. The model imports opset 17 or later; see upgrade-opset.
    2. Means of x and of the square of d are along the same axes, which are the last ones, of
       known sizes, and kept. Epsilon is a constant, and not negative.
    3. ``s`` and ``b`` have one element for each element of those axes; others stay behind.
       Without ``s``, ones are added to the file: at most 16,384.
    4. Nothing else uses what is computed on the way.
    5. The type is float32 or float16: the operator computes its means in float32.

Numerics: close. Measured: rtol 1e-6 of the largest output for float32.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .normalization import ROOTS, find_normalization

__all__ = ["FuseLayerNormalization"]

FIRST_OPSET = 17


@dataclasses.dataclass(frozen=True)
class FuseLayerNormalization(RulePass):
    """Fuse layer normalization; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-layer-normalization"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("layer-normalization", ROOTS, _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 2. to 4.
    norm = find_normalization(node, facts)
    if norm is None or isinstance(norm, Reason):
        return norm
    if not norm.centered:
        return None
    # 1.
    if facts.opset < FIRST_OPSET:
        return Reason(f"LayerNormalization needs opset {FIRST_OPSET}; see upgrade-opset")
    # 3. and 5.
    return norm.refusal() or functools.partial(norm.become, op_type="LayerNormalization")

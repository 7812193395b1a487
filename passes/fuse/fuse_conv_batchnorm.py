"""Fuse ``BatchNormalization`` into the ``Conv`` that feeds it.

Before -> after::

    y = Conv(x, W, B)
    z = BatchNormalization(y, s, b, mean, var)     ->     z = Conv(x, W', B')

    W' = W * a,  B' = (B - mean) * a + b,  a = s / sqrt(var + epsilon)

Preconditions, per match:
    1. The normalization is in inference mode: ``training_mode`` is 0, ``spatial`` (opset 7) is
       1, and only its first output is used.
    2. ``y`` has no other use.
    3. W, B, s, b, mean and var are constants.
    4. No other node uses W: a second copy would make the file grow.
    5. W is float16, float32 or float64 and all have its dtype.

Numerics: close; a and B' are computed in float64 and rounded once. Measured: rtol 1e-5 of the
largest output for float32.
Scope: main graph and subgraphs.   Leaves alone: ConvTranspose, Gemm.
Reference: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FuseConvBatchNorm"]

EPSILON = 1e-5  # default of the operator


@dataclasses.dataclass(frozen=True)
class FuseConvBatchNorm(RulePass):
    """Fuse ``BatchNormalization`` into ``Conv``; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-conv-batchnorm"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("conv-batchnorm", ("BatchNormalization",), _match)]


def _match(norm: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    y = norm.inputs[0]
    conv = y.producer() if y is not None else None
    if y is None or conv is None or conv.op_type != "Conv" or conv.domain:
        return Reason("its input does not come from a Conv")
    # 1.
    inference = not attribute(norm, "training_mode", 0) and attribute(norm, "spatial", 1) == 1
    if not inference or any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        return Reason("it is in training mode")
    # 2.
    if facts.only_use(y) is not norm:
        return Reason(f"{y.name!r} has another use")
    # 3.
    weight, bias = conv.inputs[1], conv.inputs[2] if len(conv.inputs) > 2 else None
    w, b = facts.array(weight), facts.array(bias)
    scale, shift, mean, var = (facts.array(value) for value in norm.inputs[1:5])
    if w is None or (bias is not None and b is None):
        return Reason("weight or bias of the Conv is not constant")
    if scale is None or shift is None or mean is None or var is None:
        return Reason("scale, bias, mean or variance is not constant")
    # 4.
    if weight is None or len(weight.uses()) != 1:
        return Reason("another node uses the weight of the Conv")
    # 5.
    arrays = [scale, shift, mean, var] + ([] if b is None else [b])
    if w.dtype not in (np.float16, np.float32, np.float64):
        return Reason(f"weights of type {w.dtype} are not fused")
    if any(array.dtype != w.dtype for array in arrays):
        return Reason("weights and normalization are of different types")
    epsilon = attribute(norm, "epsilon", EPSILON)
    assert isinstance(epsilon, float)
    factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + epsilon)
    old_bias = np.float64(0) if b is None else b.astype(np.float64)
    new_bias = (old_bias - mean) * factor + shift

    def rewrite(edit: Edit) -> None:
        per_channel = factor.reshape(-1, *[1] * (w.ndim - 1))
        new_w = (w * per_channel).astype(w.dtype)
        name = weight.name or "weight"
        inputs = [
            conv.inputs[0],
            edit.constant(new_w, name, near=conv),
            edit.constant(new_bias.astype(w.dtype), f"{name}_bias", near=conv),
        ]
        (fused,) = edit.node(
            "Conv",
            inputs,
            before=conv,
            attributes=dict(conv.attributes),
            like=[norm.outputs[0]],
            name=conv.name or "",
        )
        edit.supersede(norm, fused)
        edit.remove(conv)

    return rewrite

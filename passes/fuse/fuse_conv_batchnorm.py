"""Fuse ``BatchNormalization`` into the layer that feeds it.

Before -> after::

    y = Conv(x, W, B)
    z = BatchNormalization(y, s, b, mean, var)     ->     z = Conv(x, W', B')

    W' = W * a,  B' = (B - mean) * a + b,  a = s / sqrt(var + epsilon)

The same for ``ConvTranspose`` and ``Gemm``.

Preconditions, per match:
    1. The normalization is in inference mode: ``training_mode`` is 0, ``spatial`` (opset 7) is
       1, and only its first output is used.
    2. ``y`` has no other use.
    3. W, B, s, b, mean and var are constants.
    4. No other node uses W: a second copy would make the file grow.
    5. W is float16, float32 or float64 and all have its type; the bias has one element a
       channel, or one.

Numerics: close; a and B' are computed in float64 and rounded once. Measured: rtol 1e-5 of the
largest output for float32.
Scope: main graph and subgraphs.   Leaves alone: MatMul, which takes no bias.
Reference: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .linear_layers import layer_of

__all__ = ["FuseConvBatchNorm"]

EPSILON = 1e-5  # default of the operator
LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclasses.dataclass(frozen=True)
class FuseConvBatchNorm(RulePass):
    """Fuse ``BatchNormalization`` into layers; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-conv-batchnorm"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("conv-batchnorm", ("BatchNormalization",), _match)]


def _match(norm: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    y = norm.inputs[0]
    # 3. to 5.
    layer = layer_of(y.producer() if y is not None else None)
    if isinstance(layer, Reason):
        return layer
    if y is None or layer is None or layer.node.op_type not in LAYERS:
        return Reason("its input does not come from a Conv, ConvTranspose or Gemm")
    # 1.
    inference = not attribute(norm, "training_mode", 0) and attribute(norm, "spatial", 1) == 1
    if not inference or any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        return Reason("it is in training mode")
    # 2.
    if facts.only_use(y) is not norm:
        return Reason(f"{y.name!r} has another use")
    # 3.
    tensors = [tensor_of(value) for value in norm.inputs[1:5]]
    weight = tensor_of(layer.weight)
    known = [tensor for tensor in tensors if tensor is not None]
    if len(known) != len(tensors) or weight is None:
        return Reason("scale, bias, mean or variance is not constant")
    # 5.
    if any(tensor.dtype != weight.dtype for tensor in known):
        return Reason("weights and normalization are of different types")
    epsilon = attribute(norm, "epsilon", EPSILON)
    scale, bias, mean, var = (tensor.numpy().astype(np.float64) for tensor in known)
    factor = scale / np.sqrt(var + epsilon)

    def rewrite(edit: Edit) -> None:
        new = layer.folded(edit, factor, bias - mean * factor, norm.outputs[0])
        edit.supersede(norm, new)
        edit.remove(layer.node)

    return rewrite

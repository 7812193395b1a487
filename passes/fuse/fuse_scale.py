"""Fuse multiplication and addition of constants into the layer that feeds them.

Before -> after::

    y = Conv(x, W, B)
    z = Mul(y, c)                    ->     z = Conv(x, W * c, B * c)       # c per channel

    y = Gemm(x, W, B)
    z = Add(y, c)                    ->     z = Gemm(x, W, B + c)

    y = Add(MatMul(x, W), B)                y = Add(MatMul(x, W * 0.125), B * 0.125)
    t = Transpose(Reshape(y))               t = Transpose(Reshape(y))
    z = Mul(t, 0.125)                ->     z = t

``Mul``, ``Div``, ``Add`` and ``Sub`` with the layer on either side (``Div``: as the dividend)
after ``Conv``, ``ConvTranspose``, ``Gemm``, ``LayerNormalization`` along the last axis and
``MatMul`` (``Mul`` and ``Div`` only).

Preconditions, per match:
    1. The other operand is a constant of the type of the weight and has one element, or one a
       channel; no dimension is added by it.
    2. The output of the layer has no other use; nor has what is between it and the factor.
    3. Weight and bias are constants, and no other node uses the weight.
    4. At a distance: one factor, behind ``Reshape``, ``Transpose``, ``Squeeze``,
       ``Unsqueeze``, ``Flatten`` and the addition of a constant bias.
    5. All numbers stay finite.

Numerics: close; products are computed in float64 and rounded once. Measured: rtol 1e-5 of the
largest output for float32.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Mul.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import tensor_of
from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .linear_layers import Layer, layer_of, per_channel

__all__ = ["FuseScale"]

LAYOUT = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
MAX_DISTANCE = 8


@dataclasses.dataclass(frozen=True)
class FuseScale(RulePass):
    """Fuse constants into layers; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-scale"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("layer-scale", ("Add", "Div", "Mul", "Sub"), _match),
            Rule("layer-layout-scale", ("Div", "Mul"), _match_distant),
        ]


def _operands(node: ir.Node) -> tuple[ir.Value, np.ndarray, bool] | None:
    """Return the variable operand, the constant one, and whether the constant comes first."""
    a, b = node.inputs[:2]
    if a is None or b is None:
        return None
    for variable, constant, first in ((a, b, False), (b, a, True)):
        tensor = tensor_of(constant)
        if tensor is not None and tensor_of(variable) is None:
            return variable, tensor.numpy(), first
    return None


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    found = _operands(node)
    # Before version 7 operators broadcast by an attribute.
    if found is None or (node.op_type == "Div" and found[2]) or facts.opset < 7:
        return None
    y, constant, first = found
    # 3.
    layer = layer_of(y.producer())
    if layer is None or isinstance(layer, Reason):
        return layer
    # 2.
    if facts.only_use(y) is not node:
        return Reason(f"{y.name!r} has another use")
    # 1.
    shape, weight = facts.shape(y), tensor_of(layer.weight)
    if shape is None or weight is None:
        return Reason(f"the rank of {y.name!r} is not known")
    operand = per_channel(constant, layer, len(shape))
    if operand is None or constant.dtype != weight.dtype.numpy():
        return Reason("the constant is not one number a channel, or of another type")
    factor, shift = _affine(node.op_type, operand, constant_first=first)
    if shift is not None and not layer.takes_shift:
        return Reason("a MatMul takes no bias")
    # 5.
    if not _stays_finite(layer, factor, shift):
        return Reason("a weight would become infinite")

    def rewrite(edit: Edit) -> None:
        edit.supersede(node, layer.folded(edit, factor, shift, node.outputs[0]))
        edit.remove(layer.node)

    return rewrite


def _affine(
    op_type: str, operand: np.ndarray, *, constant_first: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return factor and shift of ``op_type`` with a constant operand."""
    if op_type == "Mul":
        return operand, None
    if op_type == "Div":
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1.0 / operand, None
    one = np.ones_like(operand)
    if op_type == "Add":
        return one, operand
    return (-one, operand) if constant_first else (one, -operand)


def _stays_finite(layer: Layer, factor: np.ndarray, shift: np.ndarray | None) -> bool:
    tensors = [tensor_of(layer.weight), tensor_of(layer.bias)]
    arrays = [tensor.numpy() for tensor in tensors if tensor is not None]
    limit = float(np.finfo(arrays[0].dtype).max) / 4
    largest = float(np.abs(factor).max(initial=0.0))
    added = 0.0 if shift is None else float(np.abs(shift).max(initial=0.0))
    products = [float(np.abs(array).max(initial=0.0)) * largest for array in arrays]
    return all(number < limit for number in (added, *products))


def _match_distant(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    found = _operands(node)
    if found is None or found[2] > (node.op_type == "Mul") or found[1].size != 1:
        return None
    z, constant, _ = found
    below, shape = facts.shape(z), facts.shape(node.outputs[0])
    producer = z.producer()
    if producer is None or (producer.op_type not in LAYOUT and producer.op_type != "Add"):
        return None
    # 1.
    if below is None or below != shape:
        return Reason("the factor may add a dimension")
    found_layer = _behind(z, facts)
    if found_layer is None or isinstance(found_layer, Reason):
        return found_layer
    layer, bias_node = found_layer
    weight = tensor_of(layer.weight)
    if weight is None or constant.dtype != weight.dtype.numpy():
        return Reason("weight and factor are of different types")
    operand = np.broadcast_to(constant.reshape(-1).astype(np.float64), (layer.channels,))
    factor, _ = _affine(node.op_type, operand, constant_first=False)
    # 5.
    if not _stays_finite(layer, factor, None):
        return Reason("a weight would become infinite")

    def rewrite(edit: Edit) -> None:
        edit.supersede(node, z)
        edit.supersede(layer.node, layer.folded(edit, factor, None, layer.node.outputs[0]))
        if bias_node is not None:
            at = 0 if tensor_of(bias_node.inputs[0]) is not None else 1
            bias = bias_node.inputs[at]
            tensor = tensor_of(bias)
            assert tensor is not None
            assert bias is not None
            scaled = (tensor.numpy() * factor[0]).astype(tensor.dtype.numpy())
            new = edit.constant(scaled, bias.name or "bias", near=bias_node)
            edit.set_input(bias_node, at, new)

    return rewrite


def _behind(value: ir.Value, facts: Facts) -> tuple[Layer, ir.Node | None] | Reason | None:
    """Return the layer that ``value`` is computed from by layout and one constant bias."""
    bias_node: ir.Node | None = None
    # 2. and 4.
    for _ in range(MAX_DISTANCE):
        node = value.producer()
        if node is None or node.domain or facts.only_use(value) is None:
            return None
        layer = layer_of(node)
        if layer is not None:
            return layer if isinstance(layer, Reason) else (layer, bias_node)
        source = node.inputs[0]
        if node.op_type == "Add" and bias_node is None:
            found = _operands(node)
            if found is None:
                return None
            bias_node, source = node, found[0]
        elif node.op_type not in LAYOUT:
            return None
        if source is None:
            return None
        value = source
    return None

"""Fuse multiplication and addition of constants into the layer that they feed.

Before -> after::

    y = Mul(x, c)
    z = Conv(y, W, B)                      ->     z = Conv(x, W * c, B)      # c per channel

    y = Sub(x, c)
    z = Gemm(y, W, B)                      ->     z = Gemm(x, W, B - c W)

    y = BatchNormalization(x, s, b, mean, var)
    z = Conv(y, W, B)                      ->     z = Conv(x, W * a, B + W (b - mean * a))

``Mul``, ``Div`` (as the dividend), ``Add``, ``Sub`` and ``BatchNormalization`` in inference
mode, in front of ``Conv``, ``Gemm`` and ``MatMul``; the last takes factors only.

Preconditions, per match:
    1. The constants have the type of the weight and one element, or one an input channel; no
       dimension is added by them.
    2. ``y`` has no other use, and is the data of the layer.
    3. Weight and bias are constants, and no other node uses the weight.
    4. Something is added: a ``Conv`` has no padding, whose zeros it is not added to.
    5. All numbers stay finite.
    6. ``Gemm``, ``MatMul``: x is not computed by such an operator itself, as in a
       normalization or a Gelu, which would be torn apart. ``transA`` is 0.

Numerics: close; products are computed in float64 and rounded once. Measured: rtol 1e-5 of the
largest output for float32.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``ConvTranspose`` and ``LayerNormalization``.
Reference: https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.edit import AttributeValue, Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .linear_layers import Layer, layer_of

__all__ = ["FuseScaleBefore"]

ARITHMETIC = ("Add", "Div", "Mul", "Sub")
EPSILON = 1e-5  # default of BatchNormalization

_Affine: TypeAlias = tuple[np.ndarray, "np.ndarray | None"]
"""Factor and shift, float64, of one element or one an input channel."""


@dataclasses.dataclass(frozen=True)
class FuseScaleBefore(RulePass):
    """Fuse constants into the layer behind them; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-scale-before"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("scale-layer", ("Conv", "Gemm", "MatMul"), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    y = node.inputs[0]
    before = producer(y, *ARITHMETIC, "BatchNormalization")
    # Before version 7 operators broadcast by an attribute.
    if before is None or y is None or facts.opset < 7:
        return None
    # 3.
    layer = layer_of(node)
    if layer is None or isinstance(layer, Reason):
        return layer
    weight = tensor_of(layer.weight)
    assert weight is not None
    # 2.
    if facts.only_use(y) is not node:
        return Reason(f"{y.name!r} has another use")
    # 1.
    operands = _operands(before)
    if operands is None:
        return None
    x, constants = operands
    shape = facts.shape(x)
    if shape is None or shape != facts.shape(y):
        return Reason("a constant may add a dimension")
    if any(tensor.dtype != weight.dtype for tensor in constants):
        return Reason("weight and constant are of different types")
    # 6.
    dense = node.op_type != "Conv"
    if dense and producer(x, *ARITHMETIC) is not None:
        return Reason("it may be the end of a normalization")
    if attribute(node, "transA", 0):
        return Reason("it transposes its data")
    axis = len(shape) - 1 if dense else 1
    channels = _input_channels(node, weight)
    affine = _affine(before, constants, axis, len(shape), channels)
    if isinstance(affine, Reason):
        return affine
    factor, shift = affine
    # 4.
    if shift is not None and (node.op_type == "MatMul" or _pads(node)):
        return Reason("a MatMul takes no bias, and padding is not shifted")
    new_weight, added = _weights(node, weight.numpy().astype(np.float64), factor, shift)
    bias = _bias(layer, added)
    # 5.
    limit = float(np.finfo(weight.dtype.numpy()).max) / 4
    if not all(np.abs(array).max(initial=0.0) < limit for array in (new_weight, bias)):
        return Reason("a weight would become infinite")
    return _rewrite(node, before, x, new_weight, None if added is None else bias)


def _operands(before: ir.Node) -> tuple[ir.Value, list[ir.TensorProtocol]] | None:
    """Return the variable operand and the constants."""
    if before.op_type == "BatchNormalization":
        trains = attribute(before, "training_mode", 0) or attribute(before, "spatial", 1) != 1
        tensors = [tensor_of(value) for value in before.inputs[1:5]]
        used = any(v.uses() or v.is_graph_output() for v in before.outputs[1:])
        known = [tensor for tensor in tensors if tensor is not None]
        x = before.inputs[0]
        return None if trains or used or len(known) < 4 or x is None else (x, known)
    left, right = before.inputs
    for x, constant in ((left, right), (right, left)):
        tensor = tensor_of(constant)
        if x is not None and tensor is not None and tensor_of(x) is None:
            return None if x is right and before.op_type == "Div" else (x, [tensor])
    return None


def _affine(
    before: ir.Node,
    constants: Sequence[ir.TensorProtocol],
    axis: int,
    rank: int,
    channels: int,
) -> _Affine | Reason:
    arrays = []
    for tensor in constants:
        dims = tuple(tensor.shape.numpy())
        if before.op_type == "BatchNormalization":
            dims = (channels,) + (1,) * (rank - 2) if dims == (channels,) else dims
        full = (1,) * (rank - len(dims)) + dims
        if any(size != 1 for at, size in enumerate(full) if at != axis):
            return Reason("the constant is not one number an input channel")
        if tensor.size not in (1, channels):
            return Reason("the constant is not one number an input channel")
        flat = tensor.numpy().astype(np.float64).reshape(-1)
        arrays.append(np.broadcast_to(flat, (channels,)))
    if before.op_type == "BatchNormalization":
        scale, bias, mean, var = arrays
        factor = scale / np.sqrt(var + attribute(before, "epsilon", EPSILON))
        return factor, bias - mean * factor
    (operand,) = arrays
    one = np.ones_like(operand)
    if before.op_type == "Mul":
        return operand, None
    if before.op_type == "Div":
        with np.errstate(divide="ignore", invalid="ignore"):
            return one / operand, None
    if before.op_type == "Add":
        return one, operand
    return (-one, operand) if tensor_of(before.inputs[0]) is not None else (one, -operand)


def _input_channels(node: ir.Node, weight: ir.TensorProtocol) -> int:
    shape = weight.shape.numpy()
    if node.op_type == "Conv":
        return int(shape[1]) * int(attribute(node, "group", 1))
    return int(shape[-1] if attribute(node, "transB", 0) else shape[-2])


def _pads(node: ir.Node) -> bool:
    automatic = attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return node.op_type == "Conv" and (automatic or any(attribute(node, "pads", ())))


def _weights(
    node: ir.Node, weight: np.ndarray, factor: np.ndarray, shift: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the weight times ``factor``, and what ``shift`` adds to each output channel."""
    if node.op_type != "Conv":
        by_rows = factor if attribute(node, "transB", 0) else factor[:, None]
        if shift is None:
            return weight * by_rows, None
        matrix = weight.T if attribute(node, "transB", 0) else weight
        return weight * by_rows, attribute(node, "alpha", 1.0) * (shift @ matrix)
    group, (out, inner) = attribute(node, "group", 1), weight.shape[:2]
    shape = (out, inner, *[1] * (weight.ndim - 2))

    def along(channels: np.ndarray) -> np.ndarray:
        parts = channels.reshape(group, 1, inner)
        return np.broadcast_to(parts, (group, out // group, inner)).reshape(shape)

    if shift is None:
        return weight * along(factor), None
    return weight * along(factor), (weight * along(shift)).reshape(out, -1).sum(axis=1)


def _bias(layer: Layer, added: np.ndarray | None) -> np.ndarray:
    """Return the bias with what is added; where nothing is, it is not looked at."""
    tensor = tensor_of(layer.bias)
    old = np.zeros(()) if tensor is None else tensor.numpy().astype(np.float64)
    beta = attribute(layer.node, "beta", 1.0) if tensor is not None else 1.0
    return old if added is None else (old + added / beta).reshape(-1)


def _rewrite(
    node: ir.Node, before: ir.Node, x: ir.Value, weight: np.ndarray, bias: np.ndarray | None
) -> Rewrite:
    def rewrite(edit: Edit) -> None:
        old = node.inputs[1]
        assert old is not None
        assert old.dtype is not None
        kind = old.dtype.numpy()
        name = old.name or "weight"
        data = edit.constant(weight.astype(kind), name, near=node)
        inputs: list[ir.Value | None] = [x, data]
        attributes: dict[str, AttributeValue] = dict(node.attributes)
        inputs += node.inputs[2:]
        if bias is not None:
            label = f"{name}_bias"
            inputs[2:] = [edit.constant(bias.astype(kind), label, near=node)]
            if len(node.inputs) < 3 or node.inputs[2] is None:
                attributes.pop("beta", None)
        edit.substitute(node, node.op_type, inputs, attributes)
        edit.remove(before)

    return rewrite

"""Operators as the placement of Q and DQ sees them: a kernel with what belongs to it.

A unit is an operator that onnxruntime has an integer kernel for, with the Relu or Clip behind
it that its output's Q makes redundant, and for a MatMul the Add of its bias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of
from graphopt.rewrite import Reason
from graphopt.runtime.fusion_knowledge import Inputs, Kernel, Output

from .linear import Linear, read_linear

__all__ = ["Unit", "Weight", "clip_bounds", "read_unit"]

MIN_OPSET = 13
"""DequantizeLinear has one scale a channel from opset 13 on."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """The constant weight of a unit.

    Attributes:
        value: The float32 constant as it is stored.
        axis: Its axis that runs over the outputs.
        is_turned: Whether the operator takes it transposed, through a Transpose node.
    """

    value: ir.Value
    axis: int
    is_turned: bool = False


@dataclasses.dataclass(frozen=True)
class Unit:
    """An operator that can run on integers.

    Attributes:
        node: The operator.
        kernel: What its integer kernel needs.
        data: Indices of the inputs that are activations and not constant.
        constants: Indices of the inputs that are activations and constant.
        weight: Its weight, if it has one.
        add: The Add of a constant bias behind a MatMul.
        tail: The Relu or Clip that a Q behind it makes redundant.
    """

    node: ir.Node
    kernel: Kernel
    data: tuple[int, ...]
    constants: tuple[int, ...] = ()
    weight: Weight | None = None
    add: ir.Node | None = None
    tail: ir.Node | None = None

    @property
    def result(self) -> ir.Value:
        """The value it computes, before a tail."""
        return (self.add or self.node).outputs[0]

    @property
    def finals(self) -> tuple[ir.Value, ...]:
        """The values that a Q stands behind."""
        if self.tail is not None:
            return (self.tail.outputs[0],)
        return tuple(self.node.outputs) if self.add is None else (self.add.outputs[0],)

    @property
    def returns_float(self) -> bool:
        """Whether it cannot return integers: the bias is added in float behind the kernel."""
        return self.add is not None and not self.becomes_gemm

    @property
    def becomes_gemm(self) -> bool:
        """Whether onnxruntime will make a Gemm of it, which takes an int32 bias.

        A MatMul followed by an Add becomes one where the left operand is a matrix, or all of
        its dimensions but the last are known (MatMulAddFusion).
        """
        if self.node.op_type == "Gemm":
            return True
        shape = self.node.inputs[0].shape if self.node.inputs[0] is not None else None
        if self.add is None or shape is None:
            return False
        return len(shape) == 2 or all(isinstance(dim, int) for dim in shape[:-1])

    @property
    def bias(self) -> tuple[ir.Node, int] | None:
        """The node and the index of the input that is the constant bias."""
        if self.weight is None:
            return None
        if self.add is not None:
            first = self.add.inputs[0] is self.node.outputs[0]
            return (self.add, 1) if first else (self.add, 0)
        has_bias = len(self.node.inputs) > 2 and self.node.inputs[2] is not None
        return (self.node, 2) if has_bias else None


def read_unit(
    node: ir.Node, kernels: Mapping[str, Kernel], opset: int
) -> Unit | Reason | None:
    """Return ``node`` as a unit, or why it has to stay in float.

    ``None`` where nobody would expect it to run on integers.
    """
    kernel = kernels.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if kernel is None:
        return None
    if opset < max(MIN_OPSET, kernel.minimum_opset):
        return Reason(f"it needs opset {max(MIN_OPSET, kernel.minimum_opset)}")
    for name, wanted in kernel.requires.items():
        found = attribute(node, name, "nearest" if name == "mode" else None)
        if found != wanted:
            return Reason(f"the integer kernel needs {name}={wanted}, not {found}")
    if kernel.has_weights:
        return _with_weight(node, kernel)
    first = 1 if kernel.inputs is Inputs.BRANCHES else 0
    last = 1 if kernel.inputs is Inputs.FIRST else len(node.inputs)
    data: list[int] = []
    constants: list[int] = []
    for index in range(first, last):
        value = node.inputs[index]
        if value is None or not _is_float(value):
            return Reason("it does not compute with float32")
        (data if tensor_of(value) is None else constants).append(index)
    if not data:
        return Reason("all its operands are constant")
    if any(not (v.uses() or v.is_graph_output()) for v in node.outputs):
        return Reason("one of its outputs is not used")
    tail = None if kernel.output is Output.SAME else _tail(node.outputs[0])
    return Unit(node, kernel, tuple(data), tuple(constants), tail=tail)


def _with_weight(node: ir.Node, kernel: Kernel) -> Unit | Reason:
    if node.op_type == "Conv":
        return _convolution(node, kernel)
    linear = read_linear(node)
    if isinstance(linear, Reason):
        return linear
    if not _is_float(linear.x):
        return Reason("it does not compute with float32")
    if linear.beta != 1 or linear.alpha <= 0:
        return Reason(f"its alpha is {linear.alpha:g}, its beta {linear.beta:g}")
    bias = linear.bias
    if bias is not None and (_bias_of(bias, linear) is None):
        return Reason("its bias is no constant vector")
    is_gemm = node.op_type == "Gemm"
    # A Gemm transposes its stored weight itself.
    turned = linear.is_transposed and not (is_gemm and attribute(node, "transB", 0))
    through_transpose = node.inputs[1] is not linear.weight
    if is_gemm and through_transpose:
        return Reason("its weight is transposed twice")
    weight = Weight(linear.weight, linear.channel_axis, turned)
    add = None if is_gemm else _bias_add(node, linear)
    result = (add or node).outputs[0]
    return Unit(node, kernel, (0,), weight=weight, add=add, tail=_tail(result))


def _convolution(node: ir.Node, kernel: Kernel) -> Unit | Reason:
    x, weight = node.inputs[0], node.inputs[1]
    tensor, bias = tensor_of(weight), node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None or tensor is None:
        return Reason("its weight is not constant")
    if tensor.dtype != ir.DataType.FLOAT or not _is_float(x):
        return Reason("it does not compute with float32")
    if tensor_of(x) is not None:
        return Reason("all its operands are constant")
    if tensor.size == 0:
        return Reason("its weight is empty")
    if bias is not None and tensor_of(bias) is None:
        return Reason("its bias is not constant")
    return Unit(node, kernel, (0,), weight=Weight(weight, 0), tail=_tail(node.outputs[0]))


def _is_float(value: ir.Value) -> bool:
    """Whether ``value`` is float32, as far as its type is known."""
    return value.dtype in (None, ir.DataType.FLOAT)


def _only_use(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = next(iter(uses)).node
    # What uses it in a subgraph cannot be taken together with it.
    return node if node.graph is value.graph and not node.domain else None


def _bias_of(value: ir.Value, linear: Linear) -> npt.NDArray[Any] | None:
    """Return the constant ``value`` as a vector with one entry an output, if it is one."""
    tensor = tensor_of(value)
    columns = linear.weight.shape[linear.channel_axis] if linear.weight.shape else None
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size != columns:
        return None
    shape = tensor.shape.numpy()
    return tensor.numpy().reshape(-1) if shape[-1:] == (columns,) else None


def _bias_add(node: ir.Node, linear: Linear) -> ir.Node | None:
    add = _only_use(node.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    if other is None or len(add.inputs) != 2 or _bias_of(other, linear) is None:
        return None
    rank, size = len(node.outputs[0].shape or ()), len(other.shape or ())
    return add if size == 1 or size <= rank else None


def _tail(value: ir.Value) -> ir.Node | None:
    """Return the Relu or Clip that is the only user of ``value``."""
    node = _only_use(value)
    if node is None:
        return None
    if node.op_type == "Relu":
        return node
    return node if node.op_type == "Clip" and clip_bounds(node) is not None else None


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return the bounds of a Relu or Clip; ``None`` where they are not constant numbers."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [-np.inf, np.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        tensor = tensor_of(value)
        if tensor is None or tensor.size != 1:
            return None
        bounds[index] = float(tensor.numpy().reshape(()))
    return (bounds[0], bounds[1]) if bounds[0] < bounds[1] else None

"""Layers that a factor and a summand per output channel can be folded into.

``y = layer(x)`` becomes ``y * factor + shift`` by other weights: the output channels of the
weight are multiplied by ``factor``, the bias becomes ``bias * factor + shift``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.edit import Edit
from graphopt.ir_access import use_count
from graphopt.rewrite import Reason

__all__ = ["FLOATS", "Layer", "layer_of", "per_channel"]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A ``Conv``, ``ConvTranspose``, ``Gemm``, ``MatMul`` or ``LayerNormalization``.

    Its weights are constants; the weight of a normalization is its scale.

    Attributes:
        node: The node.
        channels: Output channels.
        axis: Axis of the channels in the output: 1, or -1 for the last.
        takes_shift: Whether it has a bias, or can have one.
    """

    node: ir.Node
    channels: int
    axis: int
    takes_shift: bool

    @property
    def weight(self) -> ir.Value:
        """The weight."""
        value = self.node.inputs[1]
        assert value is not None
        return value

    @property
    def bias(self) -> ir.Value | None:
        """The bias, if there is one."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    def folded(
        self, edit: Edit, factor: np.ndarray, shift: np.ndarray | None, like: ir.Value
    ) -> ir.Value:
        """Insert a layer with other weights in front, which computes ``y * factor + shift``.

        Args:
            edit: The edit.
            factor: float64 [channels]
            shift: float64 [channels]; ``None`` for 0, which every layer takes.
            like: The value that the result is to replace.

        Returns:
            The output of the new layer.
        """
        weight, tensor = tensor_of(self.weight), tensor_of(self.bias)
        assert weight is not None
        data = weight.numpy()
        scaled = (data * self._along_weight(factor, data)).astype(data.dtype)
        name = self.weight.name or "weight"
        inputs = [self.node.inputs[0], edit.constant(scaled, name, near=self.node)]
        attributes = dict(self.node.attributes)
        if tensor is not None or shift is not None:
            # The bias of a Gemm is multiplied by beta.
            beta = attribute(self.node, "beta", 1.0) if tensor is not None else 1.0
            if tensor is None:
                attributes.pop("beta", None)
            old = np.float64(0) if tensor is None else tensor.numpy().astype(np.float64)
            added = np.float64(0) if shift is None else shift / beta
            new = (old * factor + added).reshape(self.channels).astype(data.dtype)
            label = f"{name}_bias" if self.bias is None else self.bias.name or "bias"
            inputs.append(edit.constant(new, label, near=self.node))
        (result,) = edit.node(
            self.node.op_type,
            inputs,
            before=self.node,
            attributes={**attributes},
            like=[like],
            name=self.node.name or "",
        )
        return result

    def _along_weight(self, factor: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return ``factor`` in a shape that multiplies the output channels of ``weight``."""
        op_type = self.node.op_type
        if op_type == "Conv":
            return factor.reshape(-1, *[1] * (weight.ndim - 1))
        if op_type == "ConvTranspose":
            # [C_in, C_out/group, ...]: the input channels of a group make its outputs.
            group = attribute(self.node, "group", 1)
            parts = factor.reshape(group, 1, -1)
            full = np.broadcast_to(parts, (group, weight.shape[0] // group, weight.shape[1]))
            return full.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
        return factor[:, None] if attribute(self.node, "transB", 0) else factor


def layer_of(node: ir.Node | None) -> Layer | Reason | None:
    """Return ``node`` as a layer; the reason why not; ``None`` for other operators.

    Its weight and bias are constants of one floating-point type, and no other node uses the
    weight: a second copy would make the file grow.
    """
    if node is None or node.domain or node.op_type not in _SHAPES or len(node.inputs) < 2:
        return None
    weight = tensor_of(node.inputs[1])
    if weight is None:
        return Reason(f"the weight of the {node.op_type} is not constant")
    if node.inputs[1] is None or use_count(node.inputs[1]) != 1:
        return Reason(f"another node uses the weight of the {node.op_type}")
    if weight.dtype not in FLOATS:
        return Reason(f"weights of type {weight.dtype} are not changed")
    if node.op_type == "MatMul" and len(weight.shape) < 2:
        return Reason("the weight of the MatMul is a vector")
    if node.op_type == "LayerNormalization" and not _is_along_channels(node, weight):
        return Reason("the normalization is along more than the last axis, or is used itself")
    channels, axis = _SHAPES[node.op_type](node, tuple(weight.shape.numpy()))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = tensor_of(bias)
    if bias is not None and (tensor is None or tensor.dtype != weight.dtype):
        return Reason(f"the bias of the {node.op_type} is not constant")
    if tensor is not None:
        # A Gemm takes any bias that broadcasts; one a row has no channels.
        shape = tuple(tensor.shape.numpy())
        if shape not in ((channels,), (1, channels), (1,), ()):
            return Reason(f"the bias of the {node.op_type} has the shape {list(shape)}")
        if not attribute(node, "beta", 1.0):
            return Reason("beta is 0")
    return Layer(node, channels, axis, node.op_type != "MatMul")


def _conv(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    del node
    return shape[0], 1


def _conv_transpose(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[1] * attribute(node, "group", 1), 1


def _gemm(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0 if attribute(node, "transB", 0) else 1], -1


def _matmul(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    del node
    return shape[-1], -1


def _normalization(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    del node
    return shape[0], -1


def _is_along_channels(norm: ir.Node, scale: ir.TensorProtocol) -> bool:
    """Whether ``norm`` has a scale a channel, and nothing uses its mean and deviation."""
    used = any(value.uses() or value.is_graph_output() for value in norm.outputs[1:])
    return len(scale.shape) == 1 and attribute(norm, "axis", -1) == -1 and not used


_SHAPES: dict[str, Callable[[ir.Node, tuple[int, ...]], tuple[int, int]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "LayerNormalization": _normalization,
    "MatMul": _matmul,
}


def per_channel(constant: np.ndarray, layer: Layer, rank: int) -> np.ndarray | None:
    """Return a constant that is broadcast with the output of ``layer``, per channel.

    Args:
        constant: Operand of the elementwise operator.
        layer: The layer.
        rank: Rank of its output.

    Returns:
        float64 [channels]; ``None`` where it varies along another axis, or adds one.
    """
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    axis = layer.axis % rank
    if any(size != 1 for index, size in enumerate(shape) if index != axis):
        return None
    if shape[axis] not in (1, layer.channels):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (layer.channels,))

"""Operators with a weight, wherever that comes from."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of

__all__ = ["Weighted", "dims_of", "weighted"]

_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "Gather": 0}
_QUANTIZED = (
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT4,
    ir.DataType.UINT4,
    ir.DataType.INT2,
    ir.DataType.UINT2,
)
"""Integers that stand for weights; wider ones are shapes and indices."""

_FORWARD = ("Transpose", "Identity", "Cast", "DequantizeLinear", "Reshape", "Dropout")
"""What may stand between an operator and its weight."""


@dataclasses.dataclass(frozen=True)
class Weighted:
    """An operator, its weight, and how many output channels that has, where it is known."""

    node: ir.Node
    weight: ir.Value
    tensor: ir.TensorProtocol
    channels: int | None

    @property
    def label(self) -> str:
        """What the ledger calls it."""
        return self.node.name or self.node.outputs[0].name or ""


def weighted(node: ir.Node) -> Weighted | None:
    """Return the node as a layer, with its largest weight; ``None`` if it has none."""
    best: Weighted | None = None
    if node.op_type in (*_FORWARD, "Constant") or not node.outputs:
        return best
    for value in node.inputs:
        found = _weight(value, node)
        if found is not None and (best is None or found.tensor.size > best.tensor.size):
            best = found
    return best


def _weight(value: ir.Value | None, node: ir.Node) -> Weighted | None:
    """Return the weight that ``value`` is, or is made from by layout alone."""
    way: list[ir.Node] = []
    while value is not None:
        tensor = tensor_of(value)
        if tensor is not None:
            is_number = tensor.dtype.is_floating_point() or tensor.dtype in _QUANTIZED
            if len(tensor.shape) < 2 or not is_number:
                return None
            return Weighted(node, value, tensor, _channels(node, way, dims_of(tensor)))
        producer = value.producer()
        if producer is None or producer.op_type not in _FORWARD or not producer.inputs:
            return None
        way.append(producer)
        value = producer.inputs[0]
    return None


def _channels(node: ir.Node, way: list[ir.Node], dims: tuple[int, ...]) -> int | None:
    """Return the output channels of ``node``, which gets its weight ``dims`` by ``way``."""
    if any(step.op_type == "Reshape" for step in way):
        return None
    axis = _axis(node, len(dims))
    for step in way:
        if step.op_type == "Transpose":
            perm = step.attributes.get_ints("perm")
            axis = perm[axis] if perm is not None else len(dims) - 1 - axis
    return dims[axis]


def _axis(node: ir.Node, rank: int) -> int:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return _CHANNELS.get(node.op_type, rank - 1)


def dims_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the shape of ``tensor``."""
    return tuple(int(dim) for dim in tensor.shape.numpy())

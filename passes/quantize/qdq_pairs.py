"""Reads the QuantizeLinear and DequantizeLinear that are in a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of
from graphopt.calibration.qparams import IntType, QParams
from graphopt.rewrite import Reason

from .trained import as_kind

__all__ = ["IntegerConstant", "QdqPair", "constants_with", "read_constant", "read_pair"]

_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


_COMPUTES = frozenset(
    {
        "Add",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Mul",
        "Sub",
        "Sum",
    }
)
"""Operators that other tools let a Q take the Relu or Clip from."""


@dataclasses.dataclass(frozen=True)
class QdqPair:
    """A QuantizeLinear, and the DequantizeLinear nodes behind it."""

    quantize: ir.Node
    dequantize: tuple[ir.Node, ...]
    qparams: QParams

    @property
    def source(self) -> ir.Value:
        """What the Q reads."""
        value = self.quantize.inputs[0]
        assert value is not None
        return value

    @property
    def is_constant(self) -> bool:
        """Whether it rounds a weight."""
        return tensor_of(self.source) is not None

    def may_be_clip(self) -> bool:
        """Whether the Q may stand for a Relu or Clip that was taken out."""
        kind, producer = self.qparams.kind, self.source.producer()
        one_sided = self.qparams.zero_point in (kind.minimum, kind.maximum)
        return one_sided and producer is not None and producer.op_type in _COMPUTES


def read_pair(quantize: ir.Node) -> QdqPair | Reason:
    """Return a QuantizeLinear with the DequantizeLinear behind it, or why they are no pair."""
    # 1.
    qparams = _parameters(quantize)
    if isinstance(qparams, Reason):
        return qparams
    if qparams.scale.ndim and tensor_of(quantize.inputs[0]) is None:
        return Reason("it has more than one scale")
    users = quantize.outputs[0].consumers()
    if not users or quantize.outputs[0].is_graph_output():
        return Reason("its integers are a result of the model")
    for user in users:
        if user.op_type != "DequantizeLinear" or user.graph is not quantize.graph:
            return Reason(f"{user.op_type} reads its integers")
        other = _parameters(user)
        if isinstance(other, Reason):
            return other
        if not _is_same(other, qparams):
            return Reason("its DequantizeLinear has another scale")
    return QdqPair(quantize, tuple(users), qparams)


def _is_same(one: QParams, other: QParams) -> bool:
    return (
        np.array_equal(one.scale, other.scale)
        and np.array_equal(one.zero_point, other.zero_point)
        and one.axis == other.axis
    )


@dataclasses.dataclass(frozen=True)
class IntegerConstant:
    """Integers of a constant, and how they were made; ``qparams`` None for a bias."""

    data: npt.NDArray[np.float32]
    qparams: QParams | None


def constants_with(pairs: list[QdqPair]) -> Iterator[ir.Node]:
    """Yield the DQ of constants that operators read together with one of ``pairs``."""
    found: dict[ir.Node, None] = {}
    for pair in pairs:
        users = [user for node in pair.dequantize for user in node.outputs[0].consumers()]
        # The Add of a bias reads the product, which has no Q in between.
        users += [add for user in users for add in user.successors() if add.op_type == "Add"]
        for user in users:
            for value in user.inputs:
                producer = value.producer() if value is not None else None
                if producer is not None and producer.op_type == "Transpose":
                    producer = producer.predecessors()[0] if producer.predecessors() else None
                if (
                    producer is not None
                    and producer.op_type == "DequantizeLinear"
                    and not producer.domain
                    and tensor_of(producer.inputs[0]) is not None
                ):
                    found[producer] = None
    yield from found


def read_constant(node: ir.Node) -> IntegerConstant | Reason:
    """Return what the DequantizeLinear of a constant makes of it, or why that is not known."""
    tensor = tensor_of(node.inputs[0])
    assert tensor is not None
    # 3.
    if tensor.dtype == ir.DataType.INT32:
        scale = tensor_of(node.inputs[1])
        if scale is None or len(tensor.shape) > 1 or attribute(node, "block_size", 0):
            return Reason("its scale is not constant")
        numbers = tensor.numpy().astype(np.float32) * scale.numpy().astype(np.float32)
        return IntegerConstant(numbers, None)
    qparams = _parameters(node)
    if isinstance(qparams, Reason):
        return qparams
    data = tensor.numpy()
    if qparams.axis is not None:
        axis = qparams.axis % data.ndim
        qparams = QParams(qparams.scale, qparams.zero_point, axis)
        if qparams.scale.shape != (data.shape[axis],):
            return Reason("its scale is not one an entry of an axis")
    return IntegerConstant(qparams.dequantize(data), as_kind(qparams, IntType.INT8))


def _implied_kind(node: ir.Node) -> ir.DataType:
    """Return the type of the integers of a Q or DQ without a zero point."""
    if node.op_type == "QuantizeLinear":
        # Since opset 21; 0, the default, is uint8.
        return ir.DataType(attribute(node, "output_dtype", 0) or ir.DataType.UINT8)
    integers = tensor_of(node.inputs[0])
    return ir.DataType.UINT8 if integers is None else integers.dtype


def _parameters(node: ir.Node) -> QParams | Reason:
    """Return the scale and zero point of a Q or DQ."""
    scale = tensor_of(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    zero_tensor = tensor_of(zero)
    if scale is None or (zero is not None and zero_tensor is None):
        return Reason("its scale is not constant")
    if scale.dtype != ir.DataType.FLOAT or attribute(node, "block_size", 0):
        return Reason("its scales are in blocks, or not float32")
    numbers = np.asarray(scale.numpy(), np.float32)
    if zero_tensor is not None:
        if zero_tensor.dtype not in _BYTES:
            return Reason(f"its integers are {zero_tensor.dtype.name.lower()}")
        points = np.asarray(zero_tensor.numpy())
    else:
        kind = _implied_kind(node)
        if kind not in _BYTES:
            return Reason(f"its integers are {kind.name.lower()}")
        points = np.zeros(numbers.shape, kind.numpy())
    if numbers.size == 1:
        return QParams(numbers.reshape(()), points.reshape(()))
    return QParams(numbers, points, attribute(node, "axis", 1))

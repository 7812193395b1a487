"""Writes constants as integers with a DequantizeLinear: weights, biases, other operands.

Each weight gets one int8 copy, however many operators read it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.qparams import QParams
from graphopt.edit import AttributeValue, Edit

from .linear import finite_array
from .units import Unit, Weight
from .weights import WeightStore, drop_unused

__all__ = ["BIAS_LIMIT", "QdqConstants"]

BIAS_LIMIT = 2.0**30
"""Largest integer that a bias may become: half of int32 is left to what is added to it."""
_SMALLEST_SCALE = 1e-37
"""Of a bias: of the product of two tiny scales float32 would hold nothing, or a few bits."""


class QdqConstants:
    """Makes the edits of one run; remembers what units share.

    Args:
        weight_qparams: Returns how a weight is quantized.
        constant_qparams: Returns how a constant operand is quantized.
    """

    def __init__(
        self,
        weight_qparams: Callable[[Weight], QParams],
        constant_qparams: Callable[[ir.Value], QParams],
    ) -> None:
        self._weight_qparams = weight_qparams
        self._constant_qparams = constant_qparams
        self._store = WeightStore()

    def read_operand(self, edit: Edit, node: ir.Node, index: int) -> None:
        """Let a constant operand come from a DQ."""
        value = node.inputs[index]
        assert value is not None
        qparams = self._constant_qparams(value)
        dq = self._constant_dq(edit, node, value, qparams, lambda: finite_array(value), "")
        edit.set_input(node, index, dq)
        drop_unused(edit, value)

    def _constant_dq(
        self,
        edit: Edit,
        node: ir.Node,
        value: ir.Value,
        qparams: QParams,
        data: Callable[[], npt.NDArray[np.float32]],
        layout: str,
    ) -> ir.Value:
        """Insert a DQ of the integers of a constant in front of ``node``."""
        scales = qparams.scale.tobytes()
        # int8 for a weight, uint8 for an operand that is never negative: a 0 of either.
        zero_key = (qparams.zero_point.dtype.name, qparams.zero_point.tobytes())
        key = ("integers", layout, qparams.axis, scales, *zero_key)
        make = self._store.constant
        quantized = make(
            edit, value, key, f"{value.name}_quantized", lambda: qparams.quantize(data())
        )
        scale = make(
            edit, value, ("scale", scales), f"{value.name}_scale", lambda: qparams.scale
        )
        zero = make(
            edit,
            value,
            ("zero", *zero_key),
            f"{value.name}_zero_point",
            lambda: qparams.zero_point,
        )
        attributes: dict[str, AttributeValue] = {}
        if qparams.axis is not None:
            attributes["axis"] = qparams.axis
        (dq,) = edit.node(
            "DequantizeLinear",
            [quantized, scale, zero],
            before=node,
            attributes=attributes,
            name=f"{value.name}_dequantize",
        )
        dq.name = edit.fresh_name(f"{value.name}_dequantized")
        shape = None if quantized.shape is None else quantized.shape.copy()
        edit.set_type(dq, ir.TensorType(ir.DataType.FLOAT), shape)
        return dq

    def read_weight(
        self, edit: Edit, unit: Unit, weight: Weight, x_scale: npt.NDArray[np.float32]
    ) -> None:
        """Let the weight of ``unit`` come from a DQ, and its bias where it becomes int32.

        Args:
            edit: The transaction.
            unit: Its operator.
            weight: Its weight.
            x_scale: Scale of what it is multiplied with.
        """
        node = unit.node
        qparams = self._weight_qparams(weight)
        bias = unit.bias
        if bias is not None and (unit.add is None or unit.becomes_gemm):
            qparams = self._bias(edit, *bias, x_scale, qparams, _alpha(node))
        data = finite_array(weight.value)
        if weight.is_turned:
            axis = None if qparams.axis is None else 1 - qparams.axis
            qparams = QParams(qparams.scale, qparams.zero_point, axis)
            data = data.T
        layout = "turned" if weight.is_turned else ""
        dq = self._constant_dq(edit, node, weight.value, qparams, lambda: data, layout)
        operand = node.inputs[1]
        assert operand is not None
        edit.set_input(node, 1, dq)
        drop_unused(edit, operand)

    def _bias(
        self,
        edit: Edit,
        user: ir.Node,
        index: int,
        x_scale: npt.NDArray[np.float32],
        qparams: QParams,
        alpha: float,
    ) -> QParams:
        """Make a bias int32; return the scales of the weight that its range asks for."""
        value = user.inputs[index]
        assert value is not None
        data = finite_array(value).astype(np.float32).reshape(-1)
        # Where the weights are tiny next to the bias, they get a coarser scale: the integers
        # of the bias would not fit into 32 bits, and the weights hardly matter.
        least = np.maximum(np.abs(data).astype(np.float64) / BIAS_LIMIT, _SMALLEST_SCALE)
        needed = least / (float(x_scale) * alpha)
        if qparams.scale.ndim == 0:
            needed = needed.max(initial=0.0)
        scale = np.asarray(np.maximum(qparams.scale, needed), np.float32)
        qparams = QParams(scale, qparams.zero_point, qparams.axis)
        bias_scale = np.asarray(x_scale * scale * np.float32(alpha), np.float32)
        integers = np.rint(data.astype(np.float64) / bias_scale).astype(np.int32)
        key = ("int32", bias_scale.tobytes())
        quantized = self._store.constant(
            edit, value, (*key, "bias"), f"{value.name}_quantized", lambda: integers
        )
        scales = self._store.constant(
            edit, value, (*key, "scale"), f"{value.name}_scale", lambda: bias_scale
        )
        (dq,) = edit.node(
            "DequantizeLinear",
            [quantized, scales],
            before=user,
            attributes={"axis": 0} if bias_scale.ndim else {},
            name=f"{value.name}_dequantize",
        )
        dq.name = edit.fresh_name(f"{value.name}_dequantized")
        edit.set_type(dq, ir.TensorType(ir.DataType.FLOAT), ir.Shape(integers.shape))
        edit.set_input(user, index, dq)
        drop_unused(edit, value)
        return qparams


def _alpha(node: ir.Node) -> float:
    attr = node.attributes.get("alpha")
    return 1.0 if attr is None or node.op_type != "Gemm" else float(attr.as_float())

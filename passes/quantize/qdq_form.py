"""Writes QuantizeLinear and DequantizeLinear into a graph, unit by unit.

Each value gets one Q and one DQ at most, each weight one int8 copy. Scales and zero points of
activations are 0-d: with shape [1] onnxruntime 1.31 does not load some models and does not
absorb a Clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.qparams import QParams
from graphopt.edit import AttributeValue, Edit
from graphopt.runtime.fusion_knowledge import Output

from .linear import finite_array
from .units import Unit, Weight
from .weights import WeightStore, drop_unused, owner_node

__all__ = ["BIAS_LIMIT", "QdqForm"]

BIAS_LIMIT = 2.0**30
"""Largest integer that a bias may become: half of int32 is left to what is added to it."""


class QdqForm:
    """Makes the edits of one run; remembers what units share.

    Args:
        activations: Name of a value -> how it is quantized.
        weight_qparams: Returns how a weight is quantized.
        constant_qparams: Returns how a constant operand is quantized.
    """

    def __init__(
        self,
        activations: Mapping[str, QParams],
        weight_qparams: Callable[[Weight], QParams],
        constant_qparams: Callable[[ir.Value], QParams],
    ) -> None:
        self._activations = activations
        self._weight_qparams = weight_qparams
        self._constant_qparams = constant_qparams
        self._store = WeightStore()
        # float value -> the DQ output that stands for it
        self._entries: dict[ir.Value, ir.Value] = {}
        # DQ output -> how it is quantized
        self._made: dict[ir.Value, QParams] = {}

    def insert(self, edit: Edit, unit: Unit, *, quantize_output: bool) -> None:
        """Put Q and DQ around ``unit``."""
        node = unit.node
        for index in unit.data:
            self._read_integers(edit, node, index)
        for index in unit.constants:
            self._constant(edit, node, index)
        if unit.weight is not None:
            self._weight(edit, unit, unit.weight)
        if quantize_output:
            for value in unit.finals:
                self._write_integers(edit, unit, value)
        edit.note(f"{node.op_type} on integers")

    def _read_integers(self, edit: Edit, node: ir.Node, index: int) -> None:
        """Let an input come from a DQ."""
        value = node.inputs[index]
        assert value is not None
        if value in self._made:
            return
        known = self._entries.get(value)
        # An application that was taken back has taken its nodes along.
        if known is None or known.graph is None:
            qparams = self._activations[value.name or ""]
            known = self._pair(
                edit, value, value, qparams, self._parameters(edit, value, qparams)
            )
            self._entries[value] = known
        edit.set_input(node, index, known)

    def _write_integers(self, edit: Edit, unit: Unit, value: ir.Value) -> None:
        """Put Q and DQ behind ``value``, for everything that uses it."""
        source = unit.node.inputs[unit.data[0]]
        if unit.kernel.output is Output.SAME and source in self._made:
            assert source is not None
            dequantize = source.producer()
            assert dequantize is not None
            qparams = self._made[source]
            parameters = [v for v in dequantize.inputs[1:] if v is not None]
        else:
            qparams = self._activations[value.name or ""]
            parameters = self._parameters(edit, value, qparams)
        # The Q saturates where a Relu or Clip would: it goes.
        behind = unit.result if unit.tail is not None else value
        dequantized = self._pair(edit, value, behind, qparams, parameters)
        edit.replace(value, dequantized)
        if unit.tail is not None:
            edit.remove(unit.tail)

    def _pair(
        self,
        edit: Edit,
        value: ir.Value,
        behind: ir.Value,
        qparams: QParams,
        parameters: list[ir.Value],
    ) -> ir.Value:
        """Insert Q and DQ behind ``behind`` and return the output of the DQ.

        Args:
            edit: The transaction.
            value: The value that the DQ stands for; gives the names.
            behind: What the Q reads.
            qparams: How it is quantized.
            parameters: Scale and zero point, as values.
        """
        producer = behind.producer()
        graph = behind.graph
        assert isinstance(graph, ir.Graph)
        inputs = [behind, *parameters]
        name = f"{value.name}_quantize"
        if producer is not None:
            (q,) = edit.node("QuantizeLinear", inputs, after=producer, name=name)
        else:
            (q,) = edit.node("QuantizeLinear", inputs, before=graph[0], name=name)
        q.name = edit.fresh_name(f"{value.name}_quantized")
        kind = ir.DataType.from_numpy(qparams.zero_point.dtype)
        edit.set_type(q, ir.TensorType(kind), _copy(value.shape))
        (dq,) = edit.node(
            "DequantizeLinear",
            [q, *parameters],
            after=q.producer(),
            name=f"{value.name}_dequantize",
        )
        dq.name = edit.fresh_name(f"{value.name}_dequantized")
        edit.set_type(dq, ir.TensorType(ir.DataType.FLOAT), _copy(value.shape))
        self._made[dq] = qparams
        return dq

    def _parameters(self, edit: Edit, value: ir.Value, qparams: QParams) -> list[ir.Value]:
        near = value.producer() or owner_node(value)
        return [
            edit.constant(qparams.scale, f"{value.name}_scale", near=near),
            edit.constant(qparams.zero_point, f"{value.name}_zero_point", near=near),
        ]

    def _constant(self, edit: Edit, node: ir.Node, index: int) -> None:
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
        key = ("int8", layout, qparams.axis, scales, qparams.zero_point.tobytes())
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
            ("zero", qparams.zero_point.tobytes()),
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
        edit.set_type(dq, ir.TensorType(ir.DataType.FLOAT), _copy(quantized.shape))
        return dq

    def _weight(self, edit: Edit, unit: Unit, weight: Weight) -> None:
        node = unit.node
        source = node.inputs[unit.data[0]]
        assert source is not None
        x_scale = self._made[source].scale
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
        needed = np.abs(data) / (float(x_scale) * alpha * BIAS_LIMIT)
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


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()

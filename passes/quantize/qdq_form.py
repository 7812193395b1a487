"""Writes QuantizeLinear and DequantizeLinear into a graph, unit by unit.

Each value gets one Q and one DQ at most. Scales and zero points of
activations are 0-d: with shape [1] onnxruntime 1.31 does not load some models and does not
absorb a Clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from graphopt.calibration.qparams import QParams
from graphopt.edit import Edit
from graphopt.runtime.fusion_knowledge import Output

from .qdq_constants import QdqConstants
from .units import Unit, Weight
from .weights import owner_node

__all__ = ["QdqForm"]


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
        self._constants = QdqConstants(weight_qparams, constant_qparams)
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
            self._constants.read_operand(edit, node, index)
        if unit.weight is not None:
            source = node.inputs[unit.data[0]]
            assert source is not None
            x_scale = self._made[source].scale
            self._constants.read_weight(edit, unit, unit.weight, x_scale)
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


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()

"""Which operators of a model can run on integers, before anything is known of its values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.rewrite import Reason
from graphopt.runtime.fusion_knowledge import kernels

from .linear import finite_array
from .selection import Selection
from .static_scales import StaticScales
from .units import Unit, read_unit

__all__ = ["read_units"]

MAX_CONSTANT_NOISE = 1e-3
"""Noise-to-signal above which a constant operand is not quantized: less than 30 dB is left."""

_WITHOUT_KERNEL = ("ConvTranspose", "Einsum", "GRU", "LSTM", "RNN")


def read_units(
    model: ir.Model,
    nodes: Iterable[ir.Node],
    selection: Selection,
    scales: StaticScales,
    version: str,
) -> tuple[list[Unit], dict[ir.Node, str]]:
    """Return the units of a model, and why other operators stay in float.

    Args:
        model: The model.
        nodes: Its operators, in graph order.
        selection: Which of them may be quantized.
        scales: Scales of constants.
        version: Release of onnxruntime that is to fuse them.
    """
    table = kernels(version)
    opset = model.opset_imports.get("", 0)
    units: list[Unit] = []
    refused: dict[ir.Node, str] = {}
    for node in nodes:
        unit = read_unit(node, table, opset)
        if unit is None:
            if node.op_type in _WITHOUT_KERNEL and any(map(tensor_of, node.inputs)):
                refused[node] = "no integer kernel of the ONNX standard exists for it"
            continue
        if isinstance(unit, Unit) and (text := _objection(unit, model, selection, scales)):
            unit = Reason(text)
        if isinstance(unit, Unit):
            units.append(unit)
        else:
            refused[node] = unit.text
    return units, refused


def _objection(unit: Unit, model: ir.Model, selection: Selection, scales: StaticScales) -> str:
    if unit.node.graph is not model.graph:
        return "it is inside a subgraph, where its activations cannot be observed"
    if refusal := selection.refusal(unit.node):
        return refusal
    trained = scales.trained.weights
    if trained and unit.weight is not None and unit.weight.value.name not in trained:
        return "the model, which came quantized, has it in float"
    # Refused at once: the model's answers are no numbers, whatever its activations are.
    for constant in _constants_of(unit):
        finite_array(constant)
    for index in unit.constants:
        value = unit.node.inputs[index]
        assert value is not None
        noise = scales.constant_noise(value, is_factor=unit.node.op_type == "Mul")
        if noise > MAX_CONSTANT_NOISE:
            kept = max(-10 * np.log10(noise), 0.0)
            return f"its constant {value.name!r} would keep {kept:.1f} dB only"
    return ""


def _constants_of(unit: Unit) -> list[ir.Value]:
    found = [] if unit.weight is None else [unit.weight.value]
    if unit.bias is not None:
        user, index = unit.bias
        bias = user.inputs[index]
        assert bias is not None
        found.append(bias)
    return found

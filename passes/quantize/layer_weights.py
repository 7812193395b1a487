"""The inputs and outputs of a layer's constant weight, whatever the layer is and its layout.

A layer is a Conv, Gemm or MatMul as a ``Unit``. A weight is looked at channel by channel: by
its outputs, or by its inputs, which for a grouped Conv are spread over the groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import attribute
from graphopt.edit import Edit
from graphopt.rewrite import Reason
from graphopt.runtime.fusion_knowledge import kernels

from .linear_groups import readers_of
from .units import Unit, read_unit

__all__ = [
    "groups_of",
    "input_range",
    "output_range",
    "own_weight",
    "read_layer",
    "scale_inputs",
    "scale_outputs",
    "set_constant",
]

_Array = npt.NDArray[Any]


def read_layer(node: ir.Node) -> Unit | Reason | None:
    """Return ``node`` as a layer with a constant weight, or why it cannot be read as one."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    # Any opset: nothing is quantized here.
    return read_unit(node, kernels(), 1 << 10)


def own_weight(unit: Unit) -> bool:
    """Whether no other operator uses the weight of ``unit``."""
    assert unit.weight is not None
    value = unit.weight.value
    return not value.is_graph_output() and set(readers_of(value)) == {unit.node}


def groups_of(unit: Unit) -> int:
    """Return the number of groups of a Conv; 1 for other layers."""
    group = attribute(unit.node, "group", 1) if unit.node.op_type == "Conv" else 1
    assert isinstance(group, int)
    return group


def output_range(unit: Unit, w: _Array) -> _Array:
    """Return the largest magnitude of each output channel of ``w``: ``[outputs]``."""
    assert unit.weight is not None
    others = tuple(axis for axis in range(w.ndim) if axis != unit.weight.axis)
    return np.asarray(np.abs(w).max(axis=others))


def input_range(unit: Unit, w: _Array) -> _Array:
    """Return the largest magnitude of each input channel of ``w``: ``[inputs]``."""
    assert unit.weight is not None
    if unit.node.op_type != "Conv":
        return np.asarray(np.abs(w).max(axis=unit.weight.axis))
    groups = groups_of(unit)
    local = np.abs(w).reshape(groups, w.shape[0] // groups, w.shape[1], -1)
    return np.asarray(local.max(axis=(1, 3)).reshape(-1))


def scale_outputs(unit: Unit, w: _Array, factors: _Array) -> _Array:
    """Return ``w`` with each output channel times its factor."""
    assert unit.weight is not None
    shape = [1] * w.ndim
    shape[unit.weight.axis] = -1
    return np.asarray(w * factors.reshape(shape))


def scale_inputs(unit: Unit, w: _Array, factors: _Array) -> _Array:
    """Return ``w`` with each input channel times its factor."""
    assert unit.weight is not None
    if unit.node.op_type != "Conv":
        shape = [1, 1]
        shape[1 - unit.weight.axis] = -1
        return np.asarray(w * factors.reshape(shape))
    groups = groups_of(unit)
    local = factors.reshape(groups, 1, w.shape[1])
    spread = np.broadcast_to(local, (groups, w.shape[0] // groups, w.shape[1]))
    return np.asarray(w * spread.reshape(w.shape[:2] + (1,) * (w.ndim - 2)))


def set_constant(edit: Edit, user: ir.Node, index: int, data: _Array) -> ir.Value:
    """Give the constant input ``index`` of ``user`` other data; other users keep theirs."""
    value = user.inputs[index]
    assert value is not None
    if value.is_initializer() and len(value.uses()) == 1 and not value.is_graph_output():
        edit.set_tensor(value, data)
        return value
    new = edit.constant(data, value.name or "constant", near=user)
    edit.set_input(user, index, new)
    producer = value.producer()
    if producer is not None and not value.uses() and not value.is_graph_output():
        edit.remove(producer)
    return new

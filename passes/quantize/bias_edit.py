"""Changes the bias of a quantized layer."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.edit import Edit

from .bias_layers import BiasLayer
from .layer_weights import set_constant
from .qdq_constants import BIAS_LIMIT

__all__ = ["correct_bias", "shift_in_steps"]

_Floats: TypeAlias = npt.NDArray[np.float64]


def shift_in_steps(layer: BiasLayer, shift: _Floats) -> _Floats:
    """Return ``shift`` in steps of the bias; a float bias has very small ones."""
    dequantize = layer.bias.producer() if layer.bias is not None else None
    if layer.bias is not None and (dequantize is None or dequantize.op_type == "Constant"):
        return shift / np.finfo(np.float32).smallest_normal
    return np.asarray(shift / _bias_scale(layer))


def _bias_scale(layer: BiasLayer) -> npt.NDArray[np.float32]:
    """Return the scale of an int32 bias: that of the activation times that of the weight."""
    scales = []
    for value in layer.node.inputs[:2]:
        assert value is not None
        dequantize = value.producer()
        assert dequantize is not None
        tensor = tensor_of(dequantize.inputs[1])
        assert tensor is not None
        scales.append(np.asarray(tensor.numpy(), np.float32))
    alpha = layer.node.attributes.get("alpha")
    factor = np.float32(1.0 if alpha is None else alpha.as_float())
    return np.asarray(scales[0] * scales[1] * factor, np.float32)


def correct_bias(edit: Edit, layer: BiasLayer, shift: _Floats) -> None:
    """Take ``shift``, one entry a channel, off the result of ``layer``."""
    bias = layer.bias
    edit.note(f"the means were off by {np.abs(shift).max():.2g} at most")
    if bias is None:
        _add_bias(edit, layer, shift)
        return
    dequantize = bias.producer()
    tensor = tensor_of(bias)
    if tensor is not None:
        data = tensor.numpy()
        corrected = (data - shift.reshape(data.shape)).astype(np.float32)
        set_constant(edit, layer.user, layer.index, corrected)
        return
    assert dequantize is not None
    integers = tensor_of(dequantize.inputs[0])
    scale = tensor_of(dequantize.inputs[1])
    assert integers is not None
    assert scale is not None
    steps = np.rint(integers.numpy() - shift / scale.numpy())
    limited = np.clip(steps, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)
    if len(bias.uses()) == 1:
        set_constant(edit, dequantize, 0, limited)
        return
    _insert_bias(edit, layer, limited, np.asarray(scale.numpy(), np.float32))


def _add_bias(edit: Edit, layer: BiasLayer, shift: _Floats) -> None:
    scale = _bias_scale(layer)
    steps = np.clip(np.rint(-shift / scale), -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)
    _insert_bias(edit, layer, steps, scale)


def _insert_bias(
    edit: Edit,
    layer: BiasLayer,
    integers: npt.NDArray[np.int32],
    scale: npt.NDArray[np.float32],
) -> None:
    """Give ``layer`` a DequantizeLinear of its own for its bias."""
    stem = layer.result.name
    quantized = edit.constant(integers, f"{stem}_bias_quantized", near=layer.user)
    scales = edit.constant(scale, f"{stem}_bias_scale", near=layer.user)
    (dq,) = edit.node(
        "DequantizeLinear",
        [quantized, scales],
        before=layer.user,
        attributes={"axis": 0} if scale.ndim else {},
        name=f"{stem}_bias_dequantize",
    )
    dq.name = edit.fresh_name(f"{stem}_bias_dequantized")
    edit.set_type(dq, ir.TensorType(ir.DataType.FLOAT), ir.Shape(integers.shape))
    edit.set_input(layer.user, layer.index, dq)

"""Arrays of all of ONNX's element types, on their way to the child process and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.runtime.wire import ELEMENT_TYPES, Opaque
from graphopt.samples import TensorSpec

__all__ = ["decode", "element_type", "encode", "spec_of"]

# Types that numpy has; all others travel as bytes.
_NUMPY = set(range(1, 16))
# onnxruntime's names of types -> ONNX's.
_ORT_NAMES = {
    "float": "FLOAT",
    "double": "DOUBLE",
    "float16": "FLOAT16",
    "float8e4m3fn": "FLOAT8E4M3FN",
    "float8e4m3fnuz": "FLOAT8E4M3FNUZ",
    "float8e5m2": "FLOAT8E5M2",
    "float8e5m2fnuz": "FLOAT8E5M2FNUZ",
    "float8e8m0": "FLOAT8E8M0",
    "float4e2m1": "FLOAT4E2M1",
}


def element_type(array: np.ndarray) -> int:
    """Return the ``onnx.TensorProto.DataType`` of ``array``.

    Raises:
        TypeError: ONNX has no such type.
    """
    if array.dtype.kind in "USTO":
        return ELEMENT_TYPES["object"]
    kind = ELEMENT_TYPES.get(array.dtype.name)
    if kind is None:
        raise TypeError(f"ONNX has no element type {array.dtype}")
    return kind


def encode(value: Any) -> Any:
    """Return ``value`` (an array, or a list of them for a sequence) as the child takes it."""
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    array = np.asarray(value, order="C")
    kind = element_type(array)
    if kind == ELEMENT_TYPES["object"]:
        return array.astype(object)
    if kind in _NUMPY:
        return array
    data = np.frombuffer(ir.tensor(array).tobytes(), np.uint8)
    return Opaque(kind, array.shape, data)


def decode(value: Any) -> Any:
    """Return what the child answered as an array, or a list of arrays for a sequence."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, Opaque):
        return value
    proto = onnx.TensorProto()
    proto.data_type = value.element_type
    proto.dims.extend(value.shape)
    proto.raw_data = value.data.tobytes()
    return ir.serde.TensorProtoTensor(proto).numpy()


def spec_of(declared: tuple[str, str, Sequence[Any]]) -> TensorSpec:
    """Return what onnxruntime says of an input: (name, type, shape)."""
    name, kind, shape = declared
    inner = kind.rpartition("(")[2].rstrip(")")
    upper = _ORT_NAMES.get(inner, inner.upper())
    dtype = np.dtype(object) if inner == "string" else np.dtype(ir.DataType[upper].numpy())
    return TensorSpec(name, dtype, tuple(shape))

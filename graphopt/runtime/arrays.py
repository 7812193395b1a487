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

# onnxruntime's names of types, where they are not ONNX's in small letters.
_NAMES = {"float": "FLOAT", "double": "DOUBLE"}


def encode(value: Any) -> Any:
    """Return ``value`` (an array, or a list of them for a sequence) as the child takes it.

    Raises:
        TypeError: ONNX has no such element type.
    """
    if isinstance(value, np.ndarray) and value.dtype in ELEMENT_TYPES:
        return value
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    array = np.asarray(value)
    if array.dtype.kind in "USTO":
        return array.astype(object)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype in ELEMENT_TYPES:
        return native
    kind = ir.DataType.from_numpy(native.dtype)
    return Opaque(
        kind.value, array.shape, np.frombuffer(ir.tensor(native).tobytes(), np.uint8)
    )


def decode(value: Any) -> Any:
    """Return what the child answered as an array, or a list of arrays for a sequence."""
    if isinstance(value, Opaque):
        proto = onnx.TensorProto(data_type=value.element_type, dims=value.shape)
        proto.raw_data = value.data.tobytes()
        return ir.serde.TensorProtoTensor(proto).numpy()
    return [decode(item) for item in value] if isinstance(value, list) else value


def element_type(value: Any) -> int:
    """Return the ``onnx.TensorProto.DataType`` of an encoded array."""
    if isinstance(value, Opaque):
        return value.element_type
    return ELEMENT_TYPES.get(value.dtype, onnx.TensorProto.STRING)


def spec_of(declared: tuple[str, str, Sequence[Any]]) -> TensorSpec:
    """Return an input or output as onnxruntime declares it: (name, type, shape).

    A sequence, map or optional is given as its innermost element, without a shape.
    """
    name, kind, shape = declared
    outer, _, inner = kind.rstrip(")").rpartition("(")
    if outer == "tensor":
        dims = tuple(dim or None if isinstance(dim, str) else dim for dim in shape)
    else:
        dims = ()
    if inner == "string":
        return TensorSpec(name, np.dtype(object), dims, ranked=bool(dims))
    dtype = ir.DataType[_NAMES.get(inner, inner.upper())].numpy()
    # onnxruntime does not tell a scalar from a tensor of unknown rank.
    return TensorSpec(name, dtype, dims, ranked=bool(dims))

"""Tensors whose data stays in the file they came from or in its proto, and sparse ones."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.model_io.source import SourceFile

if TYPE_CHECKING:
    from onnx_ir import TensorProtocol

__all__ = ["MappedTensor", "ParsedTensor", "SparseTensor", "ends_of"]


class ParsedTensor(ir.TensorProtoTensor):
    """A tensor that is a proto, which says only once what type and shape it is.

    Rules ask thousands of times, and each time the proto would make a new shape.
    """

    __slots__ = ("dtype", "shape", "size")

    dtype: ir.DataType
    shape: ir.Shape
    size: int

    def __init__(self, proto: onnx.TensorProto) -> None:
        super().__init__(proto)
        self.dtype = ir.DataType(proto.data_type)
        self.shape = ir.Shape(proto.dims, frozen=True)
        self.size = math.prod(proto.dims)


class MappedTensor(ir.LazyTensor):
    """A tensor that is a range of a file.

    ``numpy()`` maps the range, so that only what is looked at is read; the array is read-only.
    Inside an ``.onnx`` file data starts at any byte. Where that does not suit the type of the
    elements, the array is a copy, which lives as long as somebody holds it.

    Attributes:
        source: The file.
        offset: First byte of the data in it; ``nbytes`` is their number.
    """

    __slots__ = ("offset", "source")

    def __init__(
        self,
        source: SourceFile,
        offset: int,
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
    ) -> None:
        self.source = source
        self.offset = offset
        super().__init__(
            _Reader(source, offset, dtype, shape),
            dtype,
            shape,
            name=name,
            doc_string=doc_string,
            metadata_props=metadata_props,
        )

    def tobytes(self) -> bytes:
        """Return the data, copied into memory."""
        return self.source.read(self.offset, self.nbytes).tobytes()

    def __repr__(self) -> str:
        return (
            f"{self._repr_base()}({str(self.source.path)!r} at {self.offset}, {self.name!r})"
        )


class _Reader:
    """Makes the array of one mapped tensor; apart from it, so that the two form no cycle."""

    __slots__ = ("_copy", "_dtype", "_offset", "_shape", "_source")

    def __init__(
        self, source: SourceFile, offset: int, dtype: ir.DataType, shape: ir.Shape
    ) -> None:
        self._source = source
        self._offset = offset
        self._dtype = dtype
        self._shape = shape
        self._copy: weakref.ref[np.ndarray] | None = None

    def __call__(self) -> TensorProtocol:
        dims = self._shape.numpy()
        size = -(-int(np.prod(dims, dtype=object)) * self._dtype.bitwidth // 8)
        if self._dtype.bitwidth < 8:
            packed = self._source.array(self._offset, size)
            return ir.PackedTensor(packed, self._dtype, shape=self._shape)
        array = self._copy() if self._copy is not None else None
        if array is None:
            kind = np.dtype(self._dtype.numpy()).newbyteorder("<")
            if self._offset % kind.alignment == 0:
                array = self._source.array(self._offset, size).view(kind).reshape(dims)
            else:
                array = self._source.read(self._offset, size).view(kind).reshape(dims)
                array.flags.writeable = False
                self._copy = weakref.ref(array)
        return ir.Tensor(array, self._dtype, shape=self._shape)


class SparseTensor(ir.LazyTensor):
    """A sparse constant, which passes see as the dense tensor it stands for.

    It is written as it was read, unless a pass puts another tensor in its place.

    Attributes:
        proto: The values, their indices and the dense shape; checked.
    """

    __slots__ = ("proto",)

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        self.proto = proto
        super().__init__(
            lambda: ir.tensor(_dense(proto)),
            ir.DataType(proto.values.data_type),
            ir.Shape(proto.dims),
            name=proto.values.name,
        )


def ends_of(tensor: ir.TensorProtocol, size: int) -> bytes:
    """Return the first and the last bytes of the data, without looking at the rest.

    Args:
        tensor: At least ``size`` bytes; not of strings.
        size: How many from either end: a multiple of 16, the size of the largest elements.
    """
    if isinstance(tensor, MappedTensor) and tensor.dtype.bitwidth >= 8:
        start, end = tensor.offset, tensor.offset + tensor.nbytes
        return tensor.source[start : start + size] + tensor.source[end - size : end]
    array = tensor.numpy()
    count = size // array.itemsize
    flat = array.flat  # in the order of the elements, also of a transposed array
    return flat[:count].tobytes() + flat[array.size - count :].tobytes()


def _dense(proto: onnx.SparseTensorProto) -> np.ndarray[Any, Any]:
    values = ir.TensorProtoTensor(proto.values).numpy()
    indices = ir.TensorProtoTensor(proto.indices).numpy()
    dense = np.zeros(tuple(proto.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense

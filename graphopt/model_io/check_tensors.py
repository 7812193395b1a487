"""Checks the tensors of a model before anything is allocated for them."""

from __future__ import annotations

import dataclasses
import math

import onnx
import onnx_ir as ir

from graphopt.errors import ModelError

__all__ = [
    "MAX_DENSE_BYTES",
    "External",
    "check_data",
    "check_sparse",
    "external_of",
    "size_of",
]

MAX_BYTES = 1 << 48
"""More than any machine addresses; a product of dimensions beyond it is a forgery."""

MAX_DENSE_BYTES = 1 << 30
"""A sparse constant that unfolds to more is refused: a small file must not take the memory."""

_DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data",
                "uint64_data")  # fmt: skip
_FIELD_OF = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
}
_KNOWN_KEYS = frozenset({"location", "offset", "length", "checksum"})


@dataclasses.dataclass(frozen=True)
class External:
    """Where a tensor says that its data is.

    Attributes:
        location: Path of the file, relative to the model; not yet checked.
        offset: First byte.
        size: Number of bytes.
        unknown: Keys that ONNX does not define; they are ignored.
    """

    location: str
    offset: int
    size: int
    unknown: tuple[str, ...]


def dtype_of(data_type: int, where: str) -> ir.DataType:
    """Return the element type with this number.

    Raises:
        ModelError: There is none.
    """
    try:
        dtype = ir.DataType(data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError(
            "element-type",
            f"{where} has the element type {data_type}, which ONNX does not define.",
            hint=f"Known are 1 to {max(map(int, ir.DataType))}.",
        )
    return dtype


def size_of(tensor: onnx.TensorProto, where: str) -> int:
    """Return the number of bytes that type and dimensions ask for; 0 for strings.

    Raises:
        ModelError: The type does not exist, or the dimensions are impossible.
    """
    dtype = dtype_of(tensor.data_type, where)
    dims = tuple(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise ModelError("tensor-dims", f"{where} has a negative dimension: {list(dims)}.")
    if dtype == ir.DataType.STRING:
        return 0
    size: int = -(-math.prod(dims) * dtype.bitwidth // 8)
    if size > MAX_BYTES:
        raise ModelError(
            "tensor-dims",
            f"{where} has the dimensions {list(dims)}: more bytes than there are addresses.",
        )
    return size


def check_data(tensor: onnx.TensorProto, where: str, cut: int | None) -> None:
    """Check that a tensor has as much data as its type and dimensions ask for.

    Args:
        tensor: A tensor whose data is not external.
        where: What it is called in messages.
        cut: Size in bytes of the data that was left in the file, ``None`` if none was.

    Raises:
        ModelError: It has not.
    """
    size = size_of(tensor, where)
    if tensor.HasField("segment") and cut is None:
        raise ModelError(
            "unsupported", f"{where} is stored in segments, which no runtime reads."
        )
    filled = [name for name in _DATA_FIELDS if len(getattr(tensor, name))]
    dtype = ir.DataType(tensor.data_type)
    if cut is not None or tensor.HasField("raw_data"):
        found = len(tensor.raw_data) if cut is None else cut
        if filled or dtype == ir.DataType.STRING:
            other = f"raw_data and {filled[0]}" if filled else "raw_data, not string_data"
            raise ModelError("tensor-data", f"{where} has its data in {other}.")
        if found != size:
            raise ModelError(
                "tensor-size",
                f"{where} is {_described(tensor)} and needs {size} bytes; its raw_data has "
                f"{found}.",
                hint="The file is damaged or was written wrongly; export it again.",
            )
        return
    field = _FIELD_OF.get(dtype.name, "int32_data")
    if any(name != field for name in filled):
        raise ModelError(
            "tensor-data",
            f"{where} of type {dtype.name} has data in {filled[0]}, not {field}.",
        )
    count = _stored_count(dtype, math.prod(tensor.dims))
    if (found := len(getattr(tensor, field))) != count:
        raise ModelError(
            "tensor-size",
            f"{where} is {_described(tensor)} and needs {count} numbers in {field}; it has "
            f"{found}.",
            hint="The file is damaged or was written wrongly; export it again.",
        )


def _stored_count(dtype: ir.DataType, count: int) -> int:
    """Return how many entries of its typed field hold ``count`` elements of ``dtype``."""
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * count
    if dtype != ir.DataType.STRING and dtype.bitwidth in (2, 4):
        return -(-count * dtype.bitwidth // 8)
    return count


def _described(tensor: onnx.TensorProto) -> str:
    return f"{ir.DataType(tensor.data_type).name}{list(tensor.dims)}"


def external_of(tensor: onnx.TensorProto, where: str) -> External:
    """Return where the data of an external tensor is.

    Raises:
        ModelError: The entries are not what ONNX defines, or do not fit the tensor.
    """
    size = size_of(tensor, where)
    if ir.DataType(tensor.data_type) == ir.DataType.STRING:
        raise ModelError("external-entry", f"{where} holds strings, which cannot be external.")
    if tensor.HasField("raw_data") or any(len(getattr(tensor, name)) for name in _DATA_FIELDS):
        raise ModelError("tensor-data", f"{where} has data inside the model and outside.")
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:
            raise ModelError("external-entry", f"{where} gives {entry.key!r} twice.")
        entries[entry.key] = entry.value
    location = entries.get("location", "")
    if not isinstance(location, str):
        raise ModelError("encoding", f"{where} has a location that is not UTF-8.")
    offset = _number(entries, "offset", 0, where)
    if (given := _number(entries, "length", size, where)) != size:
        raise ModelError(
            "external-range",
            f"{where} is {_described(tensor)} and needs {size} bytes; its external data gives "
            f"a length of {given}.",
        )
    return External(location, offset, size, tuple(sorted(entries.keys() - _KNOWN_KEYS)))


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit():
        raise ModelError(
            "external-range", f"{where} has the {key} {text!r} in its external data."
        )
    return int(text[:20])


def check_sparse(sparse: onnx.SparseTensorProto, where: str) -> None:
    """Check a sparse tensor, its indices included.

    Raises:
        ModelError: It is not what ONNX defines, or unfolds to more than ``MAX_DENSE_BYTES``.
    """
    for part, name in ((sparse.values, "values"), (sparse.indices, "indices")):
        if part.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError("unsupported", f"the {name} of {where} are external.")
        check_data(part, f"the {name} of {where}", None)
    whole = onnx.TensorProto(data_type=sparse.values.data_type, dims=sparse.dims)
    size = size_of(whole, where)
    if size > MAX_DENSE_BYTES or (not size and 0 not in sparse.dims):
        raise ModelError(
            "sparse", f"{where} unfolds to {_described(whole)}, which is {size} bytes."
        )
    count = math.prod(sparse.values.dims)
    shapes = [[count], [count, len(sparse.dims)]]
    if (
        len(sparse.values.dims) != 1
        or sparse.indices.data_type != onnx.TensorProto.INT64
        or list(sparse.indices.dims) not in shapes
    ):
        raise ModelError("sparse", f"{where} has {count} values and other indices than those.")
    indices = ir.TensorProtoTensor(sparse.indices).numpy()
    bounds = list(sparse.dims) if indices.ndim == 2 else [math.prod(sparse.dims)]
    columns = indices.reshape(count, len(bounds)).T
    for column, bound in zip(columns, bounds, strict=True):
        if count and not (column.min() >= 0 and column.max() < bound):
            raise ModelError("sparse", f"{where} has an index out of range.")

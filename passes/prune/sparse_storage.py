"""Sparse constants: when a weight with zeros is stored as one, and how.

Reference: https://onnx.ai/onnx/repo-docs/IR.html
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import ExecutionError
from graphopt.model_io.tensors import SparseTensor
from graphopt.passbase import Context

from .weights import Weight

__all__ = ["SparseStore", "sparse_bytes"]

INDEX_BYTES = 8
"""The checker of onnx wants the positions of a sparse constant as int64."""

MAX_SPARSE_BYTES = 1 << 30
"""Sparse constants cannot be stored outside the file, and a file ends at 2 GiB."""


class SparseStore:
    """Chooses how a weight is stored.

    Args:
        context: Gives the runtime, which is asked whether it loads sparse constants.
        storage: ``auto``, or ``dense``: never sparse.
    """

    def __init__(self, context: Context, storage: str) -> None:
        self._context = context
        self._room = MAX_SPARSE_BYTES if storage == "auto" else 0
        self._loads: bool | None = None

    def tensor(self, data: np.ndarray, weight: Weight) -> ir.TensorProtocol:
        """Return ``data``, sparse where that is smaller and there is room."""
        size = sparse_bytes(data, int(np.count_nonzero(data)))
        if size < min(data.nbytes, self._room):
            if self._loads is None:
                self._loads = _loads_sparse(self._context)
            if self._loads:
                self._room -= size
                return _sparse(data, weight)
        return ir.Tensor(data, dtype=weight.tensor.dtype)


def sparse_bytes(data: np.ndarray, count: int) -> int:
    """Return what ``count`` elements of ``data`` take as a sparse constant."""
    return count * (data.itemsize + INDEX_BYTES)


def _sparse(data: np.ndarray, weight: Weight) -> SparseTensor:
    flat = data.reshape(-1)
    where = np.nonzero(flat)[0].astype(np.int64)
    values = ir.Tensor(flat[where], dtype=weight.tensor.dtype, name=weight.name)
    proto = onnx.SparseTensorProto(dims=data.shape)
    proto.values.CopyFrom(ir.to_proto(values))
    proto.indices.CopyFrom(onnx.numpy_helper.from_array(where, f"{weight.name}_indices"))
    return SparseTensor(proto)


def _loads_sparse(context: Context) -> bool:
    """Whether onnxruntime loads a model with a sparse constant."""
    proto = onnx.SparseTensorProto(dims=[2])
    proto.values.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), "c"))
    proto.indices.CopyFrom(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "c_indices"))
    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2])
    x = ir.Value(name="x", type=kind, shape=shape)
    constant = ir.Value(name="c", type=kind, shape=shape, const_value=SparseTensor(proto))
    node = ir.Node("", "Add", [x, constant])
    (y,) = node.outputs
    y.name, y.type, y.shape = "y", kind, shape
    graph = ir.Graph([x], [y], nodes=[node], initializers=[constant], opset_imports={"": 13})
    try:
        with context.runtime.session(ir.Model(graph, ir_version=8)):
            return True
    except ExecutionError:
        return False

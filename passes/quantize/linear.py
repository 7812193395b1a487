"""Reads what quantization is about: products with a constant matrix, and lookups in one.

``MatMul`` and ``Gemm`` become a ``Linear``, ``Gather`` a ``Lookup``, each in one form, however
the exporter wrote them (``transB``, ``alpha``, a ``Transpose`` in front of the weight).

Reference: https://onnx.ai/onnx/operators/onnx__MatMul.html, onnx__Gemm.html, onnx__Gather.html
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of
from graphopt.errors import ModelError
from graphopt.rewrite import Reason

__all__ = ["Linear", "Lookup", "finite_array", "read_linear", "read_lookup"]


@dataclasses.dataclass(frozen=True)
class Linear:
    """``alpha * x @ W + beta * bias`` with a constant W.

    Attributes:
        node: The MatMul or Gemm.
        weight: The constant as it is stored: ``[K, N]``, or ``[N, K]`` if ``is_transposed``.
        is_transposed: Whether W is ``weight`` transposed.
        alpha, beta: Factors of a Gemm.
    """

    node: ir.Node
    weight: ir.Value
    is_transposed: bool = False
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def x(self) -> ir.Value:
        """The variable operand, float32 ``[..., K]``; another after an edit in front of it."""
        x = self.node.inputs[0]
        assert x is not None
        return x

    @property
    def bias(self) -> ir.Value | None:
        """Operand C of a Gemm, or ``None``."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def channel_axis(self) -> int:
        """Axis of the stored weight that runs over the N outputs."""
        return 0 if self.is_transposed else 1

    def stored(self) -> npt.NDArray[np.float32]:
        """Return the weight as it is stored, not copied.

        Raises:
            ModelError: It holds NaN or Inf.
        """
        return finite_array(self.weight)

    def matrix(self) -> npt.NDArray[np.float32]:
        """Return the weight as ``[K, N]``, not copied; see ``stored``."""
        stored = self.stored()
        return stored.T if self.is_transposed else stored


@dataclasses.dataclass(frozen=True)
class Lookup:
    """``table[indices]``, the rows of a constant table.

    Attributes:
        node: The Gather.
        table: float32 ``[V, D]``, constant.
    """

    node: ir.Node
    table: ir.Value

    @property
    def indices(self) -> ir.Value:
        """Which rows."""
        indices = self.node.inputs[1]
        assert indices is not None
        return indices


def read_linear(node: ir.Node) -> Linear | Reason:
    """Return ``node``, a MatMul or Gemm, as a ``Linear``, or why it is none."""
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return Reason("it lacks an operand")
    x, operand = node.inputs[0], node.inputs[1]
    weight, is_transposed = _behind_transpose(operand)
    tensor = tensor_of(weight)
    if tensor is None:
        if tensor_of(x) is not None:
            return Reason("its left operand is the constant one")
        return Reason("both operands are activations")
    if tensor.dtype != ir.DataType.FLOAT:
        return Reason(f"its weight is {tensor.dtype.name.lower()}, not float32")
    if len(tensor.shape) != 2:
        return Reason(f"its weight has {len(tensor.shape)} axes, not 2")
    if tensor.size == 0:
        return Reason("its weight is empty")
    if tensor_of(x) is not None:
        return Reason("both operands are constant")
    if x.shape is not None and len(x.shape) < 2:
        return Reason("its left operand is a vector")
    if node.op_type == "MatMul":
        return Linear(node, weight, is_transposed)
    if attribute(node, "transA", 0):
        return Reason("it transposes its left operand (transA)")
    if attribute(node, "transB", 0):
        is_transposed = not is_transposed
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    alpha, beta = _number(node, "alpha"), _number(node, "beta")
    if not np.isfinite(np.float32(alpha)) or alpha == 0:
        return Reason(f"its alpha is {alpha:g}")
    if bias is not None and beta != 1 and tensor_of(bias) is None:
        return Reason("its beta is not 1 and its bias is not constant")
    return Linear(node, weight, is_transposed, alpha, beta)


def read_lookup(node: ir.Node) -> Lookup | Reason | None:
    """Return ``node``, a Gather, as a ``Lookup``, or why it is none.

    ``None`` where it is no lookup of weights at all: its data are not a constant matrix of
    floating-point numbers.
    """
    table, indices = node.inputs[0], node.inputs[1]
    tensor = tensor_of(table)
    if table is None or indices is None or tensor is None:
        return None
    if not tensor.dtype.is_floating_point() or len(tensor.shape) < 2:
        return None
    if tensor.dtype != ir.DataType.FLOAT:
        return Reason(f"its table is {tensor.dtype.name.lower()}, not float32")
    if len(tensor.shape) != 2 or attribute(node, "axis", 0) not in (0, -2):
        return Reason("it does not look up the rows of a matrix")
    if tensor.size == 0:
        return Reason("its table is empty")
    if tensor_of(indices) is not None:
        return Reason("its indices are constant: folding removes it")
    return Lookup(node, table)


def finite_array(value: ir.Value) -> npt.NDArray[Any]:
    """Return the data of a constant.

    Raises:
        ModelError: It holds NaN or Inf, from which no scale can be made.
    """
    tensor = tensor_of(value)
    assert tensor is not None, f"{value.name!r} is not constant"
    array = np.asarray(tensor.numpy())
    # The extremes are NaN or Inf if any element is, and need no array of flags.
    if array.size and not (np.isfinite(array.max()) and np.isfinite(array.min())):
        bad = int(np.flatnonzero(~np.isfinite(array.ravel()))[0])
        raise ModelError(
            "weight-not-finite",
            f"weight {value.name!r} holds {array.ravel()[bad]} (element {bad} of "
            f"{array.size}), and quantization needs finite numbers.",
            hint="Repair the weight, or leave the operators that use it out with exclude=.",
        )
    return array


def _behind_transpose(value: ir.Value) -> tuple[ir.Value, bool]:
    """Return the matrix that ``value`` is the transpose of, if a Transpose makes it."""
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose" or producer.domain:
        return value, False
    source = producer.inputs[0]
    tensor = tensor_of(source)
    if source is None or tensor is None or len(tensor.shape) != 2:
        return value, False
    perm = attribute(producer, "perm")
    if perm is not None and list(perm) != [1, 0]:
        return value, False
    return source, True


def _number(node: ir.Node, name: str) -> float:
    value = attribute(node, name, 1.0)
    assert isinstance(value, float | int), f"{name} of a Gemm is a number"
    return float(value)

"""Products with a constant matrix and the bias behind them, to be put side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.ir_access import use_count
from graphopt.rewrite import Reason

from .linear_layers import FLOATS
from .variance import operand

__all__ = ["Product", "biases_of", "product_of", "weights_of"]


@dataclasses.dataclass(frozen=True)
class Product:
    """A tensor times a matrix of its own, plus a bias.

    Attributes:
        node: ``MatMul`` or ``Gemm``.
        weight: The matrix, as it is stored.
        columns: How many it has.
        bias: What is added: [columns] or [1, columns]; ``None``: nothing.
        last: The node that computes the result: ``node``, or the ``Add`` behind it.
    """

    node: ir.Node
    weight: ir.TensorProtocol
    columns: int
    bias: ir.TensorProtocol | None
    last: ir.Node


def product_of(node: ir.Node, facts: Facts) -> Product | Reason | None:
    """Return ``node``, a ``MatMul`` or a ``Gemm``, as a product; the reason why it is none.

    Returns:
        ``None`` where what it multiplies with is not an initializer.
    """
    value = node.inputs[1]
    weight = tensor_of(value)
    if value is None or weight is None or not value.is_initializer():
        return None
    if use_count(value) != 1 or value.is_graph_output() or weight.dtype not in FLOATS:
        return Reason("its weight is not of floats, or has another use")
    if len(weight.shape) != 2 or not weight.size:
        return Reason("its weight is no matrix, or empty")
    columns = int(weight.shape.numpy()[0 if attribute(node, "transB", 0) else 1])
    if node.op_type == "Gemm":
        given = node.inputs[2] if len(node.inputs) > 2 else None
        bias = _bias(given, columns)
        if given is not None and bias is None:
            return Reason("its bias is not one number a column")
        return Product(node, weight, columns, bias, node)
    add = facts.only_use(node.outputs[0])
    if add is not None and add.op_type == "Add" and not add.domain and add.graph is node.graph:
        bias = _bias(operand(add, node.outputs[0]), columns)
        if bias is not None and bias.dtype == weight.dtype:
            return Product(node, weight, columns, bias, add)
    return Product(node, weight, columns, None, node)


def _bias(value: ir.Value | None, columns: int) -> ir.TensorProtocol | None:
    """Return the constant of one element a column that ``value`` is."""
    tensor = tensor_of(value)
    if tensor is None:
        return None
    return tensor if tuple(tensor.shape.numpy()) in ((columns,), (1, columns)) else None


def weights_of(products: Sequence[Product]) -> np.ndarray:
    """Return the weights side by side, as the first one is stored."""
    axis = 0 if attribute(products[0].node, "transB", 0) else 1
    return np.concatenate([one.weight.numpy() for one in products], axis=axis)


def biases_of(products: Sequence[Product]) -> np.ndarray:
    """Return the biases end to end, zeros where there is none."""
    kind = products[0].weight.dtype.numpy()
    each = [
        np.zeros(one.columns, kind) if one.bias is None else one.bias.numpy().reshape(-1)
        for one in products
    ]
    return np.concatenate(each)

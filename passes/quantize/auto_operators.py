"""Lists the operators whose precision a search chooses, and what is expected of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.qparams import Degenerate, IntType, from_range
from graphopt.calibration.ranges import noise_to_signal as activation_noise
from graphopt.calibration.statistics import TensorStatistics
from graphopt.passbase import Context

from .linear import Linear, read_linear
from .selection import label
from .table_form import read_table
from .weight_artifacts import rounding_noise, weight_scales

__all__ = ["Operator", "Scheme", "linear_of", "list_operators"]

Scheme: TypeAlias = Literal["static", "dynamic"]


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator with a weight, and what making it integer is expected to do.

    Attributes:
        name: Its label.
        op_type: Its type.
        noise: Energy of the error of its product over that of the product.
        work: Multiplications it takes, up to a factor that is the same for all; 0: a table.
        schemes: In which schemes it becomes integer.
    """

    name: str
    op_type: str
    noise: float
    work: float
    schemes: tuple[Scheme, ...]


def list_operators(
    model: ir.Model,
    static: Collection[ir.Node],
    statistics: Mapping[str, TensorStatistics],
    context: Context,
) -> list[Operator]:
    """Return the operators that can be integer in a scheme at least, in graph order.

    Args:
        model: The model.
        static: Operators that static quantization can make integer.
        statistics: Name of a value -> what it took on the samples.
        context: Knows the scales that weights were rounded with.
    """
    operators = []
    for node, data, x, axis in _weighted(model):
        schemes: list[Scheme] = []
        if node in static or x is None:
            schemes.append("static")
        if linear_of(node) is not None or x is None:
            schemes.append("dynamic")
        noise = rounding_noise(context, data, weight_scales(context, data, axis))
        work = 0.0
        if x is not None:
            stats = statistics.get(x.name or "")
            noise += _noise(stats)
            rows = stats.count / _channels(node, data, axis) if stats is not None else 1.0
            work = float(np.prod(_sizes(data))) * max(rows, 1.0)
        operators.append(Operator(label(node), node.op_type, noise, work, tuple(schemes)))
    return [operator for operator in operators if operator.schemes]


def linear_of(node: ir.Node) -> Linear | None:
    """Return ``node`` as a product with a constant weight, if it is one."""
    if node.domain or node.op_type not in ("MatMul", "Gemm"):
        return None
    found = read_linear(node)
    return found if isinstance(found, Linear) else None


def _weighted(
    model: ir.Model,
) -> Iterator[tuple[ir.Node, ir.Value, ir.Value | None, int]]:
    """Yield operator, weight, activation (``None`` for a table) and axis of the channels."""
    for node in model.graph:
        linear = linear_of(node)
        if linear is not None:
            yield node, linear.weight, linear.x, linear.channel_axis
        elif node.op_type == "Conv" and not node.domain:
            x, weight = node.inputs[0], node.inputs[1]
            if x is not None and weight is not None and weight.is_initializer():
                yield node, weight, x, 0
        elif node.op_type == "Gather" and not node.domain:
            table = read_table(node)
            if table is not None and hasattr(table, "table"):
                yield node, table.table, None, 0


def _channels(node: ir.Node, weight: ir.Value, axis: int) -> float:
    """Return how many elements of the input go into one position."""
    sizes = _sizes(weight)
    if node.op_type == "Conv":
        return float(sizes[1] * int(node.attributes.get_int("group", 1)))
    return float(sizes[1 - axis])


def _sizes(weight: ir.Value) -> tuple[int, ...]:
    tensor = tensor_of(weight)
    assert tensor is not None
    return tuple(tensor.shape.numpy())


def _noise(stats: TensorStatistics | None) -> float:
    if stats is None or not stats.count or stats.not_finite:
        return 0.0
    try:
        qparams = from_range(stats.low, stats.high, IntType.UINT8)
    except Degenerate:
        return 0.0
    return activation_noise(stats, qparams)

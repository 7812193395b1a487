"""Quantized layers with a bias that can be corrected, and the means of their channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.rewrite import Reason

__all__ = ["BiasLayer", "ChannelMeans", "levels", "read_bias_layer"]


class ChannelMeans:
    """Means of the channels of a tensor, whatever the number of samples.

    Attributes:
        axis: The channel axis.
        total: float64 ``[C]``, sum of each channel.
        count: Elements of a channel.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total = np.zeros(0)
        self.count = 0

    def update(self, values: npt.NDArray[Any], feed: int = 0) -> None:
        """Take in an array."""
        del feed
        if values.size == 0:
            return
        rows = np.moveaxis(values, self.axis, -1).reshape(-1, values.shape[self.axis])
        self._add(rows.sum(axis=0, dtype=np.float64), len(rows))

    def merge(self, other: ChannelMeans) -> None:
        """Add what ``other`` has taken in."""
        if other.count:
            self._add(other.total, other.count)

    def _add(self, total: npt.NDArray[np.float64], count: int) -> None:
        self.total = total if not self.count else self.total + total
        self.count += count

    def mean(self) -> npt.NDArray[np.float64]:
        """Return the mean of each channel."""
        return self.total / max(self.count, 1)


@dataclasses.dataclass(frozen=True)
class BiasLayer:
    """A layer that multiplies with integers, and where its bias is.

    Attributes:
        node: Conv, Gemm or MatMul.
        user: The operator that adds the bias: the node itself, or an Add behind it.
        index: Which input of ``user`` it is.
    """

    node: ir.Node
    user: ir.Node
    index: int

    @property
    def result(self) -> ir.Value:
        """What it computes, with its bias."""
        return self.user.outputs[0]

    @property
    def axis(self) -> int:
        """The channel axis of ``result``."""
        return 1 if self.node.op_type == "Conv" else -1

    @property
    def bias(self) -> ir.Value | None:
        """The bias, or the DequantizeLinear output that stands for it; ``None``: none."""
        inputs = self.user.inputs
        return inputs[self.index] if len(inputs) > self.index else None


def read_bias_layer(node: ir.Node) -> BiasLayer | Reason | None:
    """Return ``node`` as a quantized layer; ``None`` where it does not run on integers."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    operands = [_dequantize(value) for value in node.inputs[:2]]
    if None in operands:
        return None
    weight = operands[1]
    assert weight is not None
    if tensor_of(weight.inputs[0]) is None:
        return None
    if node.op_type != "MatMul":
        layer = BiasLayer(node, node, 2)
    else:
        uses = node.outputs[0].uses()
        user = next(iter(uses)).node if len(uses) == 1 else None
        if user is None or user.op_type != "Add" or node.outputs[0].is_graph_output():
            return Reason("it has no bias")
        layer = BiasLayer(node, user, 1 - next(iter(uses)).idx)
    bias = layer.bias
    if bias is None:
        return layer
    dequantize = _dequantize(bias)
    constant = bias if dequantize is None else dequantize.inputs[0]
    tensor = tensor_of(constant)
    if tensor is None:
        return Reason("its bias is not constant")
    if tensor.size == 1:
        return Reason("its bias is one number for all channels")
    if tensor.size != tensor.shape[-1]:
        return Reason("its bias is not one number a channel")
    return layer


def levels(layers: Iterable[BiasLayer], graph: ir.Graph) -> list[list[BiasLayer]]:
    """Return the layers by depth: those of a level do not depend on each other."""
    by_node = {layer.node: layer for layer in layers}
    depth: dict[ir.Node, int] = {}
    found: dict[int, list[BiasLayer]] = {}
    for node in graph:
        above = max((depth.get(before, 0) for before in node.predecessors()), default=0)
        depth[node] = above + (node in by_node)
        if node in by_node:
            found.setdefault(above, []).append(by_node[node])
    return [found[level] for level in sorted(found)]


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "DequantizeLinear" or producer.domain:
        return None
    return producer

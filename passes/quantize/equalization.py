"""Finds layers whose channels can be scaled against each other, and the best scales.

Reference: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1, equations 9 to 11.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.rewrite import Reason

from .layer_weights import (
    groups_of,
    input_range,
    output_range,
    own_weight,
    scale_inputs,
    scale_outputs,
)
from .linear import finite_array
from .units import Unit

__all__ = ["Pair", "best_scales", "read_pair"]

_Floats: TypeAlias = npt.NDArray[np.float64]

_HOMOGENEOUS = frozenset({"Identity", "LeakyRelu", "PRelu", "Relu"})
"""``f(s x) = s f(x)`` for s > 0, element by element."""
_POOLING = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
ROUNDS = 40
"""Rounds over all pairs; with the paper's rule a chain of layers settles in a few."""
LIMIT = 1e4
"""Largest factor: products stay far from overflow and from subnormal numbers."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer, and those that read its channels.

    Attributes:
        first: The layer whose outputs are divided by the scales.
        seconds: The layers whose inputs are multiplied by them.
    """

    first: Unit
    seconds: tuple[Unit, ...]


def read_pair(first: Unit, layers: Mapping[ir.Node, Unit]) -> Pair | Reason:
    """Return ``first`` with all the layers behind it, or why its channels must stay.

    Args:
        first: A layer.
        layers: All layers that may be changed, by their operator.
    """
    if not own_weight(first):
        return Reason("another operator uses its weight")
    value = first.result
    # Channels are axis 1 behind a Conv, the last axis behind a product.
    is_image = first.node.op_type == "Conv"
    while True:
        if value.is_graph_output():
            return Reason("its result is a graph output")
        users = [user for user, _ in value.uses()]
        if users and all(user in layers for user in users):
            break
        if len(users) != 1:
            return Reason("its result is used by several operators, not all of them layers")
        user = users[0]
        if user.domain or user.graph is not value.graph or user.inputs[0] is not value:
            return Reason(f"{user.op_type} reads its result")
        if user.op_type == "Flatten" and is_image and _has_one_pixel(value):
            is_image = False
        elif user.op_type == "Clip":
            return Reason("a Clip behind it has bounds that do not scale with the channels")
        elif user.op_type not in _HOMOGENEOUS and not (is_image and user.op_type in _POOLING):
            return Reason(f"{user.op_type} behind it does not commute with scaling")
        value = user.outputs[0]
    seconds = tuple(layers[user] for user in dict.fromkeys(users))
    channels = len(output_range(first, finite_array(_weight(first))))
    for second in seconds:
        if second.node is first.node or not own_weight(second):
            return Reason("another operator uses the weight of a layer behind it")
        if second.node.inputs[0] is not value or (second.node.op_type == "Conv") != is_image:
            return Reason("a layer behind it does not read its channels as channels")
        if _inputs_of(second) != channels:
            return Reason("a layer behind it does not read its channels as channels")
    return Pair(first, seconds)


def best_scales(pairs: Sequence[Pair]) -> list[_Floats]:
    """Return s of each pair, ``[channels]``: first / s and second * s have equal ranges.

    A layer may be the second of one pair and the first of the next, so all are gone over until
    none changes (paper, section 4.1.2).
    """
    units = {unit.node: unit for pair in pairs for unit in (pair.first, *pair.seconds)}
    weights = {
        node: finite_array(_weight(unit)).astype(np.float64) for node, unit in units.items()
    }
    total = [
        np.ones(len(output_range(pair.first, weights[pair.first.node]))) for pair in pairs
    ]
    for _ in range(ROUNDS):
        largest = 0.0
        for index, pair in enumerate(pairs):
            scale = _scale(pair, weights)
            scale = np.clip(total[index] * scale, 1 / LIMIT, LIMIT) / total[index]
            total[index] = total[index] * scale
            largest = max(largest, float(np.abs(np.log(scale)).max(initial=0.0)))
            first = pair.first
            weights[first.node] = scale_outputs(first, weights[first.node], 1 / scale)
            for second in pair.seconds:
                weights[second.node] = scale_inputs(second, weights[second.node], scale)
        if largest < 1e-3:
            break
    return total


def _scale(pair: Pair, weights: Mapping[ir.Node, _Floats]) -> _Floats:
    """Return ``s = sqrt(r1 / r2)``, which is equation 11: ``s = sqrt(r1 r2) / r2``."""
    first = output_range(pair.first, weights[pair.first.node])
    second = _largest(input_range(one, weights[one.node]) for one in pair.seconds)
    # A channel of zeros can have any scale.
    alive = (first > 0) & (second > 0)
    return np.sqrt(np.where(alive, first, 1.0) / np.where(alive, second, 1.0))


def _largest(ranges: Iterable[_Floats]) -> _Floats:
    return np.asarray(np.max(np.stack(list(ranges)), axis=0))


def _weight(unit: Unit) -> ir.Value:
    assert unit.weight is not None
    return unit.weight.value


def _inputs_of(unit: Unit) -> int:
    assert unit.weight is not None
    shape = finite_array(unit.weight.value).shape
    if unit.node.op_type != "Conv":
        return int(shape[1 - unit.weight.axis])
    return int(shape[1]) * groups_of(unit)


def _has_one_pixel(value: ir.Value) -> bool:
    """Whether all axes of ``value`` behind the channels are known to have one entry."""
    return value.shape is not None and all(dim == 1 for dim in value.shape[2:])

"""Finds the layers whose sums saturate on CPUs without VNNI."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.collect import accumulate
from graphopt.calibration.qparams import QParams
from graphopt.passbase import Context
from graphopt.rewrite import Reason
from graphopt.samples import Samples

from .product_layer import ProductLayer, read_geometry
from .saturation import PairSums
from .units import Unit

__all__ = ["saturating_layers"]


class _Readers:
    """The layers that read one tensor."""

    def __init__(self) -> None:
        self.layers: dict[str, PairSums] = {}

    def update(self, values: npt.NDArray[Any], feed: int) -> None:
        for sums in self.layers.values():
            sums.update(values, feed)

    def merge(self, other: _Readers) -> None:
        for name, sums in self.layers.items():
            sums.merge(other.layers[name])


def saturating_layers(
    model: ir.Model,
    units: Iterable[Unit],
    qparams: Callable[[Unit], tuple[QParams, QParams]],
    samples: Samples,
    context: Context,
) -> dict[ir.Node, int]:
    """Return the operators some of whose pair sums saturate, and how many do.

    Args:
        model: The float model.
        units: The operators that will run on integers; those without weights do not count.
        qparams: Returns how the input of an operator and its weight are quantized.
        samples: What to run the model on.
        context: What the passes share.
    """
    readers: dict[str, _Readers] = {}
    nodes: dict[str, ir.Node] = {}
    for unit in units:
        if unit.weight is None:
            continue
        geometry = read_geometry(unit)
        if isinstance(geometry, Reason):
            geometry = read_geometry(unit, keep_pads=False)
        assert not isinstance(geometry, Reason)
        layer = ProductLayer(unit, geometry)
        # A depthwise convolution has a kernel without pair sums.
        if geometry is not None and layer.shape[1] == 1 and geometry.groups > 1:
            continue
        activation, weight = qparams(unit)
        integers = weight.quantize(layer.array())
        sums = PairSums(_in_kernel_order(integers, layer), activation, geometry)
        key = str(len(nodes))
        nodes[key] = unit.node
        readers.setdefault(layer.x.name or "", _Readers()).layers[key] = sums
    if not readers:
        return {}
    found = accumulate(model, readers, samples, context)
    counts = {key: sums for one in found.values() for key, sums in one.layers.items()}
    return {
        node: counts[key].saturated for key, node in nodes.items() if counts[key].saturated
    }


def _in_kernel_order(
    weight: npt.NDArray[np.int8], layer: ProductLayer
) -> npt.NDArray[np.int8]:
    """Return a weight as ``[groups, K, N]``, the channels of a Conv running fastest."""
    if layer.geometry is None:
        return np.asarray(layer.as_products(weight))
    rows = np.moveaxis(weight, 1, -1).reshape(layer.geometry.groups, -1, layer.inputs)
    return rows.transpose(0, 2, 1)

"""Layers as sums of products: what a Conv and a MatMul have in common."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of
from graphopt.rewrite import Reason

from .layer_weights import groups_of
from .linear import finite_array
from .patch_gram import Geometry
from .units import Unit

__all__ = ["ProductLayer", "read_geometry"]

_Array: TypeAlias = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class ProductLayer:
    """A layer whose weight is looked at as ``[groups, K, N]``: N sums of K products each."""

    unit: Unit
    geometry: Geometry | None

    @property
    def x(self) -> ir.Value:
        """Its input."""
        x = self.unit.node.inputs[0]
        assert x is not None
        return x

    @property
    def axis(self) -> int:
        """Axis of the stored weight that runs over the outputs."""
        assert self.unit.weight is not None
        return self.unit.weight.axis

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight as it is stored."""
        assert self.unit.weight is not None
        tensor = tensor_of(self.unit.weight.value)
        assert tensor is not None
        return tuple(int(size) for size in tensor.shape.numpy())

    @property
    def column(self) -> tuple[int, ...]:
        """Shape that a vector of one entry an output takes against the stored weight."""
        return tuple(-1 if axis == self.axis else 1 for axis in range(len(self.shape)))

    @property
    def inputs(self) -> int:
        """K."""
        return math.prod(self.shape) // self.shape[self.axis]

    def array(self) -> npt.NDArray[np.float32]:
        """Return the weight as it is stored."""
        assert self.unit.weight is not None
        return finite_array(self.unit.weight.value)

    def as_products(self, stored: _Array) -> _Array:
        """Return what is laid out like the weight as ``[groups, K, N]``."""
        if self.geometry is None:
            return (stored.T if self.axis == 0 else stored)[None]
        groups = self.geometry.groups
        return stored.reshape(groups, stored.shape[0] // groups, -1).transpose(0, 2, 1)

    def as_stored(self, products: _Array) -> _Array:
        """Return ``[groups, K, N]`` laid out like the weight."""
        if self.geometry is None:
            (product,) = products
            return np.asarray(product.T if self.axis == 0 else product)
        return products.transpose(0, 2, 1).reshape(self.shape)


def read_geometry(unit: Unit, *, keep_pads: bool = True) -> Geometry | Reason | None:
    """Return the geometry of a Conv, ``None`` for a product.

    Args:
        unit: The layer.
        keep_pads: Whether zeros around the input matter; a Conv whose pads depend on the size
            of its input has a geometry only if they do not.
    """
    node = unit.node
    if node.op_type != "Conv":
        return None
    if keep_pads and attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return Reason("its pads depend on the size of its input (auto_pad)")
    assert unit.weight is not None
    kernel = finite_array(unit.weight.value).shape[2:]
    ones, no_pads = (1,) * len(kernel), (0,) * 2 * len(kernel)
    return Geometry(
        tuple(kernel),
        tuple(attribute(node, "strides", ones)),
        tuple(attribute(node, "dilations", ones)),
        tuple(attribute(node, "pads", no_pads) if keep_pads else no_pads),
        groups_of(unit),
    )

"""The values of indices that do not depend on the input of the model.

An index whose weights are all zero has the value of its bias, and then whatever activations,
scales and pools on the way make of it. The values are computed by onnxruntime, operator by
operator, on one number an index; at an operator that is not understood they are unknown.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.coupling.elementwise import NARY, UNARY
from graphopt.analysis.coupling.graph import Coupling, Site
from graphopt.analysis.coupling.groups import Dimensions, Group
from graphopt.analysis.coupling.rules import Axis
from graphopt.errors import ExecutionError
from graphopt.runtime import Runtime

__all__ = ["constant_values"]

# fmt: off
_LAYOUT = frozenset({
    "Concat", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool",
    "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})
# fmt: on
"""Operators that leave a value that is the same everywhere as it is. What MaxPool pads with is
less than any number."""

_SUMS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": -1}
"""Operators whose outputs are a bias where the weights are zero, and which input that is."""


def constant_values(
    dimensions: Dimensions, group: Group, runtime: Runtime
) -> dict[ir.Value, np.ndarray]:
    """Return value -> the constant at every index of ``group``, NaN where it is none.

    Args:
        dimensions: The groups of the model.
        group: One whose indices stand alone.
        runtime: Computes the activations.
    """
    return _Propagation(dimensions, group, runtime).run()


class _Propagation:
    def __init__(self, dimensions: Dimensions, group: Group, runtime: Runtime) -> None:
        self._dimensions = dimensions
        self._coupling: Coupling = dimensions.coupling
        self._group = group
        self._runtime = runtime
        self._position = np.full(dimensions.atom_count, -1, np.int64)
        self._position[group.atoms] = np.arange(group.size)
        self._sites = {use: site for site in self._coupling.sites for use in site.uses}
        self._known: dict[ir.Value, np.ndarray] = {}

    def run(self) -> dict[ir.Value, np.ndarray]:
        axes = self._dimensions.axes_of(self._group)
        nodes: dict[ir.Node, None] = {}
        for value, of_value in self._coupling.axes.items():
            producer = value.producer()
            if producer is not None and any(axis in axes for axis in of_value):
                nodes[producer] = None
        # The analysis went through the graph in order.
        for node in nodes:
            result = self._value(node)
            if result is not None and not np.isnan(result).all():
                for value in node.outputs:
                    self._known[value] = result
        return self._known

    def _value(self, node: ir.Node) -> np.ndarray | None:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        if name in _SUMS:
            return self._sum(node)
        if name in _LAYOUT:
            return self._same(node)
        if name == "AveragePool":
            padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET")
            return self._same(node) if padded in (False, "NOTSET") else None
        if name == "BatchNormalization" or name in UNARY or name in NARY:
            return self._elementwise(node)
        return None

    def _same(self, node: ir.Node) -> np.ndarray | None:
        """Return the values that all inputs agree on; each index comes from one of them."""
        found = np.full(self._group.size, np.nan)
        for index, value in enumerate(node.inputs):
            if value is None or not self._has_group(node, index):
                continue
            known = self._known.get(value)
            if known is None:
                known = np.full(self._group.size, np.nan)
            mine = self._indices(node, index)
            found[mine] = known[mine]
        return found

    def _indices(self, node: ir.Node, index: int) -> np.ndarray:
        """Return which indices of the group occur in an input."""
        there = np.zeros(self._group.size, bool)
        value, site = node.inputs[index], self._sites.get((node, index))
        axes = site.axes if site is not None else ()
        if value is not None:
            axes = self._coupling.axes.get(value, axes)
        for axis in axes:
            if axis.rows is not None and axis.size != 1:
                where = self._position[self._dimensions.rows(axis)]
                there[where[where >= 0]] = True
        return there

    def _has_group(self, node: ir.Node, index: int) -> bool:
        return bool(self._indices(node, index).any())

    def _sum(self, node: ir.Node) -> np.ndarray | None:
        """Return the bias where the weights that make an index are zero."""
        found: np.ndarray | None = None
        for index in (0, 1):
            site = self._sites.get((node, index))
            number = self._axis(site, node) if site is not None else None
            if site is None or number is None:
                continue
            position = self._place(site.axes[number])
            data = np.moveaxis(site.tensor.numpy(), number, 0)
            zero = ~data.reshape(len(data), -1).any(axis=1)
            found = np.full(self._group.size, np.nan)
            mine = (position >= 0) & zero
            found[position[mine]] = 0.0
        bias = _SUMS[node.op_type]
        if found is None or not 0 < bias < len(node.inputs) or node.inputs[bias] is None:
            return found
        added = self._vector(node, bias)
        if added is None:
            return None
        return np.asarray(found + added * float(attribute(node, "beta", 1.0)))

    def _axis(self, site: Site, node: ir.Node) -> int | None:
        """Return the axis of a weight that makes the group's indices at ``node``."""
        made = set(self._coupling.axes.get(node.outputs[0], ()))
        for number, axis in enumerate(site.axes):
            if axis in made and axis.size != 1 and (self._place(axis) >= 0).any():
                return number
        return None

    def _place(self, axis: Axis) -> np.ndarray:
        return np.asarray(self._position[self._dimensions.rows(axis)].max(axis=1))

    def _vector(self, node: ir.Node, index: int) -> np.ndarray | None:
        """Return one number an index of an input; NaN where it is not constant."""
        value = node.inputs[index]
        assert value is not None
        if value in self._known:
            return self._known[value]
        if not self._coupling.is_constant(value):
            return np.full(self._group.size, np.nan)
        # As it was analysed: groups that were cut since have made it smaller.
        site = self._sites.get((node, index))
        data = self._coupling.constant(value) if site is None else site.tensor.numpy()
        if data.size == 1:
            return np.full(self._group.size, data.reshape(-1)[0], np.float64)
        if site is None or sum(axis.size != 1 for axis in site.axes) != 1:
            return None
        (axis,) = (axis for axis in site.axes if axis.size != 1)
        position = self._place(axis)
        found = np.full(self._group.size, np.nan)
        found[position[position >= 0]] = data.reshape(-1)[position >= 0]
        return found

    def _elementwise(self, node: ir.Node) -> np.ndarray | None:
        vectors: list[np.ndarray | None] = []
        unknown = np.zeros(self._group.size, bool)
        for index, value in enumerate(node.inputs):
            if value is None:
                vectors.append(None)
                continue
            vector = self._vector(node, index)
            if vector is None:
                return None
            unknown |= np.isnan(vector)
            vectors.append(np.nan_to_num(vector).astype(np.float32))
        if node.op_type == "Mul" and unknown.any():
            # Zero times anything finite is zero.
            zero = np.zeros(self._group.size, bool)
            for index in range(2):
                known = self._vector(node, index)
                zero |= known == 0 if known is not None else False
            unknown &= ~zero
        if unknown.all():
            return None
        if node.op_type == "BatchNormalization":
            # One row, the indices are its channels.
            vectors[0] = None if vectors[0] is None else vectors[0][None]
        try:
            opset = self._coupling.model.opset_imports
            result = self._runtime.evaluate(node, vectors, opset)[0].reshape(-1)
        except ExecutionError:
            return None
        return np.where(unknown, np.nan, result.astype(np.float64))

"""Layer and RMS normalization, by what they compute.

``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon)``, or the same without the means of x,
along the last axes, maybe multiplied by a scale and shifted by a bias.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.edit import Edit
from graphopt.rewrite import Reason

from .formulas import number, outside_use
from .variance import Variance, find_variance, operand, producer

__all__ = ["ROOTS", "Normalization", "find_normalization"]

ROOTS = ("Pow", "Sqrt")
"""Operators that ``find_normalization`` looks at."""

TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
MAX_ONES = 1 << 14
"""Where there is no scale, the operators take ones; more than this many are not added."""


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``output = (x - mean) / sqrt(variance + epsilon) * scale + bias`` along the last axes.

    Attributes:
        x: What is normalized.
        output: What is computed.
        sizes: Sizes of the normalized axes, the last of ``x``.
        epsilon: What is added to the variance.
        centered: Whether the mean is subtracted; not in RMS normalization.
        scale: A factor an element of the axes; ``None``: 1.
        bias: A summand an element of the axes; ``None``: 0.
        square: The node that squares.
        root: The node that takes the root.
        nodes: What computes it, from the front; nothing else uses their results.
    """

    x: ir.Value
    output: ir.Value
    sizes: tuple[int, ...]
    epsilon: float
    centered: bool
    scale: ir.Value | None
    bias: ir.Value | None
    square: ir.Node
    root: ir.Node
    nodes: tuple[ir.Node, ...]

    @property
    def behind_root(self) -> tuple[ir.Node, ...]:
        """The nodes behind the root."""
        return self.nodes[self.nodes.index(self.root) + 1 :]

    @property
    def last(self) -> ir.Node:
        """The node that computes the output."""
        node = self.output.producer()
        assert node is not None
        return node

    def refusal(self) -> Reason | None:
        """Return why no operator is to compute it, if none is."""
        if self.x.dtype not in TYPES:
            return Reason(f"its means would be computed in float32, not in {self.x.dtype}")
        if self.scale is None and math.prod(self.sizes) > MAX_ONES:
            return Reason("it would add too many ones to the file")
        return None

    def become(self, edit: Edit, op_type: str) -> None:
        """Let the operator ``op_type`` compute it."""
        bias = None if self.bias is None else self._flat(edit, self.bias)
        (y,) = edit.node(
            op_type,
            [self.x, self.scale_in(edit), bias],
            before=self.last,
            attributes={"axis": -len(self.sizes), "epsilon": self.epsilon},
            like=[self.output],
        )
        edit.supersede(self.last, y)
        edit.remove(*self.nodes)

    def scale_in(self, edit: Edit) -> ir.Value:
        """Return the scale, of the shape ``sizes``; made where there is none."""
        if self.scale is not None:
            return self._flat(edit, self.scale)
        assert self.x.dtype is not None
        ones = np.ones(self.sizes, self.x.dtype.numpy())
        return edit.constant(ones, f"{self.x.name}_scale", near=self.last)

    def _flat(self, edit: Edit, value: ir.Value) -> ir.Value:
        """Drop the leading dimensions of size 1 that some exporters give a constant."""
        tensor = tensor_of(value)
        if tensor is None or tuple(tensor.shape.numpy()) == self.sizes:
            return value
        data = tensor.numpy().reshape(self.sizes)
        return edit.constant(data, value.name or "vector", near=self.last)


def find_normalization(node: ir.Node, facts: Facts) -> Normalization | Reason | None:
    """Return the normalization that ``node``, a ``Sqrt`` or a ``Pow``, takes the root of.

    Returns:
        ``None`` where it is not the root of a mean square.
    """
    found = find_variance(node, facts)
    if found is None or isinstance(found, Reason):
        return found
    climb = _Climb(found, facts)
    if not climb.divide():
        return Reason("it does not divide what it is the deviation of")
    climb.scale_and_shift()
    before, after = facts.shape(found.x), facts.shape(climb.value)
    if before is None or after is None or len(before) != len(after):
        return Reason("a constant adds a dimension")
    nodes = tuple(dict.fromkeys([*found.nodes, *climb.nodes]))
    result = Normalization(
        x=climb.x,
        output=climb.value,
        sizes=found.sizes,
        epsilon=found.epsilon,
        centered=found.mean is not None,
        scale=climb.scale,
        bias=climb.bias,
        square=found.square,
        root=node,
        nodes=nodes,
    )
    return outside_use(nodes, climb.value) or result


class _Climb:
    """Walks from the root to the output: the division, then scale and bias."""

    def __init__(self, variance: Variance, facts: Facts) -> None:
        self._variance = variance
        self._facts = facts
        self.x = variance.x
        self.value = variance.value
        self.scale: ir.Value | None = None
        self.bias: ir.Value | None = None
        self.nodes: list[ir.Node] = []

    def divide(self) -> bool:
        """Find what the root divides, or what its inverse, maybe scaled, is multiplied by."""
        variance = self._variance
        user = self._facts.only_use(self.value)
        if not variance.inverse:
            if user is None or user.domain:
                return False
            if user.op_type == "Div" and user.inputs[0] is variance.deviation:
                return self._take(user)
            one = user.op_type == "Reciprocal" or (
                user.op_type == "Div" and number(user.inputs[0]) == 1.0
            )
            if not one:
                return False
            self._take(user)
        user = self._user("Mul")
        if user is None:
            return self._divide_apart()
        other = operand(user, self.value)
        if other is not variance.deviation:
            if not self._is_vector(other):
                return False
            self.scale = other
            self._take(user)
            user = self._user("Mul")
            if user is None:
                return self._divide_apart()
            if operand(user, self.value) is not variance.deviation:
                return False
        return self._take(user)

    def _divide_apart(self) -> bool:
        """Match ``x * r + (bias - mean * r)``, as TensorFlow spells it."""
        variance, r = self._variance, self.value
        if variance.mean is None:
            return False
        users = {operand(user, r): user for user in r.consumers() if user.op_type == "Mul"}
        scaled, shift = users.get(variance.x), users.get(variance.mean)
        if scaled is None or shift is None or len(r.uses()) != 2:
            return False
        sub = self._facts.only_use(shift.outputs[0])
        add = self._facts.only_use(scaled.outputs[0])
        if sub is None or sub.op_type != "Sub" or sub.inputs[1] is not shift.outputs[0]:
            return False
        if add is None or add.op_type != "Add" or not self._is_vector(sub.inputs[0]):
            return False
        if operand(add, scaled.outputs[0]) is not sub.outputs[0]:
            return False
        self.bias = sub.inputs[0]
        self.nodes += [scaled, shift, sub]
        return self._take(add)

    def scale_and_shift(self) -> None:
        """Go on over the multiplication with a scale and the addition of a bias."""
        self._cast_back()
        if self.scale is None and self.bias is None:
            user = self._user("Mul")
            if user is not None and self._is_vector(operand(user, self.value)):
                self.scale = operand(user, self.value)
                self._take(user)
        if self.bias is None and self._variance.mean is not None:
            user = self._user("Add")
            if user is not None and self._is_vector(operand(user, self.value)):
                self.bias = operand(user, self.value)
                self._take(user)

    def _cast_back(self) -> None:
        """Go on over a cast to float16 where x was cast from float16: it is computed so."""
        source, user = producer(self.x, "Cast"), self._user("Cast")
        half = source.inputs[0] if source is not None else None
        if half is None or user is None or self.scale is not None or self.bias is not None:
            return
        if half.dtype == ir.DataType.FLOAT16 and attribute(user, "to") == half.dtype:
            self.x = half
            self._take(user)

    def _take(self, node: ir.Node) -> bool:
        self.nodes.append(node)
        self.value = node.outputs[0]
        return True

    def _user(self, op_type: str) -> ir.Node | None:
        user = self._facts.only_use(self.value)
        return user if user is not None and _is(user, op_type) else None

    def _is_vector(self, value: ir.Value | None) -> bool:
        """Whether ``value`` has one element an element of the axes, and no dimension more."""
        sizes, tensor = self._variance.sizes, tensor_of(value)
        if tensor is None:
            return value is not None and self._facts.shape(value) == sizes
        rank = len(self._facts.shape(self._variance.x) or ())
        shape = tuple(tensor.shape.numpy())
        extra = len(shape) - len(sizes)
        return extra >= 0 and len(shape) <= rank and shape == (1,) * extra + sizes


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and not node.domain

"""What a rule's fix may ask and do when axes have become shorter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.numbers import Number, Numbers
from graphopt.analysis.dims import dims_of
from graphopt.analysis.facts import attribute, tensor_of
from graphopt.edit import AttributeValue, Edit

if TYPE_CHECKING:
    from graphopt.analysis.coupling.rules import Axis

__all__ = ["Cut", "Defers", "Lengths"]

Defers: TypeAlias = "Callable[[Cut, int, int], bool]"
"""Whether an element of a shape, at a position and with a value, lets the input decide."""


@dataclasses.dataclass
class Lengths:
    """Which indices are left, before and after one application.

    Attributes:
        before: Axis -> which of its original indices were left before, bool ``[size]``.
        after: The same after it.
        numbers: What the elements of patched inputs are now: (node, input) -> numbers.
        kind_of: Returns the element type of a value; ``None`` where it is unknown.
    """

    before: Callable[[Axis], np.ndarray]
    after: Callable[[Axis], np.ndarray]
    numbers: dict[tuple[ir.Node, int], Numbers]
    kind_of: Callable[[ir.Value], ir.DataType | None]


class Cut:
    """One node of one application of the compaction."""

    def __init__(
        self, edit: Edit, node: ir.Node, lengths: Lengths, original: dict[int, Numbers | None]
    ) -> None:
        self.edit = edit
        self.node = node
        self.lengths = lengths
        self._original = original

    def length(self, axis: Axis) -> int:
        """Return the new length of ``axis``."""
        return 1 if axis.size == 1 else int(self.lengths.after(axis).sum())

    def kept(self, axis: Axis) -> np.ndarray:
        """Return which of the indices that were left are kept: positions, ascending."""
        return np.nonzero(self.lengths.after(axis)[self.lengths.before(axis)])[0]

    def alive(self, axis: Axis) -> np.ndarray:
        """Return which of the original indices of ``axis`` are kept: bool ``[size]``."""
        return self.lengths.after(axis)

    def set_attribute(self, name: str, value: AttributeValue | None) -> None:
        """Set an attribute of the node, unless it has this value; ``None`` removes it."""
        if attribute(self.node, name) != value:
            self.edit.set_attribute(self.node, name, value)

    def set_vector(self, index: int, values: Sequence[int], kind: np.dtype) -> None:
        """Give input ``index`` a constant vector, unless it has this value."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        tensor = tensor_of(value)
        if tensor is None or tensor.numpy().tolist() != list(values):
            self._set_input(index, np.array(values, kind))

    def set_bound(self, index: int, position: int, bound: int, length: int, name: str) -> None:
        """Let a bound of a Slice, an input or an element of ``name``, mean ``bound``.

        Args:
            index: The input that holds it, where it is an input.
            position: Which element.
            bound: What it must mean, counted from the front.
            length: New length of the axis.
            name: The attribute that holds it in old operator sets.
        """
        values = attribute(self.node, name)
        if isinstance(values, Sequence):
            if _meaning(values[position], length) != bound:
                new = [bound if i == position else int(v) for i, v in enumerate(values)]
                self.edit.set_attribute(self.node, name, new)
            return
        numbers = self.numbers(index)
        now = self._now(numbers, position)
        if now is None or _meaning(now, length) != bound:
            assert numbers is not None, "only bounds that are followed are kept"
            self._patch(index, {position: bound}, numbers.size)

    def numbers(self, index: int) -> Numbers | None:
        """Return the elements of input ``index`` as they are now, where they are followed."""
        key = (self.node, index)
        return self.lengths.numbers.get(key, self._original.get(index))

    def set_lengths(
        self, index: int, axes: Sequence[Axis], first: int, defers: Defers | None = None
    ) -> None:
        """Let elements ``first``... of input ``index`` be the lengths of ``axes``."""
        numbers = self.numbers(index)
        wanted: dict[int, int] = {}
        for position, axis in enumerate(axes, first):
            if axis.rows is None:
                continue
            length = self.length(axis)
            value = self._now(numbers, position)
            if value == length or (
                defers is not None and value is not None and defers(self, position, value)
            ):
                continue
            wanted[position] = length
        if wanted:
            self._patch(index, wanted, first + len(axes))

    def keep_value(self, index: int) -> None:
        """Let input ``index``, computed from lengths, have the value it always had."""
        numbers = self.numbers(index)
        assert numbers is not None, "only what is followed can be kept"
        flat = numbers.reshape(-1)
        wanted = {
            position: number.value
            for position, number in enumerate(flat)
            if number.axes and self._now(numbers, position) != number.value
        }
        if wanted:
            self._patch(index, wanted, len(flat))

    def _now(self, numbers: Numbers | None, position: int) -> int | None:
        if numbers is None:
            return None
        number: Number = numbers.reshape(-1)[position]
        value = number.computed_with(self.length)
        return None if value is None else int(value)

    def _patch(self, index: int, wanted: Mapping[int, float], size: int) -> None:
        """Replace some elements of a small input by constants."""
        value = self.node.inputs[index]
        assert value is not None
        numbers = self.numbers(index)
        flat = [None] * size if numbers is None else list(numbers.reshape(-1))
        new = [
            wanted[position] if position in wanted else _fixed_value(number)
            for position, number in enumerate(flat)
        ]
        patched = [
            Number(wanted[position]) if position in wanted else number or Number(None)
            for position, number in enumerate(flat)
        ]
        shape = (size,) if numbers is None else numbers.shape
        known = self.lengths.kind_of(value)
        kind = known.numpy() if known is not None else np.dtype(np.int64)
        if None not in new:
            self._set_input(index, np.array(new, kind).reshape(shape))
        else:
            self._splice(index, value, wanted, size, kind)
        state = np.empty(size, object)
        state[:] = patched
        self.lengths.numbers[self.node, index] = state.reshape(shape)

    def _set_input(self, index: int, data: np.ndarray) -> None:
        old = self.node.inputs[index] if index < len(self.node.inputs) else None
        name = (old.name if old is not None else "") or f"{self.node.name or 'node'}_sizes"
        self.edit.set_input(self.node, index, self.edit.constant(data, name, near=self.node))
        if old is not None:
            drop_unused(self.edit, old)

    def _splice(
        self,
        index: int,
        value: ir.Value,
        wanted: Mapping[int, float],
        size: int,
        kind: np.dtype,
    ) -> None:
        """Put constants between elements that are computed at run time."""
        producer = value.producer()
        parts: list[ir.Value] = []
        if producer is not None and producer.op_type == "Concat" and not producer.domain:
            parts = self._replaced_parts(producer, wanted, kind)
        parts = parts or self._gathered_parts(value, wanted, size, kind)
        (new,) = self.edit.node(
            "Concat", parts, before=self.node, attributes={"axis": 0}, like=[value]
        )
        self.edit.set_type(new, ir.TensorType(ir.DataType.from_numpy(kind)), ir.Shape([size]))
        self.edit.set_input(self.node, index, new)
        drop_unused(self.edit, value)

    def _replaced_parts(
        self, producer: ir.Node, wanted: Mapping[int, float], kind: np.dtype
    ) -> list[ir.Value]:
        """Return the inputs of a Concat with new constants; nothing where that is not it."""
        parts: list[ir.Value] = []
        position = 0
        for part in producer.inputs:
            tensor = tensor_of(part)
            if part is None:
                return []
            dims = [tensor.size] if tensor is not None else dims_of(part)
            if dims is None or len(dims) != 1 or not isinstance(dims[0], int):
                return []
            length = dims[0]
            mine = range(position, position + length)
            position += length
            if not any(p in wanted for p in mine):
                parts.append(part)
            elif tensor is not None:
                old = tensor.numpy().reshape(-1).tolist()
                data = [wanted.get(p, old[p - mine.start]) for p in mine]
                parts.append(
                    self.edit.constant(
                        np.array(data, kind), part.name or "length", near=self.node
                    )
                )
            elif all(p in wanted for p in mine):
                data = [wanted[p] for p in mine]
                parts.append(
                    self.edit.constant(np.array(data, kind), "length", near=self.node)
                )
            else:
                return []
        return parts

    def _gathered_parts(
        self, value: ir.Value, wanted: Mapping[int, float], size: int, kind: np.dtype
    ) -> list[ir.Value]:
        """Return runs of elements of a vector, as it is computed or as they are wanted."""
        parts: list[ir.Value] = []
        runs: list[list[int]] = []
        for position in range(size):
            if runs and (position in wanted) == (runs[-1][-1] in wanted):
                runs[-1].append(position)
            else:
                runs.append([position])
        for run in runs:
            if run[0] in wanted:
                data = np.array([wanted[p] for p in run], kind)
                parts.append(self.edit.constant(data, "length", near=self.node))
            else:
                where = self.edit.constant(np.array(run, np.int64), "index", near=self.node)
                (part,) = self.edit.node(
                    "Gather", [value, where], before=self.node, attributes={"axis": 0}
                )
                kind_of_part = ir.TensorType(ir.DataType.from_numpy(kind))
                self.edit.set_type(part, kind_of_part, ir.Shape([len(run)]))
                parts.append(part)
        return parts


def _meaning(bound: int, length: int) -> int:
    """Return a bound of a slice counted from the front."""
    return min(max(bound + length if bound < 0 else bound, 0), length)


def _fixed_value(number: Number | None) -> float | None:
    """Return the value of an element that nothing can change."""
    if number is None or number.axes:
        return None
    return number.value


def drop_unused(edit: Edit, value: ir.Value) -> None:
    """Drop a constant that nothing uses any more."""
    if value.uses() or value.is_graph_output():
        return
    producer = value.producer()
    if value.is_initializer() and not value.is_graph_input():
        edit.remove_initializer(value)
    elif producer is not None and producer.op_type == "Constant" and not producer.domain:
        edit.remove(producer)

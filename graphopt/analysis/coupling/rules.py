"""What the rule of an operator is, and the words it speaks in.

A rule is a function of one ``Op``: it looks at the axes of the inputs, says which are the
same and which are needed whole, and gives the axes of the outputs. Where cutting an axis means
more than slicing constants (an attribute that counts, an input that holds indices) it leaves a
``fix`` for the compaction. A rule that meets something it does not understand calls
``op.refuse``: everything at that node is then needed whole, and the reason is remembered.

Example:
    The rule of an operator that works index by index on its first axis::

        @rule("Foo")
        def foo(op: Op) -> None:
            x, scale = op.axes(0), op.axes(1)
            op.unify(x[0], scale[0])
            op.output([x[0], *op.whole(x[1:], "Foo mixes it")])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.cells import Rows, concatenate
from graphopt.analysis.coupling.numbers import Number, Numbers
from graphopt.analysis.dims import Dims
from graphopt.analysis.facts import attribute

if TYPE_CHECKING:
    from graphopt.analysis.coupling.cut import Cut
    from graphopt.analysis.coupling.graph import Coupling

__all__ = [
    "KERNEL",
    "ONE",
    "Axis",
    "Fix",
    "Op",
    "Refusal",
    "Rule",
    "find_rule",
    "label",
    "rule",
    "rules",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a tensor. Tensors whose axes are the same may share the object.

    Attributes:
        rows: The atoms of its indices; ``None`` where its length is not fixed.
        symbol: Which unknown length it has: axes with equal symbols have equal lengths.
    """

    rows: Rows | None = None
    symbol: Hashable = None

    @property
    def size(self) -> int | None:
        """Its length in the model as it is; ``None`` where that depends on the input."""
        return None if self.rows is None else len(self.rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Fix:
    """What the compaction must do at a node when one of ``axes`` has become shorter."""

    node: ir.Node
    axes: tuple[Axis, ...]
    apply: Callable[[Cut], None]


class Refusal(Exception):  # noqa: N818  # a decision of a rule, not an error
    """A rule does not understand its node; everything there is needed whole."""


Rule: TypeAlias = "Callable[[Op], None]"

_RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Register the decorated function for operators: ``"Conv"``, ``"com.microsoft::Gelu"``."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            assert op_type not in _RULES, f"two rules for {op_type}"
            _RULES[op_type] = function
        return function

    return register


def rules() -> dict[str, Rule]:
    """Return all registered rules by operator."""
    return dict(_RULES)


def label(node: ir.Node) -> str:
    """Return how a node is called in reasons: operator and name."""
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type


def find_rule(node: ir.Node) -> Rule | None:
    """Return the rule for ``node``, or ``None``."""
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
    return _RULES.get(domain + node.op_type)


class Op:
    """One node as its rule sees it."""

    def __init__(self, coupling: Coupling, node: ir.Node) -> None:
        self.node = node
        self.coupling = coupling
        self.cells = coupling.cells
        self.seen: set[int] = set()

    # What is there.

    @property
    def label(self) -> str:
        """Operator and name of the node."""
        return label(self.node)

    @property
    def opset(self) -> int:
        """Version of the operator set that the node belongs to."""
        return self.coupling.model.opset_imports.get(self.node.domain, 1)

    def attr(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute."""
        return attribute(self.node, name, default)

    def attr_int(self, name: str, default: int) -> int:
        """Return the value of an integer attribute."""
        return int(self.attr(name, default))

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def value(self, index: int) -> ir.Value:
        """Return an input that must be given."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return value if value is not None else self.refuse(f"its input {index} is not given")

    def axes(self, index: int) -> tuple[Axis, ...]:
        """Return the axes of an input."""
        self.seen.add(index)
        axes = self.coupling.axes_of(self.node, index)
        return (
            axes
            if axes is not None
            else self.refuse(f"the rank of {self.value(index).name!r} is not known")
        )

    def ignore(self, index: int) -> None:
        """Say that input ``index`` may have any length; what no rule looks at may not."""
        self.seen.add(index)

    def numbers(self, index: int) -> Numbers | None:
        """Return the elements of a small integer input, as far as they are followed."""
        return self.coupling.numbers_of(self.value(index)) if self.has(index) else None

    def integers(self, index: int) -> list[int]:
        """Return the elements of an input that must be known."""
        numbers = self.numbers(index)
        if numbers is None or any(number.value is None for number in numbers.reshape(-1)):
            self.refuse(f"{self.value(index).name!r} is not known")
        return [int(number.value) for number in numbers.reshape(-1)]

    def is_constant(self, index: int) -> bool:
        """Whether an input is a constant."""
        return self.coupling.is_constant(self.value(index))

    def dims(self, output: int = 0) -> Dims | None:
        """Return the inferred dimensions of an output; ``None`` where the rank is unknown."""
        return self.coupling.dims_of(self.node.outputs[output])

    # What the rule says.

    def refuse(self, reason: str) -> NoReturn:
        """Leave the rule: everything at this node is needed whole."""
        raise Refusal(reason)

    def axis(self, index: int, rank: int) -> int:
        """Return ``index`` counted from the front."""
        if not -rank <= index < rank:
            self.refuse(f"it has no axis {index}")
        return index % rank

    def unify(self, a: Axis, b: Axis) -> None:
        """Say that two axes are the same, index by index."""
        if a is b:
            return
        if a.rows is None or b.rows is None:
            reason = f"{self.label} meets it with an axis of unknown length"
            self.freeze(b if a.rows is None else a, reason)
        elif a.size != b.size:
            self.refuse(f"axes of lengths {a.size} and {b.size} meet")
        elif a.size != 1:
            self.cells.unify(a.rows, b.rows)

    def broadcast(self, a: Axis, b: Axis) -> Axis:
        """Unify two axes that are aligned by broadcasting and return that of the result."""
        if a.size == 1:
            return b
        if b.size == 1 or a is b:
            return a
        self.unify(a, b)
        return a if a.rows is not None or b.rows is None else b

    def freeze(self, axis: Axis, reason: str) -> None:
        """Say that every index of ``axis`` is needed."""
        if axis.rows is not None and axis.size != 1:
            self.cells.freeze(axis.rows, reason)

    def whole(self, axes: Iterable[Axis], reason: str) -> list[Axis]:
        """Freeze ``axes`` and return them; ``reason`` follows the label of the node."""
        axes = list(axes)
        for axis in axes:
            self.freeze(axis, f"{self.label} {reason}")
        return axes

    def kernel(self, axes: Iterable[Axis]) -> list[Axis]:
        """Return ``axes`` of a weight that are positions of a kernel; nothing to remove."""
        axes = list(axes)
        for axis in axes:
            self.freeze(axis, KERNEL)
        return axes

    def fresh(self, size: int) -> Axis:
        """Return a new axis with independent indices."""
        return Axis(self.cells.fresh(size)) if size != 1 else ONE

    def frozen(self, dim: int | str | None, reason: str) -> Axis:
        """Return a new axis that is needed whole, of the length or symbol ``dim``."""
        if isinstance(dim, int):
            return ONE if dim == 1 else Axis(self.cells.frozen(dim, f"{self.label} {reason}"))
        return Axis(symbol=dim if dim is not None else object())

    def merge(self, axes: Sequence[Axis]) -> Axis:
        """Return the product of neighbouring axes of known lengths."""
        rows = [axis.rows for axis in axes if axis.size != 1]
        if not rows:
            return ONE
        if len(rows) == 1:
            return next(axis for axis in axes if axis.size != 1)
        product = rows[0]
        assert product is not None
        for other in rows[1:]:
            assert other is not None
            product = self.cells.resolve(self.cells.merge(product, other))
        return Axis(product)

    def split(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """Return the factors of an axis of known length, the slowest first."""
        parts: list[Axis] = []
        rest = axis
        for size in reversed(sizes[1:]):
            if size == 1:
                parts.append(ONE)
                continue
            if rest.size == size:
                parts.append(rest)
                rest = ONE
                continue
            assert rest.rows is not None
            slow, fast = self.cells.split(rest.rows, size)
            parts.append(Axis(fast))
            rest = Axis(slow) if len(slow) != 1 else ONE
        return [rest, *reversed(parts)]

    def part(self, axis: Axis, where: slice | np.ndarray) -> Axis:
        """Return some indices of an axis of known length as an axis.

        A part of one index is needed: what broadcasts would otherwise come to nothing.
        """
        assert axis.rows is not None
        rows = axis.rows[where]
        if len(rows) == 1:
            if axis.size != 1:
                self.cells.freeze(rows, f"{self.label} takes this index alone")
            return ONE
        return Axis(rows)

    def concatenate(self, axes: Sequence[Axis]) -> Axis:
        """Return axes of known lengths laid end to end."""
        parts = [axis.rows for axis in axes]
        assert all(part is not None for part in parts)
        if len(parts) == 1:
            return axes[0]
        return Axis(concatenate([part for part in parts if part is not None]))

    def output(self, axes: Sequence[Axis], index: int = 0) -> None:
        """Give the axes of an output."""
        if index < len(self.node.outputs):
            self.coupling.set_axes(self.node.outputs[index], axes)

    # What compaction must know.

    def contract(self, *operands: tuple[int, Axis]) -> None:
        """Unify axes that the node multiplies and sums over; each with its input."""
        for _, axis in operands[1:]:
            self.unify(operands[0][1], axis)
        self.coupling.contractions.append((self.node, operands))

    def mixes(self, *axes: Axis) -> None:
        """Say that the node combines indices of ``axes`` in ways of its own."""
        self.coupling.mixed.extend(axes)

    def cost(self, axes: Iterable[Axis], times: int = 1) -> None:
        """Say that the node multiplies ``times`` x the product of the lengths of ``axes``."""
        self.coupling.costs.append((self.node, times, tuple(axes)))

    def layer(self, index: int) -> None:
        """Say that input ``index``, where it is a constant, is the weight of a layer."""
        if self.coupling.is_fixed(self.value(index)):
            self.coupling.layers.append((self.node, self.coupling.axes_of(self.node, index)))

    def statistics(self, axis: Axis, what: str) -> None:
        """Say that the others along ``axis`` change when an index of it is removed."""
        if axis.rows is not None and axis.size != 1:
            self.coupling.statistics.append((axis, f"{self.label} {what}"))

    def fix(self, axes: Iterable[Axis], apply: Callable[[Cut], None]) -> None:
        """Let the compaction call ``apply`` when one of ``axes`` has become shorter."""
        shortened = tuple(axis for axis in axes if axis.rows is not None and axis.size != 1)
        if shortened:
            self.coupling.fixes.append(Fix(self.node, shortened, apply))

    def count(self, name: str, axis: Axis, times: int = 1) -> None:
        """Say that the attribute ``name`` is the length of ``axis`` x ``times``."""
        self.fix([axis], lambda cut: cut.set_attribute(name, cut.length(axis) * times))

    def shape_input(self, index: int, axes: Sequence[Axis], first: int = 0) -> None:
        """Say that elements ``first``... of input ``index`` are the lengths of ``axes``."""
        numbers = self.numbers(index)
        self.coupling.shape_inputs.add((self.node, index))
        read = [axis for axis in axes if axis.rows is not None]
        if numbers is not None:
            read += [axis for number in numbers.reshape(-1) for axis in number.axes]
        self.fix(read, lambda cut: cut.set_lengths(index, axes, first))

    def number(self, index: int, position: int) -> Number | None:
        """Return one element of a small integer input, where it is followed."""
        numbers = self.numbers(index)
        return None if numbers is None else numbers.reshape(-1)[position]


ONE = Axis(np.zeros((1, 1), np.int32))
"""The axis of length 1: there is nothing to remove."""

KERNEL = "it is a position of a kernel"
"""Why nothing may be removed from the spatial axes of a weight; not worth a mention."""

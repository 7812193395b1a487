"""What is added to the scores of an attention, and how small it can make them.

The operators differ in what they answer for a query that may look at no key: its scores are
all ``-inf``, or all the lowest number there is. So it matters which of them a mask can hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic.expressions import Dim, product
from graphopt.rewrite import Reason

from .axes import View

__all__ = [
    "ABOVE_LOWEST",
    "LOW",
    "NO_KEY",
    "Mask",
    "MaskPlan",
    "Summand",
    "mask_of_where",
    "plan_masks",
    "uniform",
]

NEGLIGIBLE = -1e30
"""A score that is added to such a number vanishes in float32, whatever the score."""

LOW = {ir.DataType.FLOAT: NEGLIGIBLE, ir.DataType.FLOAT16: -1e3}
"""Type -> what is taken for a mask, and not for a bias. The scores of a row in float16 keep
nothing of themselves below, in a kernel that adds in that type."""

NO_KEY = float("-inf")
ABOVE_LOWEST = -3e38
"""``Attention`` of onnxruntime takes the lowest float32 for ``-inf``, but not this."""

MAX_DEPTH = 24
MOVES = (
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)

Floors: TypeAlias = "frozenset[float] | None"
"""The numbers that mask which a tensor may hold (see ``LOW``); ``None``: any."""


@dataclasses.dataclass(frozen=True)
class Mask:
    """What is added to the scores.

    Attributes:
        value: The summand, or, where ``fill`` is given, the condition.
        view: View of the scores it is added to.
        fill: What the scores become where the condition is ``dropped``.
        dropped: See ``fill``.
    """

    value: ir.Value
    view: View
    fill: float | None = None
    dropped: bool = False


def mask_of_where(
    node: ir.Node, view: View, facts: Facts
) -> tuple[ir.Value, Mask] | Reason | None:
    """Return the scores and the mask of a ``Where`` that replaces some of them."""
    condition, *branches = node.inputs
    for index, branch in enumerate(branches):
        array = facts.array(branch, max_elements=1)
        scores = branches[1 - index]
        if array is None or array.size != 1 or condition is None or scores is None:
            continue
        fill = float(array.reshape(()))
        if not fill <= NEGLIGIBLE:
            return Reason(f"scores are replaced by {fill:g}, which is not beyond all others")
        return scores, Mask(condition, view, fill, dropped=index == 0)
    return None


def floors_of(
    value: ir.Value | None, facts: Facts, low: float, depth: int = MAX_DEPTH
) -> Floors:
    """Return the numbers up to ``low`` that ``value`` may hold."""
    array = facts.array(value)
    if array is not None:
        return _floors(array, low)
    node = value.producer() if value is not None else None
    if node is None or node.domain or not depth:
        return None
    if node.op_type in MOVES:
        return floors_of(node.inputs[0], facts, low, depth - 1)
    if node.op_type == "Cast" and value is not None and value.dtype in LOW:
        floors = floors_of(node.inputs[0], facts, low, depth - 1)
        # What a type cannot hold may stay as it is: onnxruntime leaves out casts and back.
        least = float(np.finfo(value.dtype.numpy()).min)
        return None if any(NO_KEY < one < least for one in floors or ()) else floors
    if node.op_type in ("Where", "Concat", "Max"):
        sources = node.inputs[1:] if node.op_type == "Where" else node.inputs
        return _joined([floors_of(one, facts, low, depth - 1) for one in sources])
    if node.op_type == "Add":
        summands = [floors_of(one, facts, low, depth - 1) for one in node.inputs]
        # Two of them might add up to something else.
        return None if all(one != frozenset() for one in summands) else _joined(summands)
    return None


def _floors(array: np.ndarray, low: float) -> Floors:
    if array.dtype.kind != "f" or np.isnan(array).any():
        return None
    return frozenset(float(one) for one in np.unique(array[array <= low]))


def _leaves_some_open(mask: Mask, facts: Facts) -> bool:
    """Whether ``mask`` is a constant by which each query may look at some key."""
    array = facts.array(mask.value)
    if array is None or not array.ndim:
        return False
    kind = mask.value.dtype
    low = LOW.get(kind, NEGLIGIBLE) if kind is not None else NEGLIGIBLE
    seen = array > low if mask.fill is None else array != mask.dropped
    return bool(seen.any(axis=-1).all())


def _joined(several: list[Floors]) -> Floors:
    found: set[float] = set()
    for one in several:
        if one is None:
            return None
        found |= one
    return frozenset(found)


def uniform(value: ir.Value | None, facts: Facts, depth: int = MAX_DEPTH) -> float | None:
    """Return the number that all elements of ``value`` are; ``None`` where it is not known."""
    array = facts.array(value)
    if array is not None:
        first = array.reshape(-1)[:1]
        return float(first[0]) if array.size and (array == first).all() else None
    node = value.producer() if value is not None else None
    if node is None or node.domain or not depth:
        return None
    if node.op_type in MOVES:
        return uniform(node.inputs[0], facts, depth - 1)
    if node.op_type == "Where":
        condition = uniform(node.inputs[0], facts, depth - 1)
        if condition is not None:
            return uniform(node.inputs[1 if condition else 2], facts, depth - 1)
    return None


@dataclasses.dataclass(frozen=True)
class Summand:
    """A mask, and the axes that make 4 dimensions of it.

    Attributes:
        mask: The mask.
        new_axes: Where dimensions of length 1 are put in.
    """

    mask: Mask
    new_axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MaskPlan:
    """The masks of an attention, as an operator is to take them.

    Attributes:
        masks: Those that do anything.
        floors: The numbers that mask which their sum may hold; ``None``: any.
        guarded: Whether queries without any finite score get 0.
        full: Whether the sum is as long as queries and keys, and not broadcast along them.
    """

    masks: tuple[Summand, ...]
    floors: Floors
    guarded: bool
    full: bool


def plan_masks(
    masks: Sequence[Mask],
    batch: Dim,
    heads: Dim,
    kind: ir.DataType,
    *,
    guarded: bool,
    facts: Facts,
) -> MaskPlan | Reason:
    """Return how an operator is to take ``masks`` of scores of a type, or why it cannot."""
    kept: list[Summand] = []
    floors: list[Floors] = []
    full = [False, False]
    for mask in masks:
        if _does_nothing(mask, facts):
            continue
        shape = facts.shape(mask.value)
        if shape is None:
            return Reason("the shape of a mask is not known")
        if mask.fill is None and mask.value.dtype != kind:
            return Reason("a mask is not of the type of the scores")
        new_axes = _new_axes(mask.view, shape, batch, heads)
        if new_axes is None:
            return Reason("a mask has batch and heads in one dimension")
        kept.append(Summand(mask, new_axes))
        if len(masks) == 1 and _leaves_some_open(mask, facts):
            floors.append(frozenset())
        else:
            floors.append(
                floors_of(mask.value, facts, LOW[kind])
                if mask.fill is None
                else frozenset({mask.fill})
            )
        for axis in (-2, -1):
            length = product(one.size for one in mask.view[axis])
            full[axis] |= len(shape) >= -axis and shape[axis] == length
    # Masks come from the Softmax back. A row of fills is even; fills plus masks would not be.
    for index, one in enumerate(kept):
        finite = one.mask.fill is not None and one.mask.fill != NO_KEY
        if finite and any(below != frozenset() for below in floors[index + 1 :]):
            return Reason("scores are masked, and then replaced by a finite number")
    # Two of them might add up to something else.
    many = sum(one != frozenset() for one in floors) > 1
    return MaskPlan(tuple(kept), None if many else _joined(floors), guarded, all(full))


def _does_nothing(mask: Mask, facts: Facts) -> bool:
    same = uniform(mask.value, facts)
    if mask.fill is not None:
        return same is not None and bool(same) is not mask.dropped
    return same == 0


def _new_axes(
    view: View, shape: Sequence[Dim], batch: Dim, heads: Dim
) -> tuple[int, ...] | None:
    """Return where a mask of ``shape`` lacks dimensions of ``[batch, heads, row, column]``."""
    leads = [product(axis.size for axis in group) for group in view[:-2]]
    if leads == [batch, heads] or all(size == 1 for size in shape[:-2]):
        return tuple(range(4 - len(shape)))
    # Heads that are not there go between batch and queries.
    return (1,) if leads == [batch] and heads == 1 and len(shape) == 3 else None

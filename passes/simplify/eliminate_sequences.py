"""Eliminate sequences of tensors whose parts are known.

Before -> after::

    s = SplitToSequence(x, 768, axis=2)         a, b, c = Split(x, [768, 768, 768], axis=2)
    a = SequenceAt(s, 0)                 ->
    b = SequenceAt(s, 1)                        # x: float[N, M, 2304]
    c = SequenceAt(s, -1)

    s = SequenceConstruct(a, b, c)
    y = SequenceAt(s, 1)                 ->     y = b
    z = ConcatFromSequence(s, axis=0)    ->     z = Concat(a, b, c, axis=0)
    n = SequenceLength(s)                ->     n = 3

    s = SplitToSequence(x, 1, axis=0)
    y = ConcatFromSequence(s, axis=0)    ->     y = x

Preconditions, per match:
    1. The parts are known: the inputs of a ``SequenceConstruct``; or the ``split`` is constant
       and the axis that is split has a fixed size.
    2. A position is constant, and inside of the sequence.
    3. ``SplitToSequence``: nothing but ``SequenceAt`` with such a position uses it; its parts
       keep their axis, or are of size 1. With ``keepdims=0`` there is no ``split``, or a list:
       the standard ignores ``keepdims`` then, onnxruntime does so for a list only.
    4. ``ConcatFromSequence``: with ``new_axis=0``; of what was split, along the same axis, the
       parts with that axis.
    5. There are no more than ``MAX_PARTS`` parts.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: sequences that a ``Loop`` or ``SequenceInsert`` makes.
Reference: https://onnx.ai/onnx/operators/onnx__SplitToSequence.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.edit import AttributeValue, Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["EliminateSequences"]

MAX_PARTS = 64
SIZES_ARE_INPUTS = 13
"""The version of ``Split`` from which the sizes of its parts are an input."""


@dataclasses.dataclass(frozen=True)
class EliminateSequences(RulePass):
    """Eliminate sequences; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-sequences"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("sequence-at", ("SequenceAt",), _match_at),
            Rule("sequence-length", ("SequenceLength",), _match_length),
            Rule("sequence-concat", ("ConcatFromSequence",), _match_concat),
            Rule("split-to-sequence", ("SplitToSequence",), _match_split),
        ]


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What ``SplitToSequence`` makes.

    Attributes:
        axis: The axis that is split, counted from the front.
        sizes: Sizes of the parts along it.
        squeezed: Whether the parts are without it; they are of size 1 then.
    """

    axis: int
    sizes: list[int]
    squeezed: bool


def _parts_of(split: ir.Node, facts: Facts) -> _Parts | Reason:
    shape = facts.shape(split.inputs[0])
    # 1.
    if not shape:
        return Reason("the rank of what is split is not known")
    axis = attribute(split, "axis", 0) % len(shape)
    size = shape[axis]
    given = split.inputs[1] if len(split.inputs) > 1 else None
    content = facts.content(given)
    if not isinstance(size, int) or (given is not None and content is None):
        return Reason("the sizes of the parts are not known")
    squeezed = not attribute(split, "keepdims", 1)
    # 3.
    if squeezed and content is not None and content.ndim == 0:
        return Reason("onnxruntime squeezes parts of a number, the standard does not")
    if content is None:
        part, sizes = 1, None
    elif content.ndim == 0:
        part, sizes = content.item(), None
    else:
        part, sizes = 1, content.tolist()
    if sizes is None and isinstance(part, int) and part > 0 and size // part < MAX_PARTS:
        sizes = [part] * (size // part) + [size % part] * (size % part > 0)
    # 5.
    if not sizes or len(sizes) > MAX_PARTS:
        return Reason("there are too many parts")
    if not all(isinstance(n, int) and n >= 0 for n in sizes) or sum(sizes) != size:
        return Reason("the parts are not the whole")
    return _Parts(axis, sizes, given is None and squeezed)


def _position(node: ir.Node, count: int) -> int | None:
    """Return the constant position of a ``SequenceAt``, from the front."""
    tensor = tensor_of(node.inputs[1])
    # 2.
    if tensor is None or tensor.size != 1:
        return None
    position = int(tensor.numpy().item())
    return position % count if -count <= position < count else None


def _construction(value: ir.Value | None) -> list[ir.Value] | None:
    """Return the inputs of a ``SequenceConstruct``."""
    node = producer(value, "SequenceConstruct")
    items = [] if node is None else [item for item in node.inputs if item is not None]
    # 5.
    return items if 0 < len(items) <= MAX_PARTS else None


def _match_at(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    items = _construction(node.inputs[0])
    if items is None:
        return None
    position = _position(node, len(items))
    if position is None:
        return Reason("its position is not constant, or outside of the sequence")
    return lambda edit: edit.supersede(node, items[position])


def _match_length(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    items, split = _construction(node.inputs[0]), producer(node.inputs[0], "SplitToSequence")
    parts = None if split is None else _parts_of(split, facts)
    if parts is None or isinstance(parts, Reason):
        if items is None:
            return parts
        count = len(items)
    else:
        count = len(parts.sizes)

    def rewrite(edit: Edit) -> None:
        name = node.outputs[0].name or "length"
        edit.supersede(node, edit.constant(np.array(count, np.int64), name, near=node))

    return rewrite


def _match_concat(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    items, split = _construction(node.inputs[0]), producer(node.inputs[0], "SplitToSequence")
    axis = attribute(node, "axis")
    # 4.
    if items is None and split is None:
        return None
    if attribute(node, "new_axis", 0):
        return Reason("it joins along a new axis")
    if items is not None:
        return lambda edit: edit.substitute(node, "Concat", items, {"axis": axis})
    assert split is not None
    x, parts = split.inputs[0], _parts_of(split, facts)
    if isinstance(parts, Reason):
        return parts
    shape = facts.shape(x)
    assert shape, "its axis was found"
    if parts.squeezed or axis % len(shape) != parts.axis:
        return Reason("it was split along another axis")
    return lambda edit: edit.supersede(node, x)


def _match_split(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    sequence = node.outputs[0]
    users = [use.node for use in sequence.uses()]
    # 3.
    if sequence.is_graph_output() or not users:
        return None
    if any(user.op_type != "SequenceAt" or user.domain for user in users):
        return Reason("its sequence is used as a whole")
    parts = _parts_of(node, facts)
    if isinstance(parts, Reason):
        return parts
    positions = [_position(user, len(parts.sizes)) for user in users]
    taken = [position for position in positions if position is not None]
    if len(taken) != len(positions):
        return Reason("a position is not constant, or outside of the sequence")

    def rewrite(edit: Edit) -> None:
        if parts.squeezed:
            for user, index in zip(users, taken, strict=True):
                edit.supersede(user, _gathered(edit, node, user, parts.axis, index))
        else:
            news = _split(edit, node, parts, dict(zip(taken, users, strict=True)), facts)
            for user, index in zip(users, taken, strict=True):
                edit.supersede(user, news[index])
        edit.remove(node)

    return rewrite


def _gathered(edit: Edit, node: ir.Node, user: ir.Node, axis: int, index: int) -> ir.Value:
    """Return part ``index`` without its axis."""
    position = edit.constant(np.array(index, np.int64), f"{node.name}_position", near=user)
    (new,) = edit.node(
        "Gather",
        [node.inputs[0], position],
        before=user,
        attributes={"axis": axis},
        like=user.outputs,
        name=user.name or "",
    )
    return new


def _split(
    edit: Edit, node: ir.Node, parts: _Parts, users: dict[int, ir.Node], facts: Facts
) -> tuple[ir.Value, ...]:
    """Return all parts, the outputs of one ``Split``; ``users`` says what they are called."""
    inputs = [node.inputs[0]]
    attributes: dict[str, AttributeValue] = {"axis": parts.axis}
    if facts.opset < SIZES_ARE_INPUTS:
        attributes["split"] = parts.sizes
    else:
        sizes = np.array(parts.sizes, np.int64)
        inputs.append(edit.constant(sizes, f"{node.outputs[0].name}_sizes", near=node))
    kind = node.inputs[0].type if node.inputs[0] is not None else None
    like = [
        users[index].outputs[0]
        if index in users
        else ir.Value(name=f"{node.outputs[0].name}_{index}", type=kind)
        for index in range(len(parts.sizes))
    ]
    return edit.node(
        "Split",
        inputs,
        before=node,
        attributes=attributes,
        outputs=len(like),
        like=like,
        name=node.name or "",
    )

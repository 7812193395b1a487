"""Eliminate two nodes of which the second one undoes the first.

Before -> after::

    a = Cast(x, to=FLOAT)       # x: float16                     (removed)
    y = Cast(a, to=FLOAT16)                               ->     y = x

    a = Cast(x, to=INT32)       # x: bool                        (a only where used)
    y = Cast(a, to=FLOAT)                                 ->     y = Cast(x, to=FLOAT)

    a, b, c = Split(x, axis=1)                                   (a, b, c only where used)
    y = Concat(z, a, b, c, axis=1)                        ->     y = Concat(z, x, axis=1)

    a = Concat(x, z, axis=0)    # x, z: float[2, N]              b = x
    b, c = Split(a, [2, 2], axis=0)                       ->     c = z

    a = Not(x); y = Not(a)      # and Neg                 ->     y = x

Preconditions, per match:
    1. ``Cast``: the type in the middle holds every value of the first one (``_HOLDS``), and
       the last one does, or is the first one.
    2. ``Concat`` of all outputs of one ``Split``, one after the other, in their order.
    3. ``Split`` of a ``Concat``: as many parts, of the same sizes.
    4. ``Split`` and ``Concat`` are of the same axis.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``Transpose``, ``Reshape``, ``Squeeze`` and ``Unsqueeze``; those are the work of
``fuse-transposes`` and ``fuse-reshapes``.
Reference: https://onnx.ai/onnx/operators/onnx__Cast.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.producers import producer
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["EliminateInversePairs"]

_T = ir.DataType
_INT64 = (_T.INT64,)
_INT32 = (_T.INT32, *_INT64)
_INT16 = (_T.INT16, *_INT32)
_HOLDS: dict[ir.DataType, tuple[ir.DataType, ...]] = {
    _T.BOOL: (_T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64, _T.INT8, *_INT16, _T.FLOAT16,
              _T.FLOAT, _T.DOUBLE),
    _T.UINT8: (_T.UINT16, _T.UINT32, _T.UINT64, *_INT16, _T.FLOAT16, _T.FLOAT, _T.DOUBLE),
    _T.INT8: (*_INT16, _T.FLOAT16, _T.FLOAT, _T.DOUBLE),
    _T.UINT16: (_T.UINT32, _T.UINT64, *_INT32, _T.FLOAT, _T.DOUBLE),
    _T.INT16: (*_INT32, _T.FLOAT, _T.DOUBLE),
    _T.UINT32: (_T.UINT64, *_INT64, _T.DOUBLE),
    _T.INT32: (*_INT64, _T.DOUBLE),
    _T.FLOAT16: (_T.FLOAT, _T.DOUBLE),
    _T.BFLOAT16: (_T.FLOAT, _T.DOUBLE),
    _T.FLOAT: (_T.DOUBLE,),
}  # fmt: skip
"""Type -> those that hold all its values."""


@dataclasses.dataclass(frozen=True)
class EliminateInversePairs(RulePass):
    """Eliminate what is undone at once; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-inverse-pairs"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules."""
        del context
        return [
            Rule("cast-cast", ("Cast",), _match_cast),
            Rule("split-concat", ("Concat",), _match_concat),
            Rule("concat-split", ("Split",), _match_split),
            Rule("twice", ("Not", "Neg"), _match_twice),
        ]


def _match_cast(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    first = producer(node.inputs[0], "Cast")
    x = first.inputs[0] if first is not None else None
    if first is None or x is None or x.dtype is None:
        return None
    source, middle, target = x.dtype, attribute(first, "to"), attribute(node, "to")
    held = _HOLDS.get(source, ())
    # 1. A conversion to what does not hold them may go another way from there than from here.
    if middle not in held or target not in (source, *held):
        return Reason(f"not both types hold every {source.name}")

    def rewrite(edit: Edit) -> None:
        if target == source:
            edit.supersede(node, x)
        else:
            edit.set_input(node, 0, x)

    return rewrite


def _match_concat(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    parts: list[ir.Value | None] = []
    reason: Reason | None = None
    at = 0
    while at < len(node.inputs):
        value = node.inputs[at]
        split = producer(value, "Split")
        outputs = () if split is None else tuple(split.outputs)
        # 2.
        if split is None or tuple(node.inputs[at : at + len(outputs)]) != outputs:
            reason = reason or (Reason("not all parts of the Split follow") if split else None)
        # 4.
        elif not _same_axis(split, node, facts.shape(split.inputs[0])):
            reason = reason or Reason("the Split is of another axis")
        else:
            value = split.inputs[0]
            at += len(outputs) - 1
        parts.append(value)
        at += 1
    if len(parts) == len(node.inputs):
        return reason
    if len(parts) == 1:
        return lambda edit: edit.supersede(node, parts[0])
    return lambda edit: edit.substitute(node, "Concat", parts, dict(node.attributes))


def _match_split(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    concat = producer(node.inputs[0], "Concat")
    if concat is None:
        return None
    whole = facts.shape(concat.outputs[0])
    # 4.
    if whole is None or not _same_axis(node, concat, whole):
        return Reason("the Concat is of another axis")
    # 3.
    parts = [facts.shape(value) for value in concat.inputs]
    if None in parts or parts != [facts.shape(value) for value in node.outputs]:
        return Reason("the Split is not into the inputs of the Concat")
    return lambda edit: edit.supersede(node, *concat.inputs)


def _match_twice(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    first = producer(node.inputs[0], node.op_type)
    x = first.inputs[0] if first is not None else None
    return None if x is None else lambda edit: edit.supersede(node, x)


def _same_axis(split: ir.Node, concat: ir.Node, shape: Sequence[object] | None) -> bool:
    one, other = attribute(split, "axis", 0), attribute(concat, "axis")
    return one == other or (shape is not None and (one - other) % len(shape) == 0)

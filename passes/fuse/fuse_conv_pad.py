"""Fuse ``Pad`` into the ``Conv`` that it feeds.

Before -> after::

    y = Pad(x, [0, 0, 1, 1, 0, 0, 1, 1])
    z = Conv(y, W, B)                         ->     z = Conv(x, W, B, pads=[1, 1, 1, 1])

Preconditions, per match:
    1. The mode is ``constant``, the value is 0 (or left out).
    2. The widths are constant, not negative, and 0 for the batch and the channels.
    3. ``y`` has no other use, and is the data of the Conv, not its weight.
    4. The Conv states its padding: ``auto_pad`` is ``NOTSET`` or ``VALID``.

Numerics: close; the same products are added, by another kernel. Measured: rtol 1e-6 of the
largest output for float32.
Scope: main graph and subgraphs.   Leaves alone: pools, which do not count what they pad.
Reference: https://onnx.ai/onnx/operators/onnx__Pad.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.analysis.padding import pad_value, pad_widths
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FuseConvPad"]


@dataclasses.dataclass(frozen=True)
class FuseConvPad(RulePass):
    """Fuse ``Pad`` into ``Conv``; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-conv-pad"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("conv-pad", ("Conv",), _match)]


def _match(conv: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    y = conv.inputs[0]
    pad = y.producer() if y is not None else None
    if y is None or pad is None or pad.op_type != "Pad" or pad.domain:
        return None
    # 3.
    if facts.only_use(y) is not conv:
        return Reason(f"{y.name!r} has another use")
    # 1.
    if attribute(pad, "mode", "constant") != "constant" or not _pads_with_zero(pad, facts):
        return Reason("it does not pad with 0")
    # 4.
    if attribute(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return Reason("the Conv computes its padding itself")
    # 2.
    shape = facts.shape(y)
    widths = None if shape is None else pad_widths(pad, facts, len(shape))
    if shape is None or widths is None:
        return Reason("its widths are not known")
    rank = len(shape)
    if any(width < 0 for width in widths) or any(
        widths[index] for index in (0, 1, rank, rank + 1)
    ):
        return Reason("it cuts, or pads the batch or the channels")
    spatial = [*widths[2:rank], *widths[rank + 2 :]]
    own = attribute(conv, "pads", [0] * len(spatial))
    pads = [a + b for a, b in zip(own, spatial, strict=True)]
    x = pad.inputs[0]

    def rewrite(edit: Edit) -> None:
        edit.set_input(conv, 0, x)
        edit.set_attribute(conv, "pads", pads)
        if "auto_pad" in conv.attributes:
            edit.set_attribute(conv, "auto_pad", None)
        edit.remove(pad)

    return rewrite


def _pads_with_zero(pad: ir.Node, facts: Facts) -> bool:
    value = pad_value(pad, facts)
    return value is not None and not value.any()

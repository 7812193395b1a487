"""Fuse what computes a group normalization into ``GroupNormalization``.

Before -> after::

    r = Reshape(x, [0, G, -1])
    i = InstanceNormalization(r, ones, zeros)
    n = Reshape(i, Shape(x))
    y = Add(Mul(n, s), b)             ->     y = GroupNormalization<num_groups = G>(x, s, b)

Not in a preset: onnxruntime 1.31.1 has no kernel for it on the CPU and expands it into what is
0.5 times as fast (64 channels of 32 x 32, 320 of 16 x 16, one thread). For other runtimes.

Preconditions, per match:
    1. The model imports opset 21 or later, whose scale has one element a channel.
    2. x has at least three dimensions, the second of known size; the first stays as it is, the
       second becomes the groups, and the second Reshape restores the shape.
    3. Scale and bias of the InstanceNormalization are ones and zeros.
    4. ``s`` and ``b`` are constants with one element a channel; others stay behind. Either
       may be missing.
    5. Nothing else uses what is computed on the way.
    6. The type is float32 or float16: the operator computes in float32.

Numerics: close. Measured: rtol 1e-6 of the largest output for float32.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__GroupNormalization.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .formulas import outside_use
from .variance import operand, producer

__all__ = ["FuseGroupNormalization"]

FIRST_OPSET = 21
TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
EPSILON = 1e-5  # default of both operators


@dataclasses.dataclass(frozen=True)
class FuseGroupNormalization(RulePass):
    """Fuse group normalization; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-group-normalization"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("group-normalization", ("InstanceNormalization",), _match)]


def _match(norm: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    split, join = producer(norm.inputs[0], "Reshape"), facts.only_use(norm.outputs[0])
    x = split.inputs[0] if split is not None else None
    if split is None or x is None or join is None or join.op_type != "Reshape" or join.domain:
        return None
    # 1.
    if facts.opset < FIRST_OPSET:
        return Reason(f"GroupNormalization needs opset {FIRST_OPSET}; see upgrade-opset")
    # 2.
    shape, grouped = facts.shape(x), facts.shape(norm.inputs[0])
    if shape is None or grouped is None or len(shape) < 3 or len(grouped) < 3:
        return Reason("the shapes are not known, or have fewer than three dimensions")
    channels, groups = shape[1], grouped[1]
    if not isinstance(channels, int) or not isinstance(groups, int):
        return Reason("channels or groups are not known")
    if not groups or channels % groups:
        return Reason("groups do not divide the channels")
    if shape[0] != grouped[0] or facts.shape(join.outputs[0]) != shape:
        return Reason("the batch is split, or the shape is not restored")
    # 3.
    ones = tensor_of(norm.inputs[1])
    if ones is None or not _are_all(norm.inputs[1], 1.0) or not _are_all(norm.inputs[2], 0.0):
        return Reason("the groups have a scale or bias of their own")
    # 4.
    nodes = [split, norm, join]
    vectors: list[np.ndarray | None] = []
    for op_type in ("Mul", "Add"):
        output = nodes[-1].outputs[0]
        user = facts.only_use(output)
        vector = None
        if user is not None and user.op_type == op_type and not user.domain:
            vector = _per_channel(operand(user, output), channels, len(shape))
            if vector is not None:
                nodes.append(user)
        vectors.append(vector)
    # 5.
    last = nodes[-1]
    if reason := outside_use(nodes, last.outputs[0]):
        return reason
    # 6.
    if ones.dtype not in TYPES:
        return Reason(f"it would be computed in float32, not in {ones.dtype}")
    kind = ones.dtype.numpy()
    scale, bias = vectors
    attributes = {"num_groups": groups, "epsilon": attribute(norm, "epsilon", EPSILON)}

    def rewrite(edit: Edit) -> None:
        name = x.name or "x"
        s = np.ones(channels, kind) if scale is None else scale
        b = np.zeros(channels, kind) if bias is None else bias
        inputs = [
            x,
            edit.constant(s, f"{name}_scale", near=last),
            edit.constant(b, f"{name}_bias", near=last),
        ]
        (y,) = edit.node(
            "GroupNormalization",
            inputs,
            before=last,
            attributes={**attributes},
            like=last.outputs,
        )
        edit.supersede(last, y)
        edit.remove(*nodes)

    return rewrite


def _are_all(value: ir.Value | None, number: float) -> bool:
    tensor = tensor_of(value)
    return tensor is not None and bool((tensor.numpy() == number).all())


def _per_channel(value: ir.Value | None, channels: int, rank: int) -> np.ndarray | None:
    """Return a constant that is broadcast along the second of ``rank`` axes, as a vector."""
    tensor = tensor_of(value)
    if tensor is None or len(tensor.shape) > rank:
        return None
    shape = tuple(tensor.shape.numpy())
    full = (1,) * (rank - len(shape)) + shape
    return tensor.numpy().reshape(-1) if full == (1, channels, *(1,) * (rank - 2)) else None

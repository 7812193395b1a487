"""Fuse an addition and the normalization behind it into ``SkipLayerNormalization``.

Before -> after, in onnxruntime's domain, ``b`` the bias of the layer in front::

    u = Add(t, b)
    y = Add(u, x)                                z, _, _, y = com.microsoft.
    z = LayerNormalization(y, s, c)     ->           SkipLayerNormalization(t, x, s, c, b)

The same with ``RMSNormalization``, into ``SkipSimplifiedLayerNormalization``. The addition may
be a ``Sum``, the bias may be missing, and the sum may be used elsewhere: it is an output.

These are fewer nodes, and what the kernels of CUDA, DirectML and WebGPU are made for. It is in
no preset for the CPU: there it is slower than the two nodes it replaces (docs/fusion.md).

Preconditions, per match:
    1. The sum and the normalization are in one graph, and no summand is broadcast: both are
       ``[batch, length, width]`` or ``[rows, width]``, or one ``[1, length, width]``.
    2. The normalization is along the last axis, by a scale and a bias of its width that are
       initializers, and nothing uses its mean and deviation.
    3. The type is float32 or float16.
    4. ``b`` is an initializer of that width, and ``u`` has no other use; else it stays.

Numerics: close. The kernel takes the variance as the mean of squares less the square of the
mean; measured: rtol 1e-5 of the largest output.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute
from graphopt.analysis.symbolic import Shape
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .contributed import MICROSOFT, import_microsoft, is_vector
from .variance import producer

__all__ = ["FuseSkipLayerNormalization"]

NORMS = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
}
TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
EPSILON = 1e-5
"""What both normalizations of the standard add where no epsilon is given."""


@dataclasses.dataclass(frozen=True)
class FuseSkipLayerNormalization(RulePass):
    """Fuse additions into normalizations; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-skip-layer-normalization"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("skip-layer-normalization", tuple(NORMS), _match)]


def _match(norm: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    add = producer(norm.inputs[0], "Add", "Sum")
    if add is None or len(add.inputs) != 2 or add.graph is not norm.graph:
        return None
    total = add.outputs[0]
    shape = facts.shape(total)
    # 1.
    if shape is None or len(shape) not in (2, 3) or not isinstance(shape[-1], int):
        return Reason("the sum is not known to be rows of one width")
    pair = _whole_first(add, shape, facts)
    if pair is None:
        return Reason("a summand is broadcast")
    # 2.
    if attribute(norm, "axis", -1) not in (-1, len(shape) - 1):
        return Reason("the normalization is along more than the last axis")
    if not all(is_vector(value, shape[-1], facts) for value in norm.inputs[1:]):
        return Reason("scale or bias is not an initializer of the width of the last axis")
    if any(value.uses() or value.is_graph_output() for value in norm.outputs[1:]):
        return Reason("the mean or the deviation is used itself")
    # 3.
    if total.dtype not in TYPES or any(v.dtype != total.dtype for v in norm.inputs[1:] if v):
        return Reason(f"onnxruntime has no kernel for {total.dtype}")
    # 4.
    first, second, behind = _without_bias(*pair, shape, facts)
    shared = total.is_graph_output() or facts.only_use(total) is not norm

    def rewrite(edit: Edit) -> None:
        import_microsoft(edit)
        scale, *bias = norm.inputs[1:]
        if norm.op_type == "LayerNormalization":
            bias = [*bias, None][:1]
        unused = ir.Value(name="")
        made = edit.node(
            NORMS[norm.op_type],
            [first, second, scale, *bias, behind[1] if behind else None],
            # Everything it takes is there where the sum is made, and the sum may be used soon.
            before=add,
            domain=MICROSOFT,
            attributes={"epsilon": attribute(norm, "epsilon", EPSILON)},
            outputs=4 if shared else 1,
            like=[norm.outputs[0], unused, unused, total],
            name=norm.name or "",
        )
        edit.supersede(norm, made[0])
        if shared:
            edit.supersede(add, made[3])
        else:
            edit.remove(add)
        if behind:
            edit.remove(behind[0])

    return rewrite


def _whole_first(add: ir.Node, shape: Shape, facts: Facts) -> tuple[ir.Value, ir.Value] | None:
    """Return the summands, first one that is as large as the sum."""
    a, b = add.inputs
    for whole, other in ((a, b), (b, a)):
        size = facts.shape(other)
        repeated = len(shape) == 3 and size == (1, *shape[1:])
        if whole is None or other is None or facts.shape(whole) != shape:
            continue
        if size == shape or repeated:
            return whole, other
    return None


def _without_bias(
    whole: ir.Value, other: ir.Value, shape: Shape, facts: Facts
) -> tuple[ir.Value, ir.Value, tuple[ir.Node, ir.Value] | None]:
    """Return the summands, one of them without a bias that was added to it, and the bias."""
    width = shape[-1]
    assert isinstance(width, int)
    for one, rest in ((whole, other), (other, whole)):
        add = producer(one, "Add")
        if add is None or facts.only_use(one) is None or facts.shape(rest) != shape:
            continue
        for source, bias in (add.inputs, add.inputs[::-1]):
            if source is None or bias is None or facts.shape(source) != shape:
                continue
            if is_vector(bias, width, facts) and bias.dtype == one.dtype:
                return source, rest, (add, bias)
    return whole, other, None

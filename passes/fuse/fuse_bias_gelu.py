"""Fuse a bias and the Gelu behind it into onnxruntime's ``BiasGelu`` or ``FastGelu``.

Before -> after::

    u = Add(x, b); y = Gelu(u)                       ->   y = com.microsoft.BiasGelu(x, b)
    u = Add(x, b); y = Gelu<approximate = "tanh">(u) ->   y = com.microsoft.FastGelu(x, b)

The Gelu may be the operator of opset 20 or be written out, however its products and sums are
spelled (see ``fuse-gelu``).

It is one node less, and what the kernels of CUDA, DirectML and WebGPU are made for. It is in
no preset for the CPU: there it is no faster (docs/fusion.md).

Preconditions, per match:
    1. ``b`` is an initializer of one dimension, as long as the last one of ``x``.
    2. Nothing else uses the sum, nor what is computed on the way to a Gelu written out.
    3. The type is float32: onnxruntime has no kernel of others on the CPU.

Numerics: close. Measured: rtol 1e-6 of the largest output.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: a Gelu without a bias, which is as well off as it is.
Reference: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .contributed import MICROSOFT, import_microsoft, is_vector
from .gelu import Gelu, find_gelu
from .variance import producer

__all__ = ["FuseBiasGelu"]

OPERATORS = {"none": "BiasGelu", "tanh": "FastGelu"}


@dataclasses.dataclass(frozen=True)
class FuseBiasGelu(RulePass):
    """Fuse biases into Gelu; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-bias-gelu"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("bias-gelu", ("Gelu", "Erf", "Tanh"), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    gelu = _operator(node) if node.op_type == "Gelu" else find_gelu(node, facts)
    if gelu is None or isinstance(gelu, Reason):
        return gelu
    total = gelu.x
    add = producer(total, "Add")
    shape = facts.shape(total)
    if add is None or not shape or add.graph is not node.graph:
        return None
    # 1.
    found = _bias(add, facts)
    if found is None:
        return Reason("what is added is not an initializer of the width of the last axis")
    x, bias = found
    # 2.
    inside = set(gelu.nodes)
    if total.is_graph_output() or any(user not in inside for user in total.consumers()):
        return Reason(f"{total.name!r} has another use")
    # 3.
    if total.dtype != ir.DataType.FLOAT:
        return Reason(f"onnxruntime has no kernel for {total.dtype}")

    def rewrite(edit: Edit) -> None:
        import_microsoft(edit)
        (y,) = edit.node(
            OPERATORS[gelu.approximate],
            [x, bias],
            before=gelu.last,
            domain=MICROSOFT,
            like=[gelu.output],
            name=gelu.last.name or "",
        )
        edit.supersede(gelu.last, y)
        edit.remove(*gelu.nodes, add)

    return rewrite


def _operator(node: ir.Node) -> Gelu | None:
    """Return the Gelu that an operator computes."""
    x = node.inputs[0]
    approximate = attribute(node, "approximate", "none")
    if x is None or approximate not in OPERATORS:
        return None
    return Gelu(x, node.outputs[0], approximate, (node,))


def _bias(add: ir.Node, facts: Facts) -> tuple[ir.Value, ir.Value] | None:
    """Return what ``add`` adds a bias to, and the bias."""
    shape = facts.shape(add.outputs[0])
    for x, bias in (add.inputs, add.inputs[::-1]):
        if x is None or shape is None or facts.shape(x) != shape:
            continue
        if bias is not None and is_vector(bias, shape[-1], facts):
            return x, bias
    return None

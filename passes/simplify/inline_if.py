"""Let an ``If`` whose condition is constant be the branch it takes.

Before -> after::

    y = If (c) <then_branch = { a = Relu(x); p = Exp(a) },         a = Relu(x)
                else_branch = { q = Neg(x) }>               ->     y = Exp(a)
    # c = true

Preconditions, per match:
    1. The condition is constant: an initializer that is not a graph input, or follows from
       shapes.
    2. No node of the branch has a subgraph of its own; those inside are inlined first.
    3. Every output of the branch is a tensor that the branch, or the graph around it, knows.

Numerics: exact; the same nodes run.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``Loop`` and ``Scan``.
Reference: https://onnx.ai/onnx/operators/onnx__If.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.constants import tensor_of
from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["InlineIf"]

_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclasses.dataclass(frozen=True)
class InlineIf(RulePass):
    """Inline branches that are always taken; see the module docstring for the contract."""

    name: ClassVar[str] = "inline-if"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("constant-condition", ("If",), _match)]


def _condition(node: ir.Node, facts: Facts) -> bool | None:
    """Return the value of the condition; ``None`` where it is not constant."""
    tensor = tensor_of(node.inputs[0])
    if tensor is not None:
        return bool(tensor.numpy().item()) if tensor.size == 1 else None
    content = facts.content(node.inputs[0])
    if content is None or content.size != 1 or not isinstance(content.item(), bool):
        return None
    return bool(content.item())


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 1.
    condition = _condition(node, facts)
    if condition is None:
        return Reason("its condition is not constant")
    branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
    # 2.
    for inner in branch:
        if any(attr.type in _SUBGRAPHS for attr in inner.attributes.values()):
            return Reason(f"its branch holds a {inner.op_type} with a subgraph of its own")
    # 3.
    if len(branch.outputs) != len(node.outputs):
        return Reason("the branch has another number of outputs")

    def rewrite(edit: Edit) -> None:
        moved: dict[ir.Value, ir.Value] = {}
        for value in branch.initializers.values():
            if value.const_value is not None:
                name = value.name or "constant"
                moved[value] = edit.constant(value.const_value, name, near=node)
        for inner in branch:
            outputs = edit.node(
                inner.op_type,
                [None if value is None else moved.get(value, value) for value in inner.inputs],
                before=node,
                attributes=dict(inner.attributes),
                domain=inner.domain,
                overload=inner.overload,
                outputs=len(inner.outputs),
                like=inner.outputs,
                name=inner.name or "",
            )
            moved.update(zip(inner.outputs, outputs, strict=True))
        edit.supersede(node, *(moved.get(value, value) for value in branch.outputs))

    return rewrite

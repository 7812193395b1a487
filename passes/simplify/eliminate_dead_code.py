"""Eliminate nodes, initializers and functions that nothing uses.

Before -> after::

    y = Relu(x)                 y = Relu(x)
    z = Exp(y)           ->     (removed)          # only y is a graph output
    W: initializer without a use                   (removed)

Preconditions, per node:
    1. None of its outputs is used or is a graph output.
    2. Its operator is from the ONNX standard or onnxruntime's ``com.microsoft``, where none
       has a side effect, or is a model-local function; what another domain's operator does is
       not known.

Preconditions, per initializer:
    3. Nothing uses it, and it is not a graph output.
    4. It is not a graph input: the interface stays.

Preconditions, per model-local function:
    5. Neither the graphs nor a function that they call, calls it.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/repo-docs/IR.html#graphs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.ir_access import is_used
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass
from graphopt.rewriter import Rewriter

__all__ = ["EliminateDeadCode"]

PURE_DOMAINS = ("", "ai.onnx.ml", "com.microsoft")


@dataclasses.dataclass(frozen=True)
class EliminateDeadCode(RulePass):
    """Eliminate unused nodes and initializers; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-dead-code"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rule for nodes; initializers and functions follow in ``finish``."""
        del context
        return [Rule("unused-node", (), _match)]

    def finish(self, model: ir.Model, rewriter: Rewriter) -> None:
        """Drop all unused initializers in one application, and functions in another."""
        # 3. and 4.
        unused = [
            value
            for graph in model.graphs()
            for value in graph.initializers.values()
            if not is_used(value) and not value.is_graph_input()
        ]

        def rewrite(edit: Edit) -> None:
            for value in unused:
                edit.remove_initializer(value)

        anchor = model.graph.name or "graph"
        if unused:
            rewriter.apply("unused-initializers", anchor, rewrite)
        # 5.
        uncalled = _uncalled(model)

        def drop(edit: Edit) -> None:
            for function in uncalled:
                edit.remove_function(function)
            edit.note(f"{len(uncalled)} functions")

        if uncalled:
            rewriter.apply("unused-functions", anchor, drop)


def _uncalled(model: ir.Model) -> list[ir.Function]:
    called: dict[ir.Function, None] = {}
    waiting: list[ir.Graph | ir.Function] = [model.graph] if model.functions else []
    while waiting:
        for node in ir.traversal.RecursiveGraphIterator(waiting.pop()):
            function = model.functions.get(node.op_identifier())
            if function is not None and function not in called:
                called[function] = None
                waiting.append(function)
    return [function for function in model.functions.values() if function not in called]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 1.
    if any(map(is_used, node.outputs)):
        return None
    # 2.
    if node.domain not in PURE_DOMAINS and node.op_identifier() not in facts.model.functions:
        return Reason(f"operators of domain {node.domain!r} may have side effects")
    return lambda edit: edit.remove(node)

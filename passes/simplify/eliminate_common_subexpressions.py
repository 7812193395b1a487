"""Compute once what is computed twice.

Before -> after::

    a = Relu(x)                        a = Relu(x)
    b = Relu(x)                        y = Add(a, a)
    y = Add(a, b)              ->

    m = Gather(Shape(h), 0)            m = Gather(Shape(x), 0)     # h: float[batch, 8], later
                               ->      (only that one)             # x: float[batch, 3]

Preconditions, per pair of nodes:
    1. The later one has the same operator, attributes, inputs and number of outputs; or its
       one output is integers that are known to equal those of the earlier one.
    2. The earlier one comes before it in the same graph, or before the node that holds the
       graph of the later one.
    3. The operator is of the ONNX standard, of ``ai.onnx.ml`` or of ``com.microsoft``, gives
       the same answer each time and has no subgraph.
    4. It is no ``Identity``: that is what is left where two graph outputs are equal.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/repo-docs/IR.html#graphs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic import Expr
from graphopt.edit import Edit, Rewrite
from graphopt.ir_access import is_used
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Rule, RulePass
from graphopt.rewriter import Rewriter

__all__ = ["EliminateCommonSubexpressions"]

PURE_DOMAINS = ("", "ai.onnx.ml", "com.microsoft")
NEVER = {
    "Bernoulli", "Dropout", "Identity", "Multinomial", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike",
}  # fmt: skip
MAX_TENSOR_BYTES = 1 << 12
"""Attributes with larger tensors are not compared."""


@dataclasses.dataclass(frozen=True)
class EliminateCommonSubexpressions(RulePass):
    """Compute once what is computed twice; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-common-subexpressions"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return no rule: what comes first can only be seen in a walk from the front."""
        del context
        return []

    def finish(self, model: ir.Model, rewriter: Rewriter) -> None:
        """Walk the model once, from the front."""
        _Walk(rewriter, Facts(model, Context())).visit(model.graph, [])


class _Walk:
    def __init__(self, rewriter: Rewriter, facts: Facts) -> None:
        self._rewriter = rewriter
        self._facts = facts

    def visit(self, graph: ir.Graph, outer: list[dict[Hashable, ir.Node]]) -> None:
        """Visit ``graph``; ``outer`` holds what the graphs around it have computed so far."""
        seen: dict[Hashable, ir.Node] = {}
        # 2.
        scopes = [seen, *outer]
        for node in list(graph):
            for attr in node.attributes.values():
                if attr.is_ref():
                    continue
                if attr.type == ir.AttributeType.GRAPH:
                    self.visit(attr.as_graph(), scopes)
                elif attr.type == ir.AttributeType.GRAPHS:
                    for inner in attr.as_graphs():
                        self.visit(inner, scopes)
            # 1.
            keys = self._keys(node)
            first = next(
                (scope[key] for key in keys for scope in scopes if key in scope), None
            )
            if first is None or not self._rewriter.apply("same", node, _merge(node, first)):
                seen.update(dict.fromkeys(keys, node))

    def _keys(self, node: ir.Node) -> list[Hashable]:
        # 3. and 4.
        if node.domain not in PURE_DOMAINS or node.op_type in NEVER:
            return []
        attributes = []
        for name, attr in sorted(node.attributes.items()):
            key = _attribute_key(attr)
            if key is None:
                return []
            attributes.append((name, key))
        # An output without a name is one that is not computed.
        present = tuple(bool(value.name) for value in node.outputs)
        operator = (node.domain, node.op_type, node.overload, present)
        keys: list[Hashable] = [(operator, tuple(attributes), tuple(node.inputs))]
        value = node.outputs[0]
        content = self._facts.content(value) if len(node.outputs) == 1 else None
        if content is not None and any(isinstance(item, Expr) for item in content.flat):
            keys.append((value.dtype, content.shape, tuple(content.flat)))
        return keys


def _attribute_key(attr: ir.Attr) -> Hashable | None:
    """Return what equal attributes have in common; ``None`` for one that is not compared."""
    if attr.is_ref() or attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return None
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes > MAX_TENSOR_BYTES:
            return None
        return tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()
    value = attr.value
    # repr tells 0.0 from -0.0 and 1 from 1.0.
    return attr.type, repr(tuple(value) if isinstance(value, Sequence) else value)


def _merge(later: ir.Node, first: ir.Node) -> Rewrite:
    def rewrite(edit: Edit) -> None:
        for old, new in zip(later.outputs, first.outputs, strict=True):
            if is_used(old):
                edit.replace(old, new)
        edit.remove(later)

    return rewrite

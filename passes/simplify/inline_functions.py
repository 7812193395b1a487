"""Let a call of a model-local function be the nodes of its body.

Before -> after::

    f (a) <alpha> { b = LeakyRelu<@alpha>(a)               b = LeakyRelu<alpha = 0.1>(x)
                    c = Exp(b); return c }          ->     y = Exp(b)
    y = f<alpha = 0.1>(x)                                  (f: where nothing else calls it)

Preconditions, per call:
    1. The node calls a function of the model in a domain of its own: for a standard operator,
       or one of ``com.microsoft``, onnxruntime may have a kernel that is faster than the body.
    2. Each operator set that the function imports has the version that the model imports, or
       one in which the operators of the body mean the same; or the model imports none of it.
    3. The function does not call itself, on whatever way.
    4. Each output of the function is one of its inputs, which is given, or is computed by it.

Numerics: exact; the same nodes run.
Scope: main graph and subgraphs; a call inside a function is inlined with that function.
Leaves alone: functions that are still called.
Reference: https://onnx.ai/onnx/repo-docs/IR.html#functions
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx
import onnx_ir as ir

# What Function.clone and onnx_ir's own inliner are made of; nothing public maps the values and
# attributes that a body takes from outside, subgraphs included.
from onnx_ir._cloner import Cloner

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.records import graphs_in
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["InlineFunctions"]

KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


@dataclasses.dataclass(frozen=True)
class InlineFunctions(RulePass):
    """Inline calls of functions; see the module docstring for the contract."""

    name: ClassVar[str] = "inline-functions"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("call", (), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    model = facts.model
    function = model.functions.get(node.op_identifier()) if model.functions else None
    if function is None:
        return None
    # 1.
    if node.domain in KNOWN_DOMAINS:
        return Reason(f"onnxruntime may have a kernel for {node.domain}::{node.op_type}")
    # 2.
    news = _new_imports(function, model)
    if isinstance(news, Reason):
        return news
    # 3.
    if _calls_itself(function, model):
        return Reason(f"the function {function.name!r} calls itself")
    given = dict(zip(function.inputs, node.inputs, strict=False))
    # 4.
    for value in function.outputs:
        if value.producer() is None and given.get(value) is None:
            return Reason(f"its output {value.name!r} is not computed")

    def rewrite(edit: Edit) -> None:
        for domain, version in news.items():
            edit.set_opset(domain, version)
        edit.supersede(node, *_insert_body(edit, function, node))

    return rewrite


def _new_imports(function: ir.Function, model: ir.Model) -> dict[str, int] | Reason:
    """Return the operator sets that the model has to import; why the two do not agree."""
    news = {}
    for domain, version in function.opset_imports.items():
        current = model.opset_imports.get(domain)
        if current is None:
            news[domain] = version
        elif current != version:
            for node in ir.traversal.RecursiveGraphIterator(function):
                if node.domain == domain and not _same_meaning(node, version, current):
                    return Reason(
                        f"{node.op_type} of opset {version} in {function.name!r} is another "
                        f"one in opset {current}"
                    )
    return news


def _same_meaning(node: ir.Node, version: int, current: int) -> bool:
    try:
        one, other = (
            onnx.defs.get_schema(node.op_type, at, node.domain).since_version
            for at in (version, current)
        )
    except onnx.defs.SchemaError:
        return False
    return one == other


def _calls_itself(function: ir.Function, model: ir.Model) -> bool:
    waiting, seen = [function], set()
    while waiting:
        for node in ir.traversal.RecursiveGraphIterator(waiting.pop()):
            called = model.functions.get(node.op_identifier())
            if called is function:
                return True
            if called is not None and called not in seen:
                seen.add(called)
                waiting.append(called)
    return False


def _insert_body(edit: Edit, function: ir.Function, call: ir.Node) -> list[ir.Value | None]:
    """Insert what ``function`` consists of in front of ``call``; return its outputs."""
    defaults = {
        name: attr for name, attr in function.attributes.items() if attr.value is not None
    }
    inputs = [*call.inputs, *[None] * (len(function.inputs) - len(call.inputs))]
    values: dict[ir.Value, ir.Value | None] = dict(zip(function.inputs, inputs, strict=True))
    cloner = Cloner(
        attr_map={**defaults, **call.attributes},
        value_map=values,
        metadata_props={},
        resolve_ref_attrs=True,
        allow_outer_scope_values=True,
    )
    for node in function:
        attributes = {}
        for name, attr in node.attributes.items():
            new = cloner.clone_attr(name, attr)
            # Without a value it is one that the call leaves out.
            if new is not None:
                _rename(edit, new)
                attributes[name] = new
        outputs = edit.node(
            node.op_type,
            [None if value is None else values[value] for value in node.inputs],
            before=call,
            attributes={**attributes},
            domain=node.domain,
            overload=node.overload,
            outputs=len(node.outputs),
            like=node.outputs,
            name=node.name or "",
        )
        values.update(zip(node.outputs, outputs, strict=True))
    return [values[value] for value in function.outputs]


def _rename(edit: Edit, attr: ir.Attr) -> None:
    """Give what is defined in the subgraphs of ``attr``, which are new, names of its own."""
    for graph in graphs_in(attr):
        for value in (*graph.inputs, *list(graph.initializers.values())):
            value.name = edit.fresh_name(value.name or "value")
        for node in graph:
            node.name = edit.fresh_name(node.name or node.op_type)
            for value in node.outputs:
                if value.name:
                    value.name = edit.fresh_name(value.name)
            for inner in node.attributes.values():
                _rename(edit, inner)

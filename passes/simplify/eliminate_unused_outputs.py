"""Leave out optional outputs that nothing uses.

Before -> after::

    y, mask = Dropout(x)                        y = Dropout(x)
    z, h, c = LSTM(x, W, R)              ->     , h = LSTM(x, W, R)      # only h is used

Preconditions, per output:
    1. Nothing uses it, and it is not a graph output.
    2. The schema of the operator, in the version that the model imports, calls it optional.
    3. It is not of an operator where the schema says too little (``UNSAFE``):
       ``BatchNormalization`` (the number of outputs says what it computes, or must be that of
       the mode), ``Attention`` (with a past, onnxruntime 1.31 wants the present), ``MaxPool``
       (without the indices it has another kernel, with another answer where there is NaN).
    4. Another output stays: a node without any is the work of ``eliminate-dead-code``.

What is left out at the end is gone, what is left out before an output that stays has an empty
name. onnxruntime does not compute it then.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: operators without a schema in the ``onnx`` package.
Reference: https://onnx.ai/onnx/repo-docs/IR.html#optional-inputs-and-outputs
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import onnx
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.ir_access import is_used
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["UNSAFE", "EliminateUnusedOutputs", "optional_outputs"]

UNSAFE = ("Attention", "BatchNormalization", "MaxPool")
"""Operators that do something else where an optional output is left out; that there are no
others, ``tests/e2e/test_backend_outputs.py`` holds against the node tests of all operators."""


@dataclasses.dataclass(frozen=True)
class EliminateUnusedOutputs(RulePass):
    """Leave out unused outputs; see the module docstring for the contract."""

    name: ClassVar[str] = "eliminate-unused-outputs"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("unused-outputs", _operators(), _match)]


@functools.cache
def _operators() -> tuple[str, ...]:
    """Return the operators that have an optional output in some version."""
    found = set()
    for schema in onnx.defs.get_all_schemas_with_history():
        if optional_outputs(schema):
            found.add(f"{schema.domain}::{schema.name}" if schema.domain else schema.name)
    # 3.
    return tuple(sorted(found - set(UNSAFE)))


def optional_outputs(schema: onnx.defs.OpSchema) -> set[int]:
    """Return the places of the outputs that may be left out."""
    option = onnx.defs.OpSchema.FormalParameterOption.Optional
    return {index for index, value in enumerate(schema.outputs) if value.option == option}


@functools.cache
def _places(op_type: str, version: int, domain: str) -> set[int]:
    try:
        return optional_outputs(onnx.defs.get_schema(op_type, version, domain))
    except onnx.defs.SchemaError:
        return set()


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 1.
    used = [is_used(value) for value in node.outputs]
    unused = [i for i, value in enumerate(node.outputs) if value.name and not used[i]]
    # 4.
    if not unused or not any(used):
        return None
    # 2.
    version = facts.model.opset_imports.get(node.domain, 0)
    optional = _places(node.op_type, version, node.domain)
    gone = [index for index in unused if index in optional]
    if not gone:
        return Reason(f"{node.op_type} must have the output that is not used")
    kept = [i for i, value in enumerate(node.outputs) if value.name and i not in gone]
    count = kept[-1] + 1

    def rewrite(edit: Edit) -> None:
        left_out = ir.Value(name="")
        news = edit.node(
            node.op_type,
            node.inputs,
            before=node,
            attributes=dict(node.attributes),
            domain=node.domain,
            outputs=count,
            like=[
                left_out if index in gone else value
                for index, value in enumerate(node.outputs[:count])
            ],
            name=node.name or "",
        )
        edit.supersede(node, *news)

    return rewrite

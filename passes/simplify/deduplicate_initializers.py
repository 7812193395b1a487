"""Let equal initializers be one.

Before -> after::

    y = Add(x, A)               y = Add(x, A)
    z = Mul(y, B)        ->     z = Mul(y, A)      # A and B: same dtype, shape and bytes

Preconditions, per pair:
    1. Both are initializers and neither is a graph input, which the caller could override.
    2. They have the same dtype, shape and bytes: +0.0 is not -0.0, and NaN equals itself.
    3. The one that is kept is visible where the other is used: it belongs to the main graph or
       to the same graph.
    4. Neither holds strings.

Numerics: exact.
Scope: main graph and subgraphs; model-local functions have no initializers.
Leaves alone: the second initializer itself, which ``eliminate-dead-code`` removes.
Reference: https://onnx.ai/onnx/repo-docs/IR.html#graphs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.model_io import ends_of
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["DeduplicateInitializers"]

SAMPLE_BYTES = 1024
"""Of a large tensor only this many bytes from either end are read to tell it from others;
all of it is read only when those agree."""

Key: TypeAlias = "tuple[ir.DataType, tuple[int, ...], bytes]"


@dataclasses.dataclass(frozen=True)
class DeduplicateInitializers(RulePass):
    """Let equal initializers be one; see the module docstring for the contract."""

    name: ClassVar[str] = "deduplicate-initializers"
    promise: ClassVar[Promise] = Promise.EXACT

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rule, with the table of tensors seen in this run."""
        del context
        return [Rule("equal-initializers", (), _Table().match)]


class _Table:
    """The first initializer of each content."""

    def __init__(self) -> None:
        self._kept: dict[Key, list[ir.Value]] = {}
        self._keys: dict[ir.Value, Key] = {}

    def match(self, node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
        news = [
            (i, kept) for i, v in enumerate(node.inputs) if (kept := self._first(v, facts))
        ]
        if not news:
            return None

        def rewrite(edit: Edit) -> None:
            for index, kept in news:
                old = node.inputs[index]
                assert old is not None
                edit.entry.values_replaced[old.name or ""] = kept.name or ""
                edit.set_input(node, index, kept)

        return rewrite

    def _first(self, value: ir.Value | None, facts: Facts) -> ir.Value | None:
        """Return the earlier initializer that equals ``value``, if there is one."""
        # 1.
        if value is None or not value.is_initializer() or value.is_graph_input():
            return None
        tensor = value.const_value
        # 4.
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            return None
        key = self._keys.get(value)
        if key is None:
            key = self._keys[value] = _key(tensor)
        candidates = self._kept.setdefault(key, [])
        for kept in candidates:
            if kept is value:
                return None
            other = kept.const_value
            # 3. An initializer that has lost its last use may be gone from its graph.
            if other is None or kept.graph not in (facts.model.graph, value.graph):
                continue
            # 2.
            if tensor.nbytes <= 2 * SAMPLE_BYTES or _same_bytes(tensor, other):
                return kept
        candidates.append(value)
        return None


def _key(tensor: ir.TensorProtocol) -> Key:
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    if tensor.nbytes <= 2 * SAMPLE_BYTES:
        return tensor.dtype, shape, tensor.tobytes()
    return tensor.dtype, shape, ends_of(tensor, SAMPLE_BYTES)


def _same_bytes(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    first, second = (
        np.ascontiguousarray(t.numpy()).reshape(-1).view(np.uint8) for t in (a, b)
    )
    return bool(np.array_equal(first, second))

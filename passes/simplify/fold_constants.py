"""Compute what is constant, once, with onnxruntime.

Before -> after::

    c = Add(A, B)               (removed; c = A + B is an initializer)
    y = Mul(x, c)        ->     y = Mul(x, c)

    s = Shape(x)         ->     s = [2, 3]          # x: float[2, 3]
    c = Constant()       ->     c is an initializer

Preconditions, per node:
    1. All its inputs are constants: initializers that are not graph inputs, or folded before.
       For ``Shape`` and ``Size`` the shape of the input is enough.
    2. It is an operator of the ONNX standard that gives the same answer each time, has no
       subgraph, and is not ``DequantizeLinear``: folding that would undo a quantization.
    3. It is not an ``Identity`` or a ``Constant`` that is a graph output: a graph output needs
       a node.
    4. The file does not grow by more than ``max_bytes`` over the whole run. What an operator
       would produce is bounded before it is computed (``Expand``, ``Tile``, ``Range`` …).
    5. onnxruntime can compute it; what it refuses (a division by zero, an index out of range)
       is left for the run.

Numerics: exact; the same kernels compute it that would have computed it in every run.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``If`` with a constant condition, ``Loop``, ``Scan``.
Reference: https://onnx.ai/onnx/repo-docs/IR.html#graphs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute, tensor_of
from graphopt.edit import Edit, Rewrite
from graphopt.errors import ExecutionError
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

__all__ = ["FoldConstants"]

NEVER = {
    # Another answer each time.
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
    # Would undo a quantization.
    "DequantizeLinear",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FoldConstants(RulePass):
    """Compute what is constant; see the module docstring for the contract.

    Attributes:
        max_bytes: Bytes by which the file may grow. A node whose result is smaller than the
            constants it frees costs nothing.
    """

    name: ClassVar[str] = "fold-constants"
    promise: ClassVar[Promise] = Promise.EXACT

    max_bytes: int = 1 << 20

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules, with the bytes spent in this run."""
        del context
        folder = _Folder(self.max_bytes)
        return [
            Rule("lift-constant", ("Constant",), _lift),
            Rule("fold-shape", ("Shape", "Size"), _fold_shape),
            Rule("fold", (), folder.match),
        ]


def _lift(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    value = node.outputs[0]
    # 3.
    if value.is_graph_output():
        return Reason("it is a graph output")
    tensor = tensor_of(value)
    if tensor is None:
        return Reason("its value cannot be read as a tensor")

    def rewrite(edit: Edit) -> None:
        name = value.name or "constant"
        edit.replace(value, edit.constant(tensor, name, near=node))
        edit.remove(node)

    return rewrite


def _fold_shape(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    del facts
    x = node.inputs[0]
    # 1.
    if x is None or x.shape is None:
        return Reason("the shape of its input is not known")
    start, end = attribute(node, "start", 0), attribute(node, "end")
    dims = x.shape.dims[start:end] if node.op_type == "Shape" else x.shape.dims
    if not all(isinstance(dim, int) for dim in dims):
        return Reason("its input has dimensions that are not fixed")
    sizes = np.array(dims, np.int64)
    result = sizes if node.op_type == "Shape" else np.array(sizes.prod(), np.int64)
    return _replacement(node, [result])


class _Folder:
    """Folds nodes while the budget lasts."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes

    def match(self, node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
        if not node.inputs or node.op_type == "Constant":
            return None
        tensors = [tensor_of(value) for value in node.inputs]
        # 1.
        if any(t is None for t, v in zip(tensors, node.inputs, strict=True) if v is not None):
            return None
        if refusal := _refusal(node):
            return refusal
        freed = sum(
            tensor.nbytes
            for tensor, value in zip(tensors, node.inputs, strict=True)
            if tensor is not None and value is not None and facts.only_use(value) is node
        )
        arrays = [None if tensor is None else tensor.numpy() for tensor in tensors]
        # 4.
        allowed = self._left + freed
        bound = _size_bound(node, arrays)
        if bound > allowed:
            return Reason(f"its result of {bound} bytes would make the file grow too much")
        # 5.
        try:
            results = facts.context.runtime.evaluate(node, arrays, facts.model.opset_imports)
        except ExecutionError as error:
            return Reason(f"onnxruntime cannot compute it: {error.message}")
        size = sum(result.nbytes for result in results)
        if size > allowed:
            return Reason(f"its result of {size} bytes would make the file grow too much")
        replacement = _replacement(node, results)

        def rewrite(edit: Edit) -> None:
            replacement(edit)
            self._left -= size - freed

        return rewrite


def _refusal(node: ir.Node) -> Reason | None:
    # 2.
    if node.domain:
        return Reason(f"operators of domain {node.domain!r} are not folded")
    if node.op_type in NEVER:
        return Reason(f"{node.op_type} is never folded")
    if node.op_type == "Dropout" and len(node.inputs) > 2:
        return Reason("a Dropout in training mode gives another answer each time")
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attr.type in kinds for attr in node.attributes.values()):
        return Reason("it holds a subgraph")
    # 3.
    if node.op_type == "Identity" and node.outputs[0].is_graph_output():
        return Reason("it is a graph output")
    if any(value.is_graph_output() and value.type is None for value in node.outputs):
        return Reason("the type of a graph output is not known")
    return None


def _size_bound(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> int:
    """Return a lower bound of the result's bytes for the operators that can explode."""
    first = arrays[0]
    if first is None:
        return 0
    item = first.itemsize
    if node.op_type == "ConstantOfShape":
        return int(np.prod(first.astype(float)))
    if node.op_type == "Expand" and arrays[1] is not None:
        return int(max(np.prod(arrays[1].astype(float)), first.size) * item)
    if node.op_type == "Tile" and arrays[1] is not None:
        return int(np.prod(arrays[1].astype(float)) * first.size * item)
    if node.op_type == "Range" and arrays[1] is not None and arrays[2] is not None:
        step = float(arrays[2])
        steps = (float(arrays[1]) - float(first)) / step if step else 0.0
        return int(max(steps, 0.0) * item) if np.isfinite(steps) else 1 << 62
    return 0


def _replacement(node: ir.Node, results: Sequence[np.ndarray]) -> Rewrite:
    def rewrite(edit: Edit) -> None:
        for value, result in zip(node.outputs, results, strict=False):
            if value.uses() or value.is_graph_output():
                name = value.name or "folded"
                edit.replace(value, edit.constant(result, name, near=node))
        edit.remove(node)

    return rewrite

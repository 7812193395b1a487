"""Compute what is constant, once, with onnxruntime.

Before -> after::

    c = Add(A, B)               (removed; c = A + B is an initializer)
    y = Mul(x, c)        ->     y = Mul(x, c)

    s = Shape(x)         ->     s = [2, 3]          # x: float[2, 3]
    n = Gather(s, 1)     ->     n = 3               # x: float[N, 3]: enough that n is fixed
    c = Constant()       ->     c is an initializer

Preconditions, per node:
    1. All its inputs are constants: initializers that are not graph inputs, or folded before.
       For integers that follow from shapes it is enough that the result is known.
    2. It is an operator of the ONNX standard that gives the same answer each time, has no
       subgraph, and is not ``DequantizeLinear``: folding that would undo a quantization. It
       takes and gives no strings.
    3. It is not an ``Identity`` or a ``Constant`` that is a graph output: a graph output needs
       a node.
    4. The file does not grow by more than ``max_bytes`` and ``max_share`` over the whole run;
       what later rewrites no longer use does not count. What an operator would produce is
       bounded before it is computed (``Expand``, ``Tile``, ``Range`` …).
    5. onnxruntime can compute it; what it refuses (a division by zero, an index out of range)
       is left for the run.
    6. ``Constant``: the model is of IR version 4 or later; before, every initializer is a
       graph input, and what is folded becomes a ``Constant``.

Numerics: exact; the same kernels compute it that would have computed it in every run, or
numpy, where there is one correct answer (``exact_kernels``). What only moves data
(``Transpose``, ``Reshape`` …) is a view of the same weight.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``If`` with a constant condition, ``Loop``, ``Scan``.
Reference: https://onnx.ai/onnx/repo-docs/IR.html#graphs
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.facts import Facts
from graphopt.edit import FREE_INITIALIZERS, Edit, Rewrite
from graphopt.errors import ExecutionError, PipelineError
from graphopt.ir_access import is_used
from graphopt.model_io import MappedTensor
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .exact_kernels import compute
from .foldable import SMALL_BYTES, Budget, refusal_of

__all__ = ["FoldConstants"]

RESHAPING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
MOST_HELD_BYTES = 1 << 16
"""What is larger is not kept in memory where it can be read from the file again."""


@dataclasses.dataclass(frozen=True)
class FoldConstants(RulePass):
    """Compute what is constant; see the module docstring for the contract.

    Attributes:
        max_bytes: Bytes by which the file may grow. A node whose result is smaller than the
            constants it frees costs nothing.
        max_share: Share of the bytes of all weights by which it may grow beyond that.
    """

    name: ClassVar[str] = "fold-constants"
    promise: ClassVar[Promise] = Promise.EXACT

    max_bytes: int = 4096
    max_share: float = 0.001

    def __post_init__(self) -> None:
        """Check the options."""
        if self.max_bytes < 0:
            raise PipelineError("bad-option", f"{self.name}: max-bytes is negative.")
        if not 0 <= self.max_share < math.inf:
            raise PipelineError("bad-option", f"{self.name}: max-share is no share.")

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules, with the bytes spent in this run."""
        del context
        folder = _Folder(Budget(self.max_bytes, self.max_share))
        return [
            Rule("lift-constant", ("Constant",), _lift),
            Rule("fold-integers", (), folder.match_integers),
            Rule("fold", (), folder.match),
        ]


def _lift(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    # 6.
    if facts.model.ir_version < FREE_INITIALIZERS:
        return None
    value = node.outputs[0]
    # 3.
    if value.is_graph_output():
        return Reason("it is a graph output")
    tensor = tensor_of(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return Reason("its value cannot be read as a tensor of numbers")

    def rewrite(edit: Edit) -> None:
        edit.supersede(node, edit.constant(tensor, value.name or "constant", near=node))

    return rewrite


class _Folder:
    """Folds nodes while the budget lasts."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def match_integers(self, node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
        """Fold integers that follow from shapes; others too, without asking onnxruntime."""
        value = node.outputs[0]
        kind = ir.DataType.INT64 if node.op_type in ("Shape", "Size") else value.dtype
        if kind not in INTEGERS or node.op_type in ("Constant", "Identity"):
            return None
        content = facts.content(value)
        # 1.
        if content is None or not all(isinstance(item, int) for item in content.flat):
            return None
        if any(map(is_used, node.outputs[1:])):
            return None
        return self._folded(node, [content.astype(kind.numpy())], facts)

    def match(self, node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
        """Fold a node whose inputs are constants."""
        if not node.inputs or node.op_type == "Constant":
            return None
        tensors = []
        for value in node.inputs:
            tensor = tensor_of(value)
            # 1.
            if tensor is None and value is not None:
                return None
            tensors.append(tensor)
        if refusal := refusal_of(node):
            return refusal
        if node.op_type == "Identity":
            return lambda edit: edit.supersede(node, node.inputs[0])
        results = _view(node, facts)
        if results is None:
            # 4.
            bound = _size_bound(node, facts)
            allowed = self._budget.allowed(node, facts.model, bound)
            if bound > allowed:
                return Reason(f"its result of {bound} bytes would make the file grow too much")
            arrays = [None if tensor is None else tensor.numpy() for tensor in tensors]
            opsets = facts.model.opset_imports
            known = compute(node, arrays, opsets, max_bytes=allowed)
            # 5.
            try:
                results = (
                    [known]
                    if known is not None
                    else facts.context.runtime.evaluate(node, arrays, opsets, allowed)
                )
            except ExecutionError as error:
                return Reason(f"onnxruntime cannot compute it: {error.message}")
        return self._folded(node, results, facts)

    def _folded(
        self,
        node: ir.Node,
        results: Sequence[np.ndarray | ir.TensorProtocol],
        facts: Facts,
    ) -> Rewrite | Reason | None:
        if refusal := refusal_of(node):
            return refusal
        size = sum(result.nbytes for result in results)
        # 4.
        if size > SMALL_BYTES and size > self._budget.allowed(node, facts.model, size):
            return Reason(f"its result of {size} bytes would make the file grow too much")

        def rewrite(edit: Edit) -> None:
            self._budget.spend(node, size)
            news: list[ir.Value | None] = []
            for value, result in zip(node.outputs, results, strict=False):
                new = None
                if is_used(value):
                    new = edit.constant(result, value.name or "folded", near=node)
                    if size > SMALL_BYTES:
                        self._budget.made(new, result.nbytes)
                news.append(new)
            edit.supersede(node, *news)

        return rewrite


def _view(node: ir.Node, facts: Facts) -> Sequence[np.ndarray | ir.TensorProtocol] | None:
    """Return the result of a node that only moves data, as a view; ``None`` for others."""
    tensor = tensor_of(node.inputs[0])
    if tensor is None:
        return None
    if node.op_type == "Transpose":
        axes = range(len(tensor.shape))
        perm = attribute(node, "perm", tuple(reversed(axes)))
        # 5.
        return [_transposed(tensor, perm)] if sorted(perm) == list(axes) else None
    if node.op_type not in RESHAPING:
        return None
    shape = facts.shape(node.outputs[0])
    sizes = tuple(dim for dim in shape or () if isinstance(dim, int))
    if shape is None or len(sizes) != len(shape) or math.prod(sizes) != tensor.size:
        return None
    if isinstance(tensor, MappedTensor):
        return [MappedTensor(tensor.source, tensor.offset, tensor.dtype, ir.Shape(sizes))]
    return [tensor.numpy().reshape(sizes)]


def _transposed(
    tensor: ir.TensorProtocol, perm: Sequence[int]
) -> np.ndarray | ir.TensorProtocol:
    """Return a transposed tensor; a large one is made when it is looked at, and not kept."""
    if tensor.nbytes <= MOST_HELD_BYTES:
        return tensor.numpy().transpose(perm)
    dims = tensor.shape.numpy()
    shape = ir.Shape([dims[axis] for axis in perm])
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().transpose(perm)), tensor.dtype, shape
    )


def _size_bound(node: ir.Node, facts: Facts) -> int:
    """Return the bytes of the first output, where its shape is known; 0 elsewhere."""
    value = node.outputs[0]
    shape = facts.shape(value)
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return 0
    item = value.dtype.itemsize if value.dtype is not None else 1
    return math.ceil(math.prod(int(dim) for dim in shape if isinstance(dim, int)) * item)

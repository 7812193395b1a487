"""Fuse ``MatMul`` of two matrices and the addition of a bias into ``Gemm``.

Before -> after::

    y = MatMul(x, W)
    z = Add(y, b)                ->     z = Gemm(x, W, b)

onnxruntime does the same when it loads the model; here it is one node less, and a layer that
a ``BatchNormalization``, a factor or a summand behind it can be fused into.

Preconditions, per match:
    1. Both operands of the ``MatMul`` are known to be matrices.
    2. ``b`` is a constant with one element, or one a column, and adds no dimension.
    3. ``y`` has no other use.
    4. The type is float32, float16 or float64.

Numerics: close. Measured: rtol 1e-6 of the largest output for float32.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: more dimensions, which would take a ``Reshape`` before and behind.
Reference: https://onnx.ai/onnx/operators/onnx__Gemm.html
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

from .linear_layers import FLOATS
from .variance import operand, producer

__all__ = ["FuseMatMulAdd"]

BROADCASTING = 7  # before, by an attribute


@dataclasses.dataclass(frozen=True)
class FuseMatMulAdd(RulePass):
    """Fuse MatMul and Add; see the module docstring for the contract."""

    name: ClassVar[str] = "fuse-matmul-add"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("matmul-add", ("Add",), _match)]


def _match(add: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    matmul = next((m for v in add.inputs if (m := producer(v, "MatMul"))), None)
    if matmul is None or facts.opset < BROADCASTING:
        return None
    y = matmul.outputs[0]
    bias = operand(add, y)
    tensor = tensor_of(bias)
    if tensor is None:
        return None
    # 1.
    shapes = [facts.shape(value) for value in matmul.inputs]
    if any(shape is None or len(shape) != 2 for shape in shapes):
        return Reason("an operand of the MatMul is not known to be a matrix")
    # 2.
    columns = shapes[1][1] if shapes[1] is not None else None
    if tuple(tensor.shape.numpy()) not in ((), (1,), (1, 1), (columns,), (1, columns)):
        return Reason("it does not add one number a column")
    # 3.
    if facts.only_use(y) is not add:
        return Reason(f"{y.name!r} has another use")
    # 4.
    if tensor.dtype not in FLOATS:
        return Reason(f"Gemm of {tensor.dtype} is not fused")

    def rewrite(edit: Edit) -> None:
        (z,) = edit.node(
            "Gemm",
            [*matmul.inputs, bias],
            before=add,
            like=add.outputs,
            name=matmul.name or "",
        )
        edit.supersede(add, z)
        edit.remove(matmul)

    return rewrite

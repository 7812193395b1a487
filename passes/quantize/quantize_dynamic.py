"""Quantize weights to int8, and activations in every run by the range they have then.

Before -> after (MatMul; a Gemm is read as one, with its bias added behind)::

    y = MatMul(x, W)    ->    q, s, z = DynamicQuantizeLinear(x)          q uint8
                              a = MatMulInteger(q, W8, z)                 int32
                              y = Mul(Cast(a), Mul(s, SW))

    y = Gather(T, i)    ->    y = Mul(Cast(Gather(T8, i)), Gather(ST, i))

``W8`` is int8, symmetric, with one scale an output channel in ``SW``; ``T8`` has one a row in
``ST`` ``[V, 1]``. Operators that read the same ``x`` share one DynamicQuantizeLinear, those
that share a weight share its int8 copy. onnxruntime fuses the first form to
``DynamicQuantizeMatMul`` or ``MatMulIntegerToFloat``.

Preconditions, per operator:
    1. It is selected by ``include`` and ``exclude``, and with ``scope=half`` it is in the half
       of the operators whose weights lose the least (energy of the rounding error over energy
       of the weight).
    2. MatMul or Gemm: the right operand is a constant float32 matrix, not empty, ``transA`` is
       0; the left one is no vector. Gather: the table is one, with at least ``MIN_TABLE``
       elements, and rows are looked up.
    3. The model imports opset 11 or later (DynamicQuantizeLinear).
    4. It is not inside a model-local function, which holds no initializers.

Numerics: lossy. Each weight is off by at most half a step, 1/254 of the largest in its
channel; each activation by at most one step of its tensor in that run, 1/255 of its range.
Scope: main graph and subgraphs.
Leaves alone: products of two activations, Conv (ConvInteger is slower than float on
onnxruntime), ConvTranspose, LSTM, GRU, RNN, Einsum. Each is noted with its reason.
Reference: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html,
onnx__MatMulInteger.html; what is fused: onnxruntime 1.31.1,
dynamic_quantize_matmul_fusion.cc, matmul_integer_to_float.cc.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.qparams import QParams
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason
from graphopt.rewriter import Rewriter

from .dynamic_form import DynamicForm, Operator, ScaleChoice
from .linear import Linear, Lookup, read_linear
from .selection import Scope, Selection, least_sensitive_half
from .table_form import read_table, row_scales
from .weight_artifacts import rounding_noise, weight_scales

__all__ = ["QuantizeDynamic"]

logger = logging.getLogger(__name__)

MIN_OPSET = 11

_HOLDS_WEIGHTS = {
    "Conv": "ConvInteger is slower than float convolution on onnxruntime",
    "ConvTranspose": "no integer kernel exists for it",
    "Einsum": "no integer kernel exists for it",
    "GRU": "no integer kernel exists for it",
    "LSTM": "no integer kernel of the ONNX standard exists for it",
    "RNN": "no integer kernel exists for it",
}


@dataclasses.dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Quantize MatMul, Gemm and Gather; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators to quantize (an operator type, or a glob for the name of
            a node or of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        scope: ``full``: every operator that can be; ``half``: the half of them (rounded up)
            whose weights lose the least.
        embeddings: Whether tables that Gather looks up are quantized.
        per_channel: One scale an output channel; otherwise one a weight.
    """

    name: ClassVar[str] = "quantize-dynamic"
    promise: ClassVar[Promise] = Promise.LOSSY

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    scope: Scope = "full"
    embeddings: bool = True
    per_channel: bool = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Choose the operators, then quantize each in an application of its own."""
        rewriter = context.rewriter(model, self)
        scales = functools.partial(self.qparams, context)
        chosen = self._choose(model, rewriter, scales, context)
        form = DynamicForm(chosen, scales)
        count = 0
        for operator in chosen:
            edit = rewriter.apply(self.name, operator.node, form.rewrite(operator))
            count += edit is not None
        summary = f"quantized {count} operators"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)

    def _choose(
        self, model: ir.Model, rewriter: Rewriter, scales: ScaleChoice, context: Context
    ) -> list[Operator]:
        """Return the operators to quantize, in graph order; give the ledger the others."""
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        selection = Selection(self.include, self.exclude)
        selection.check(nodes)
        found: list[Operator] = []
        for node in nodes:
            operator = self._read(node, model)
            if operator is None:
                continue
            # 1.
            if not isinstance(operator, Reason) and (refusal := selection.refusal(node)):
                operator = Reason(refusal)
            if isinstance(operator, Reason):
                rewriter.skip(self.name, node, operator.text)
            else:
                found.append(operator)
        # 4.
        for function in model.functions.values():
            for node in function:
                if node.op_type in ("MatMul", "Gemm"):
                    rewriter.skip(self.name, node, "it is inside a model-local function")
        if self.scope == "full":
            return found
        chosen, others = least_sensitive_half(
            found, lambda op: _noise(context, op, scales(op))
        )
        for operator, noise in others:
            kept = -10 * np.log10(max(noise, 1e-30))
            text = f"in the half that loses the most: its weight keeps {kept:.1f} dB"
            rewriter.skip(self.name, operator.node, text)
        return [operator for operator, _ in chosen]

    def _read(self, node: ir.Node, model: ir.Model) -> Operator | Reason | None:
        """Return ``node`` as an operator, or why not; ``None`` if it holds no weight."""
        if node.domain not in ("", "ai.onnx"):
            return None
        # 2.
        operator: Operator | Reason | None
        if node.op_type in ("MatMul", "Gemm"):
            operator = read_linear(node)
        elif node.op_type == "Gather":
            operator = read_table(node)
            if isinstance(operator, Lookup) and not self.embeddings:
                operator = Reason("tables are left alone (embeddings=false)")
        elif node.op_type in _HOLDS_WEIGHTS and any(map(tensor_of, node.inputs)):
            operator = Reason(_HOLDS_WEIGHTS[node.op_type])
        else:
            return None
        # 3.
        if isinstance(operator, Linear) and model.opset_imports.get("", 0) < MIN_OPSET:
            return Reason(f"DynamicQuantizeLinear needs opset {MIN_OPSET}")
        return operator

    def qparams(self, context: Context, operator: Operator) -> QParams:
        """Return the scales of the operator's weight, as it is stored."""
        if isinstance(operator, Lookup):
            return row_scales(operator)
        axis = operator.channel_axis if self.per_channel else None
        return weight_scales(context, operator.weight, axis)


def _noise(context: Context, operator: Operator, qparams: QParams) -> float:
    source = operator.weight if isinstance(operator, Linear) else operator.table
    return rounding_noise(context, source, qparams)

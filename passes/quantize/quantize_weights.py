"""Store weights as int8 or int4 in blocks; compute with float activations.

Before -> after (``standard``, one scale for each block of rows of a column)::

    y = MatMul(x, W)   ->   y = MatMul(x, DequantizeLinear<axis=0, block_size>(Wq, S))

    (``onnxruntime``)  ->   y = com.microsoft.MatMulNBits<bits, block_size>(x, Wq', S')

onnxruntime makes the second form of the first where the DequantizeLinear has one reader. Its
kernel rounds each activation to 8 bits within its block, so that nothing has to be calibrated
and an outlier spoils its own block only.

Preconditions, per operator:
    1. Selected by ``include`` and ``exclude``.
    2. MatMul with a constant float32 matrix on the right, not empty. A Gemm too, in the
       ``standard`` form, if its alpha and beta are 1.
    3. ``standard`` in blocks: the model imports opset 21 or later (blocked DequantizeLinear,
       int4). With opset 13 to 20 int8 gets one scale a column instead, int4 is left alone.
    4. K is a multiple of ``block_size``.
    5. No other operator uses the weight: it would have to be kept as well.

Numerics: lossy. A weight is off by at most half a step: of its block's largest magnitude,
1/254 with 8 bits and 1/14 with 4; activations as described above, on onnxruntime.
Scope: main graph and subgraphs.   Leaves alone: Conv, Gather (see ``quantize-dynamic``).
Reference: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html (block_size);
onnxruntime 1.31, contrib_ops/cpu/quantization/matmul_nbits.cc.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.edit import AttributeValue, Edit
from graphopt.passbase import Context, Pass, PassResult, Promise, Target
from graphopt.rewrite import Reason

from .linear import Linear, read_linear
from .linear_groups import readers_of
from .selection import Selection, label
from .weights import drop_unused

__all__ = ["QuantizeWeights"]

logger = logging.getLogger(__name__)

_OPSET_BLOCKED = 21
_OPSET_CHANNELS = 13


@dataclasses.dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize weights only; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators to quantize (an operator type, or a glob for the name of
            a node or of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        bits: Bits of a weight.
        block_size: Rows that share a scale: a power of two, 16 at least.
    """

    name: ClassVar[str] = "quantize-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    bits: Literal[8, 4] = 8
    block_size: int = 32

    def __post_init__(self) -> None:
        if self.block_size < 16 or self.block_size & (self.block_size - 1):
            raise ValueError(
                f"block-size must be a power of two from 16 on, got {self.block_size}"
            )

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Quantize the operators, each in an application of its own."""
        rewriter = context.rewriter(model, self)
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        selection = Selection(self.include, self.exclude)
        selection.check(nodes)
        opset = model.opset_imports.get("", 0)
        count = total = 0
        for node in nodes:
            if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
                continue
            total += 1
            found = self._read(node, selection, opset, context.target)
            if isinstance(found, Reason):
                rewriter.skip(self.name, node, found.text)
                continue
            write = self._nbits if context.target is Target.ONNXRUNTIME else self._standard
            rewrite = functools.partial(write, op=found, opset=opset)
            count += rewriter.apply(self.name, node, rewrite) is not None
        if count and context.target is Target.ONNXRUNTIME:
            model.opset_imports.setdefault("com.microsoft", 1)
        summary = f"quantized {count} of {total} weights"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)

    def _read(
        self, node: ir.Node, selection: Selection, opset: int, target: Target
    ) -> Linear | Reason:
        # 1.
        if refusal := selection.refusal(node):
            return Reason(refusal)
        # 2.
        linear = read_linear(node)
        if isinstance(linear, Reason):
            return linear
        if target is Target.ONNXRUNTIME:
            if node.op_type == "Gemm":
                return Reason("MatMulNBits has neither alpha nor beta")
        # 3.
        elif opset < (_OPSET_CHANNELS if self.bits == 8 else _OPSET_BLOCKED):
            needed = _OPSET_CHANNELS if self.bits == 8 else _OPSET_BLOCKED
            return Reason(f"int{self.bits} weights need opset {needed}")
        if (linear.alpha, linear.beta) != (1, 1):
            return Reason(f"its alpha is {linear.alpha:g}, its beta {linear.beta:g}")
        # 4.
        rows = linear.matrix().shape[0]
        if rows % self.block_size:
            return Reason(f"its {rows} rows are no multiple of {self.block_size}")
        # 5.
        if set(readers_of(linear.weight)) != {node}:
            return Reason(f"another operator uses the weight {linear.weight.name!r}")
        return linear

    @property
    def _limit(self) -> int:
        return 127 if self.bits == 8 else 7

    def _quantize(
        self, weight: npt.NDArray[np.float32], block: int
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """Return integers ``[K, N]`` and scales ``[K / block, N]``."""
        rows, columns = weight.shape
        blocks = weight.reshape(rows // block, block, columns)
        scales = np.abs(blocks).max(axis=1) / np.float32(self._limit)
        scales = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
        integers = np.clip(np.rint(blocks / scales[:, None]), -self._limit, self._limit)
        return integers.reshape(weight.shape).astype(np.int8), scales

    def _standard(self, edit: Edit, op: Linear, opset: int) -> None:
        node, weight = op.node, op.matrix()
        # Without blocks one scale holds for the whole column.
        block = self.block_size if opset >= _OPSET_BLOCKED else len(weight)
        integers, scales = self._quantize(weight, block)
        attributes: dict[str, AttributeValue] = {"axis": 0, "block_size": block}
        if opset < _OPSET_BLOCKED:
            scales, attributes = scales[0], {"axis": 1}
        name = op.weight.name
        operand = node.inputs[1]
        assert operand is not None
        quantized = edit.constant(self._tensor(integers), f"{name}_quantized", near=node)
        scale = edit.constant(np.ascontiguousarray(scales), f"{name}_scale", near=node)
        (dq,) = edit.node(
            "DequantizeLinear",
            [quantized, scale],
            before=node,
            attributes=attributes,
            name=f"{label(node)}_dequantize",
        )
        edit.set_type(dq, ir.TensorType(ir.DataType.FLOAT), ir.Shape(weight.shape))
        edit.set_input(node, 1, dq)
        if node.op_type == "Gemm" and "transB" in node.attributes:
            edit.set_attribute(node, "transB", None)
        drop_unused(edit, operand)
        edit.note(self._note(weight))

    def _tensor(self, integers: npt.NDArray[np.int8]) -> ir.TensorProtocol:
        if self.bits == 8:
            return ir.tensor(integers)
        import ml_dtypes

        return ir.tensor(integers.astype(ml_dtypes.int4), dtype=ir.DataType.INT4)

    def _nbits(self, edit: Edit, op: Linear, opset: int) -> None:
        del opset
        node, (y,), weight = op.node, op.node.outputs, op.matrix()
        rows, columns = weight.shape
        integers, scales = self._quantize(weight, self.block_size)
        # [N, blocks, bytes of a block], the middle of the unsigned integers standing for 0.
        blocks = integers.T.reshape(columns, rows // self.block_size, self.block_size)
        unsigned: npt.NDArray[Any] = (blocks.astype(np.int16) + (1 << (self.bits - 1))).astype(
            np.uint8
        )
        if self.bits == 4:
            unsigned = unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)
        name = op.weight.name
        operand = node.inputs[1]
        assert operand is not None
        quantized = edit.constant(
            np.ascontiguousarray(unsigned), f"{name}_quantized", near=node
        )
        scale = edit.constant(
            np.ascontiguousarray(scales.T).reshape(-1), f"{name}_scale", near=node
        )
        (result,) = edit.node(
            "MatMulNBits",
            [op.x, quantized, scale],
            before=node,
            domain="com.microsoft",
            attributes={
                "K": rows,
                "N": columns,
                "bits": self.bits,
                "block_size": self.block_size,
                # Activations are rounded to 8 bits a block: what the standard form gets too.
                "accuracy_level": 4,
            },
            like=[y],
            name=label(node),
        )
        edit.replace(y, result)
        edit.remove(node)
        drop_unused(edit, operand, [node])
        edit.note(self._note(weight))

    def _note(self, weight: npt.NDArray[Any]) -> str:
        return f"{weight.shape[0]}x{weight.shape[1]} weight to int{self.bits}"

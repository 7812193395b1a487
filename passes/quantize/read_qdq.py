"""Take the Q and DQ out of a quantized model, and remember their scales.

Before -> after::

    y = Q/DQ(Conv(Q/DQ(x), DQ(W8), DQ(B32)))   ->   y = Conv(x, W, B)

For models that another tool has quantized, or that were trained with quantization. Where Q
and DQ stand in places that onnxruntime does not fuse, the model is slower than in float. This
takes them out; ``quantize-static``, later in the same pipeline, puts them where they are
fused, with the scales that they had: the same integers for weights, the same steps for
activations.
Between the two other passes may simplify and fuse. What the model had in float stays in float.

Where all integers of a Q stand for numbers of one sign it may do the work of a Relu or Clip
that was taken out: a Clip to its range takes its place behind operators that compute.

Preconditions, per pair of Q and DQ of an activation:
    1. All users of the Q are DQ with its constant scale and zero point, one number each, of
       type int8 or uint8; its result is no graph output. (Of a constant: one scale an entry
       of an axis too.)
Per DQ of a constant int8, uint8 or int32:
    2. An operator that reads it, at once or behind a Transpose, has an input from such a pair:
       what is stored as integers only, to be smaller, stays so.
    3. Its scale and zero point are constant: one number, or one an entry of an axis.
For all:
    4. The model imports opset 13 or later (``upgrade-opset``).

Numerics: lossy, though closer to the model as it was trained: activations are not rounded any
more. Weights are the numbers that their integers stand for, bit for bit.
Scope: main graph.
Leaves alone: QOperator models (QLinearConv, ...), 16-bit and 4-bit integers, blocks.
Reference: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.qparams import IntType, QParams
from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason

from .qdq_pairs import IntegerConstant, QdqPair, constants_with, read_constant, read_pair
from .trained import Trained, as_kind, publish_trained
from .weights import drop_unused

__all__ = ["ReadQdq"]

logger = logging.getLogger(__name__)

MIN_OPSET = 13
"""That of ``quantize-static``."""


@dataclasses.dataclass(frozen=True)
class ReadQdq(Pass):
    """Make a QDQ model float again; see the module docstring for the contract."""

    name: ClassVar[str] = "read-qdq"
    promise: ClassVar[Promise] = Promise.LOSSY

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Take out the pairs, then the integers of the weights that belong to them."""
        rewriter = context.rewriter(model, self)
        pairs: list[QdqPair] = []
        is_old = model.opset_imports.get("", 0) < MIN_OPSET
        for node in list(model.graph):
            if node.op_type == "QuantizeLinear" and not node.domain:
                # 4.
                pair = Reason(f"it needs opset {MIN_OPSET}") if is_old else read_pair(node)
                if isinstance(pair, Reason):
                    rewriter.skip(self.name, node, pair.text)
                else:
                    pairs.append(pair)
        constants = list(constants_with(pairs))
        activations: dict[ir.Value, QParams] = {}
        weights: dict[ir.Value, QParams] = {}
        count = 0
        remover = _Remover()
        # A chain of pairs ends at the value that the first of them read: its scale counts.
        for pair in pairs:
            made: list[ir.Value] = []
            is_constant = pair.is_constant
            rewrite = functools.partial(remover.remove, pair=pair, made=made)
            if rewriter.apply(self.name, pair.quantize, rewrite) is not None:
                count += 1
                if is_constant:
                    weights[made[0]] = as_kind(pair.qparams, IntType.INT8)
                else:
                    activations.setdefault(made[0], pair.qparams)
        for node in constants:
            constant = read_constant(node)
            if isinstance(constant, Reason):
                rewriter.skip(self.name, node, constant.text)
                continue
            made = []
            rewrite = functools.partial(_fold, node=node, constant=constant, made=made)
            if rewriter.apply(self.name, node, rewrite) is not None:
                count += 1
                if constant.qparams is not None:
                    weights[made[0]] = constant.qparams
        if count:
            publish_trained(
                context,
                Trained(
                    {value.name or "": qparams for value, qparams in activations.items()},
                    {value.name or "": qparams for value, qparams in weights.items()},
                ),
            )
        summary = (
            f"read the scales of {len(activations)} activations and {len(weights)} weights"
        )
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)


def _fold(edit: Edit, node: ir.Node, constant: IntegerConstant, made: list[ir.Value]) -> None:
    (source, *_) = node.inputs
    assert source is not None
    value = edit.constant(constant.data, node.outputs[0].name or "weight", near=node)
    edit.supersede(node, value)
    for operand in dict.fromkeys(node.inputs):
        if operand is not None:
            drop_unused(edit, operand, [node])
    made[:] = [value]
    edit.note("made the numbers of its integers")


class _Remover:
    """Takes out pairs; remembers the Clips that stand for a Q."""

    def __init__(self) -> None:
        self._clips: dict[tuple[ir.Value, bytes], ir.Value] = {}

    def remove(self, edit: Edit, pair: QdqPair, made: list[ir.Value]) -> None:
        """Let what reads the DQ read what the Q reads, and put that into ``made``."""
        value, tensor = pair.source, tensor_of(pair.source)
        gone = [*pair.dequantize, pair.quantize]
        if tensor is not None:
            rounded = pair.qparams.round_trip(np.asarray(tensor.numpy()))
            value = edit.constant(rounded, value.name or "weight", near=pair.quantize)
        elif pair.may_be_clip():
            key = (value, pair.qparams.scale.tobytes())
            known = self._clips.get(key)
            # An application that was taken back has taken its nodes along.
            if known is None or known.graph is None:
                known = self._clips[key] = _clip(edit, pair)
            value = known
        for node in pair.dequantize:
            edit.replace(node.outputs[0], value)
        edit.remove(*gone)
        for operand in dict.fromkeys(v for node in gone for v in node.inputs):
            if operand is not None and tensor_of(operand) is not None:
                drop_unused(edit, operand, gone)
        made[:] = [value]
        edit.note("took out a Q and its DQ")


def _clip(edit: Edit, pair: QdqPair) -> ir.Value:
    """Insert the Clip that a Q stands for."""
    source, kind = pair.source, pair.qparams.kind
    producer = source.producer()
    assert producer is not None
    low, high = pair.qparams.dequantize(np.array([kind.minimum, kind.maximum]))
    bounds = [
        edit.constant(np.array(end, np.float32), f"{source.name}_{side}", near=producer)
        for end, side in ((low, "min"), (high, "max"))
    ]
    (clip,) = edit.node(
        "Clip", [source, *bounds], after=producer, like=[source], name=f"{source.name}_Clip"
    )
    return clip

"""Shapes of what onnxruntime's own operators compute, those that passes write."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.symbolic.base import Known, Shape, ShapeRule

__all__ = ["CONTRIBUTED_RULES"]


def _same(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    return [known.shape(node.inputs[0])]


def _skip_normalization(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    return [shape, None, None, shape]  # mean and deviation are not computed on the CPU


def _multi_head_attention(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    query = known.shape(node.inputs[0])
    value = known.shape(node.inputs[2]) if len(node.inputs) > 2 else None
    # Several tensors in one, or heads apart, have more dimensions.
    if query is None or value is None or len(query) != 3 or len(value) != 3:
        return [None]
    return [(*query[:2], value[2])]


def _attention(node: ir.Node, known: Known) -> Sequence[Shape | None]:
    x, weights = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    sizes = attribute(node, "qkv_hidden_sizes")
    if x is None or weights is None or sizes is None:
        return [None]
    return [(*x[:2], sizes[2])]


CONTRIBUTED_RULES: dict[str, ShapeRule] = {
    "Attention": _attention,
    "BiasGelu": _same,
    "FastGelu": _same,
    "Gelu": _same,
    "MultiHeadAttention": _multi_head_attention,
    "SkipLayerNormalization": _skip_normalization,
    "SkipSimplifiedLayerNormalization": _skip_normalization,
}
"""Operator of ``com.microsoft`` -> its rule."""

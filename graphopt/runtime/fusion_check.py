"""Looks at what onnxruntime made of a quantized model: does it run on integers as planned?

A float operator that is fed by a DequantizeLinear is one of two things. Where onnxruntime has
an integer kernel for it, and Q and DQ stand all around it, it is *stranded*: they did not have
the form that gets fused, and cost time for nothing. Otherwise it is a *boundary*: the integers
have to end somewhere. An operator whose kernel asks for certain attributes counts as one, too:
the optimized graph is told without them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from graphopt.runtime.fusion_knowledge import Inputs, Kernel, kernels
from graphopt.runtime.optimized import OptimizedNode

__all__ = ["FusionReport", "check_fusion"]

_MS = "com.microsoft"
_ONNX = ("", "ai.onnx")
_INTEGER = {
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "NhwcMaxPool",
    "QGemm",
}
_DYNAMIC_PARTS = {"ConvInteger", "MatMulInteger"}
_FUSED = {
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "TransposeMatMul": "MatMul",
}
"""Operators that onnxruntime makes by fusing something into one of the standard."""


@dataclasses.dataclass(frozen=True)
class FusionReport:
    """What onnxruntime made of the Q and DQ of a model.

    Attributes:
        integer: Operator -> how many run on integer kernels.
        stranded: (operator, name) of the float operators that were meant for integers.
        boundaries: (operator, name) of the other float operators that a DQ feeds.
        unfused: (operator, name) of integer products that stand by themselves, with the
            arithmetic of their scales in nodes of its own.
    """

    integer: dict[str, int]
    stranded: tuple[tuple[str, str], ...]
    boundaries: tuple[tuple[str, str], ...]
    unfused: tuple[tuple[str, str], ...]

    @property
    def is_clean(self) -> bool:
        """Whether everything that was meant for integers runs on them."""
        return not self.stranded and not self.unfused

    def summary(self) -> str:
        """Return the report in one line."""
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.integer.items()))
        text = f"integer kernels: {counts or 'none'}"
        for what, found in (("stranded", self.stranded), ("unfused", self.unfused)):
            if found:
                names = ", ".join(f"{op_type} {name!r}" for op_type, name in found[:5])
                more = f" and {len(found) - 5} more" if len(found) > 5 else ""
                text += f"; {what}: {names}{more}"
        return text


def check_fusion(nodes: Iterable[OptimizedNode], version: str = "") -> FusionReport:
    """Sort the nodes of an optimized graph.

    Args:
        nodes: What ``Runtime.optimized_nodes`` returned.
        version: Release of onnxruntime it came from; empty: the newest that is known.
    """
    nodes = list(nodes)
    known = kernels(version)
    dequantized = {
        output
        for node in nodes
        if node.op_type == "DequantizeLinear"
        for output in node.outputs
    }
    quantized = {node.inputs[0] for node in nodes if node.op_type == "QuantizeLinear"}
    integer: Counter[str] = Counter()
    stranded: list[tuple[str, str]] = []
    boundaries: list[tuple[str, str]] = []
    unfused: list[tuple[str, str]] = []
    for node in nodes:
        label = (node.op_type, node.name)
        if _is_integer(node):
            integer[node.op_type] += 1
        elif node.op_type in _DYNAMIC_PARTS and node.domain in _ONNX:
            unfused.append(label)
        elif node.op_type != "QuantizeLinear" and dequantized.intersection(node.inputs):
            kernel = known.get(_standard(node))
            meant = kernel is not None and _is_meant(node, kernel, dequantized, quantized)
            (stranded if meant else boundaries).append(label)
    return FusionReport(dict(integer), tuple(stranded), tuple(boundaries), tuple(unfused))


def _is_meant(
    node: OptimizedNode, kernel: Kernel, dequantized: set[str], quantized: set[str]
) -> bool:
    """Whether Q and DQ stand around a float operator as if it were to run on integers."""
    fed = [name in dequantized for name in node.inputs if name]
    if kernel.has_weights:
        # Activation and weight, or a weight that is made float in every run.
        return sum(fed) > 1 or not fed[0]
    if kernel.requires:
        return False
    activations = {
        Inputs.FIRST: fed[:1],
        Inputs.ALL: fed,
        Inputs.BRANCHES: fed[1:],
    }[kernel.inputs]
    return all(activations) and quantized.issuperset(filter(None, node.outputs))


def _standard(node: OptimizedNode) -> str:
    """Return the operator of the standard that it is or was; empty: none."""
    if node.domain == _MS:
        return _FUSED.get(node.op_type, "")
    return node.op_type if node.domain in _ONNX else ""


def _is_integer(node: OptimizedNode) -> bool:
    if node.op_type in _INTEGER and node.domain == _MS:
        return True
    return node.op_type.startswith("QLinear") and node.domain in (*_ONNX, _MS)

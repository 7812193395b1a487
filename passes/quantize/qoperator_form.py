"""Writes integer operators in place of a float operator between DQ and Q.

Before -> after::

    Q(Conv(DQ(x, s, z), DQ(W, t, 0), DQ(B)), u, v)  ->  QLinearConv(x, s, z, W, t, 0, u, v, B)
    Q(Transpose(DQ(x, s, z)), s, z)                 ->  Transpose(x)

The standard has QLinearConv and QLinearMatMul; onnxruntime has more (``com.microsoft``), which
are written only if the target is onnxruntime. What has no integer operator keeps its Q and DQ.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.edit import AttributeValue, Edit
from graphopt.passbase import Target
from graphopt.rewriter import Rewriter
from graphopt.runtime.fusion_knowledge import Output, kernels

from .selection import label
from .weights import drop_unused

__all__ = ["write_qoperators"]

_MS = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class _Between:
    """A float operator between DQ and Q.

    Attributes:
        node: The operator.
        dequantize: The DQ of each input; ``None`` for an input that is omitted or no float.
        quantize: The Q behind it.
    """

    node: ir.Node
    dequantize: tuple[ir.Node | None, ...]
    quantize: ir.Node

    def triple(self, index: int) -> list[ir.Value | None]:
        """Return integers, scale and zero point of an input."""
        node = self.dequantize[index]
        assert node is not None
        return [*node.inputs, *([None] * (3 - len(node.inputs)))]

    @property
    def ends(self) -> list[ir.Value | None]:
        """Scale and zero point of the output."""
        return list(self.quantize.inputs[1:3])


def write_qoperators(rewriter: Rewriter, target: Target) -> None:
    """Write integer operators in the main graph, wherever the target has one."""
    for node in list(rewriter.model.graph):
        between = _read(node)
        if between is None:
            continue
        domain, op_type, build = _FORMS.get(node.op_type, ("", node.op_type, _move))
        if domain == _MS and target is not Target.ONNXRUNTIME:
            continue
        inputs = build(between)
        if inputs is None:
            continue
        rewrite = functools.partial(
            _write, between=between, domain=domain, op_type=op_type, inputs=inputs
        )
        done = rewriter.apply(f"{rewriter.pass_name}-qoperator", node, rewrite)
        if done is not None and domain:
            rewriter.model.opset_imports.setdefault(domain, 1)


def _read(node: ir.Node) -> _Between | None:
    if node.domain or node.op_type not in kernels() or len(node.outputs) != 1:
        return None
    (output,) = node.outputs
    uses = output.uses()
    if len(uses) != 1 or output.is_graph_output():
        return None
    quantize = next(iter(uses)).node
    if quantize.op_type != "QuantizeLinear" or quantize.inputs[0] is not output:
        return None
    found: list[ir.Node | None] = []
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        is_pair = producer is not None and producer.op_type == "DequantizeLinear"
        found.append(producer if is_pair else None)
    return _Between(node, tuple(found), quantize) if found and found[0] else None


def _convolution(between: _Between) -> list[ir.Value | None] | None:
    if between.dequantize[1] is None:
        return None
    bias = []
    if len(between.dequantize) > 2:
        dequantize = between.dequantize[2]
        if dequantize is None:
            return None
        bias = [dequantize.inputs[0]]
    return [*between.triple(0), *between.triple(1), *between.ends, *bias]


def _product(between: _Between) -> list[ir.Value | None] | None:
    if between.dequantize[1] is None:
        return None
    return [*between.triple(0), *between.triple(1), *between.ends]


def _gemm(between: _Between) -> list[ir.Value | None] | None:
    if between.dequantize[1] is None:
        return None
    bias: ir.Value | None = None
    if len(between.dequantize) > 2:
        dequantize = between.dequantize[2]
        if dequantize is None:
            return None
        bias = dequantize.inputs[0]
    return [*between.triple(0), *between.triple(1), bias, *between.ends]


def _all_inputs(between: _Between) -> list[ir.Value | None] | None:
    # The integer pooling knows no dilations.
    if None in between.dequantize or "dilations" in between.node.attributes:
        return None
    triples = [v for i in range(len(between.dequantize)) for v in between.triple(i)]
    return [*triples, *between.ends]


def _joined(between: _Between) -> list[ir.Value | None] | None:
    inputs = _all_inputs(between)
    return None if inputs is None else [*inputs[-2:], *inputs[:-2]]


def _move(between: _Between) -> list[ir.Value | None] | None:
    """An operator that moves integers, if Q and DQ have the same scale."""
    if kernels()[between.node.op_type].output is not Output.SAME:
        return None
    source = between.dequantize[0]
    assert source is not None
    if list(source.inputs[1:]) != list(between.quantize.inputs[1:]):
        return None
    return [source.inputs[0], *between.node.inputs[1:]]


_Build = Callable[[_Between], "list[ir.Value | None] | None"]
_FORMS: dict[str, tuple[str, str, _Build]] = {
    "Conv": ("", "QLinearConv", _convolution),
    "MatMul": ("", "QLinearMatMul", _product),
    "Gemm": (_MS, "QGemm", _gemm),
    "Add": (_MS, "QLinearAdd", _all_inputs),
    "Mul": (_MS, "QLinearMul", _all_inputs),
    "Concat": (_MS, "QLinearConcat", _joined),
    "Sigmoid": (_MS, "QLinearSigmoid", _all_inputs),
    "LeakyRelu": (_MS, "QLinearLeakyRelu", _all_inputs),
    "AveragePool": (_MS, "QLinearAveragePool", _all_inputs),
    "GlobalAveragePool": (_MS, "QLinearGlobalAveragePool", _all_inputs),
}


def _write(
    edit: Edit,
    between: _Between,
    domain: str,
    op_type: str,
    inputs: list[ir.Value | None],
) -> None:
    node, quantize = between.node, between.quantize
    (integers,) = quantize.outputs
    attributes: dict[str, AttributeValue] = dict(node.attributes)
    (made,) = edit.node(
        op_type,
        inputs,
        before=node,
        domain=domain,
        attributes=attributes,
        like=[integers],
        name=label(node),
    )
    edit.replace(integers, made)
    gone = [node, quantize]
    for dequantize in dict.fromkeys(between.dequantize):
        if dequantize is None:
            continue
        (output,) = dequantize.outputs
        if set(output.consumers()) <= {node} and not output.is_graph_output():
            gone.append(dequantize)
    edit.remove(*gone)
    for one in gone:
        for value in one.inputs[1:]:
            if value is not None and tensor_of(value) is not None and value not in inputs:
                drop_unused(edit, value, gone)
    edit.note(f"{node.op_type} as {op_type}")

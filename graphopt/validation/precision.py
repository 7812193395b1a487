"""What outputs may differ by, given how precisely a model computes."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.metrics import Tolerance

__all__ = ["tolerance_of"]

# A rounding to 8 bits turns an error of any size into one of a whole step: 1/255 of the range,
# and several of them after several roundings.
_ROUNDED = 5e-2
_OF_TYPE = {
    # Accumulated in float32 by onnxruntime, but rounded to 11 and 8 bits in between.
    ir.DataType.FLOAT16: 2e-2,
    ir.DataType.BFLOAT16: 1e-1,
}
_ROUNDING = frozenset(
    {
        "QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QLinearConv",
        "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QAttention",
        "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat", "QLinearSoftmax",
        "QLinearLeakyRelu", "MatMulIntegerToFloat",
    }
)  # fmt: skip


def tolerance_of(model: ir.Model) -> Tolerance:
    """Return what another order of its operations may do to the outputs of ``model``.

    Decided by the coarsest arithmetic in it: of float16 or bfloat16, or with roundings to
    integers in between.
    """
    rtol = Tolerance().rtol
    for graph in (*model.graphs(), *(f.graph for f in model.functions.values())):
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            if node.op_type in _ROUNDING:
                rtol = max(rtol, _ROUNDED)
            elif node.op_type == "Cast" and (to := node.attributes.get("to")) is not None:
                rtol = max(rtol, _OF_TYPE.get(ir.DataType(to.as_int()), 0.0))
            values += node.outputs
        for value in values:
            if value.dtype is not None:
                rtol = max(rtol, _OF_TYPE.get(value.dtype, 0.0))
    return Tolerance(rtol)

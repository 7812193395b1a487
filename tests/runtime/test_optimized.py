"""The graph that onnxruntime makes of a model can be looked at."""

import graphs
import pytest

from graphopt.errors import ExecutionError
from graphopt.runtime.optimized import OptimizedNode

# MatMul + Add is fused to Gemm at the first level, Gemm + Relu at the second.
TEXT = """
    agraph (float[2, 3] x) => (float[2, 4] y)
    <float[3, 4] w = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}, float[4] b = {1, 2, 3, 4}> {
        p = MatMul (x, w)
        s = Add (p, b)
        y = Relu (s)
    }"""


def names(nodes: list[OptimizedNode]) -> list[str]:
    return [f"{node.domain}.{node.op_type}" for node in nodes]


@pytest.mark.parametrize(
    ("level", "ops"),
    [
        ("disable", [".MatMul", ".Add", ".Relu"]),
        ("basic", [".Gemm", ".Relu"]),
        ("all", ["com.microsoft.FusedGemm"]),
    ],
)
def test_the_levels_fuse_more_and_more(shared_runtime, level, ops):
    nodes = shared_runtime.optimized_nodes(graphs.load(TEXT), level)
    assert names(nodes) == ops
    assert nodes[0].inputs[0] == "x"
    assert nodes[-1].outputs == ("y",)


def test_configuration_entries_switch_fusions_off(shared_runtime):
    """Q and DQ stay where they are."""
    model = graphs.load("""
        agraph (float[1, 3] x) => (float[1, 3] y)
        <float s = {0.5}, uint8 z = {0}> {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            r = Sigmoid (d)
            t = QuantizeLinear (r, s, z)
            y = DequantizeLinear (t, s, z)
        }""")
    fused = names(shared_runtime.optimized_nodes(model))
    plain = names(
        shared_runtime.optimized_nodes(model, config={"session.disable_quant_qdq": "1"})
    )
    assert "com.microsoft.QLinearSigmoid" in fused
    assert ".Sigmoid" in plain


def test_a_model_that_does_not_load_is_an_error(shared_runtime):
    model = graphs.load(TEXT)
    model.opset_imports["nobody"] = 1
    model.graph[2].domain = "nobody"
    with pytest.raises(ExecutionError) as info:
        shared_runtime.optimized_nodes(model)
    assert info.value.code == "runtime/refused"

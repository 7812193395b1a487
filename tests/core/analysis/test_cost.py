"""Parameters and multiply-accumulate operations, against figures worked out by hand."""

import graphs
import onnx_ir as ir
import pytest

from graphopt.analysis import cost, shapes

PRODUCT = "g (float[N, 4] x, float[4, 3] w) => (float[N, 3] y) { y = MatMul(x, w) }"

OPERATORS = {
    # 8 outputs of 4 x 4 positions, each from 3 channels of 3 x 3.
    "Conv": (
        "g (float[N, 3, 4, 4] x, float[8, 3, 3, 3] w) => (float[N, 8, 4, 4] y)"
        "{ y = Conv<pads=[1, 1, 1, 1]>(x, w) }",
        8 * 4 * 4 * 3 * 9,
    ),
    # The weight of a grouped Conv already holds the channels of one group only.
    "Conv of two groups": (
        "g (float[N, 4, 5, 5] x, float[4, 2, 1, 1] w) => (float[N, 4, 5, 5] y)"
        "{ y = Conv<group=2>(x, w) }",
        4 * 25 * 2,
    ),
    "ConvTranspose": (
        "g (float[N, 3, 4, 4] x, float[3, 8, 2, 2] w) => (float[N, 8, 8, 8] y)"
        "{ y = ConvTranspose<strides=[2, 2]>(x, w) }",
        3 * 16 * 8 * 4,
    ),
    "Gemm": (
        "g (float[5, 7] x, float[7, 3] w) => (float[5, 3] y) { y = Gemm(x, w) }",
        5 * 7 * 3,
    ),
    "Gemm, transposed": (
        "g (float[7, 5] x, float[3, 7] w) => (float[5, 3] y)"
        "{ y = Gemm<transA=1, transB=1>(x, w) }",
        5 * 7 * 3,
    ),
    "MatMul": (
        "g (float[2, 4, 6] x, float[6, 3] w) => (float[2, 4, 3] y) { y = MatMul(x, w) }",
        2 * 4 * 6 * 3,
    ),
    "LSTM": (
        "g (float[5, 2, 3] x, float[1, 16, 3] w, float[1, 16, 4] r) => (float[5, 1, 2, 4] y)"
        "{ y = LSTM<hidden_size=4>(x, w, r) }",
        5 * 2 * (16 * 3 + 16 * 4),
    ),
    # Each of 2 x 5 queries with 7 keys and as many values: 4 heads of width 3, and of 2.
    "Attention": (
        "g (float[2, 5, 12] q, float[2, 7, 12] k, float[2, 7, 8] v) => (float[2, 5, 8] y)"
        "{ y = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v) }",
        2 * 5 * 7 * (12 + 8),
    ),
    "Attention, heads that share keys, and 3 keys from before": (
        "g (float[2, 4, 5, 3] q, float[2, 1, 7, 3] k, float[2, 1, 7, 3] v,"
        " float[2, 1, 3, 3] pk, float[2, 1, 3, 3] pv) => (float[2, 4, 5, 3] y)"
        "{ y, k1, v1 = Attention(q, k, v, , pk, pv) }",
        2 * 5 * (7 + 3) * (12 + 12),
    ),
    "MultiHeadAttention": (
        "g (float[2, 5, 12] q, float[2, 7, 12] k, float[2, 7, 8] v) => (float[2, 5, 8] y)"
        "{ y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v) }",
        2 * 5 * 7 * (12 + 8),
    ),
    "MultiHeadAttention, 3 keys from before": (
        "g (float[2, 5, 12] q, float[2, 7, 12] k, float[2, 7, 12] v,"
        " float[2, 4, 3, 3] pk, float[2, 4, 3, 3] pv) => (float[2, 5, 12] y)"
        "{ y, k1, v1 = com.microsoft.MultiHeadAttention<num_heads=4>"
        "(q, k, v, , , , pk, pv) }",
        2 * 5 * (7 + 3) * (12 + 12),
    ),
    "Attention with its projections": (
        "g (float[2, 5, 6] x, float[6, 32] w, float[32] b) => (float[2, 5, 8] y)"
        "{ y = com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[12, 12, 8]>(x, w, b) }",
        2 * 5 * 6 * 32 + 2 * 5 * 5 * (12 + 8),
    ),
    "elementwise": ("g (float[5, 2] x) => (float[5, 2] y) { y = Relu(x) }", 0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operations_of_one_run(name: str) -> None:
    text, expected = OPERATORS[name]
    domains = ("com.microsoft",) if "com.microsoft" in text else ()
    model = graphs.load(text, 23 if "Attention" in name else 21, domains)
    assert cost.total_macs(model) == (expected, 0)


def test_symbolic_dimensions_take_the_size_that_is_given() -> None:
    model = graphs.load(
        "g (float[N, 4] x, float[4, 3] w) => (float[N, 3] y) { y = MatMul(x, w) }"
    )
    assert cost.total_macs(model) == (12, 0)
    assert cost.total_macs(model, {"N": 10}) == (120, 0)


def test_a_shape_that_is_not_known_is_counted_as_such() -> None:
    model = graphs.load(
        "g (float[N, 4] x, float[4, 3] w) => (float[N, 3] y) { y = MatMul(x, w) }"
    )
    model.graph.outputs[0].shape = None

    assert cost.total_macs(model) == (0, 1)
    inferred = {value: ir.Shape(["N", 3]) for value in model.graph.outputs}
    assert cost.total_macs(model, shape_of=inferred) == (12, 0)


def test_parameters_in_initializers_and_constants() -> None:
    model = graphs.load(
        "g (float[N, 2] x) => (float[N, 2] y) <float[2] a = {1, 2}>"
        "{ c = Constant<value = double[3] {1, 2, 3}>()\n b = Shape(c)\n y = Add(x, a) }"
    )
    assert cost.parameters_of(model) == (5, 2 * 4 + 3 * 8)


def test_shapes_are_inferred_without_touching_the_model() -> None:
    model = graphs.load("g (float[N, 3] x) => (float[N, 3] z) { y = Relu(x)\n z = Exp(y) }")
    (y,) = model.graph[0].outputs
    y.shape = None
    before = graphs.text_of(model)

    kind, shape = shapes.infer(model)[y]

    assert shape == ir.Shape(["N", 3])
    assert kind == ir.TensorType(ir.DataType.FLOAT)
    assert y.shape is None
    assert graphs.text_of(model) == before

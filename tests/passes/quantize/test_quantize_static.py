from __future__ import annotations

import itertools
import json
import pathlib

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from quantized import (
    array_of,
    load_with_weights,
    optimized_operators,
    run_optimized,
    set_array,
    signal_to_noise_db,
)

from graphopt.errors import ModelError, PipelineError, SamplesError
from graphopt.ledger import Ledger
from graphopt.passbase import Context, PassResult
from graphopt.samples import Samples

CONV_RELU = """g (float[N,8,6,6] x, float[8,8,3,3] W, float[8] B) => (float[N,8,6,6] y)
    { a = Conv <pads = [1,1,1,1]> (x, W, B) y = Relu(a) }"""
MLP = """g (float[N,32] x, float[32,32] A, float[32] B, float[16,32] C, float[16] D)
         => (float[N,16] y)
    { a = Gemm(x, A, B) b = Relu(a) y = Gemm <transB = 1> (b, C, D) }"""


def feeds_of(model: ir.Model, count: int = 8) -> list[dict[str, np.ndarray]]:
    return [graphs.random_feeds(model, seed) for seed in range(count)]


def quantize(
    model: ir.Model,
    context: Context,
    pass_: QuantizeStatic | None = None,
    feeds: list[dict[str, np.ndarray]] | None = None,
) -> PassResult:
    context.samples = Samples.from_feeds(feeds_of(model) if feeds is None else feeds)
    return graphs.apply(model, pass_ or QuantizeStatic(), context)


def body(model: ir.Model) -> list[str]:
    """Return the nodes of the graph as text, one a line."""
    text = graphs.text_of(model)
    return [line.strip() for line in text[text.rindex("{\n") + 2 : -2].splitlines()]


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


def test_conv_and_relu_as_a_whole(context: Context) -> None:
    model = graphs.load(
        """g (float[N,1,1,2] x) => (float[N,2,1,2] y)
        <float[2,1,1,1] W = {127.0, -2.0}, float[2] B = {1.0, 3.0}>
        { a = Conv(x, W, B) y = Relu(a) }"""
    )
    feeds = [{"x": np.array([[[[-1.0, 1.55]]]], np.float32)}]
    result = quantize(model, context, feeds=feeds)
    assert result.summary == "quantized 1 operators, 1 of them by ranges"
    text = graphs.text_of(model)
    assert text[text.index("g (") :] == (
        "g (float[N,1,1,2] x) => (float[N,2,1,2] y) \n"
        "   <int32[2] B_quantized =  {100,19050}, float[2] B_scale =  {0.01,0.00015748032}, "
        "int8[2,1,1,1] W_quantized =  {127,-127}, float[2] W_scale =  {1,0.015748031}, "
        "int8[2] W_zero_point =  {0,0}, "
        "float x_scale =  {0.01}, uint8 x_zero_point =  {100}, "
        "float y_scale =  {0.7758823}, uint8 y_zero_point =  {0}>\n"
        "{\n"
        "   x_quantized = QuantizeLinear (x, x_scale, x_zero_point)\n"
        "   x_dequantized = DequantizeLinear (x_quantized, x_scale, x_zero_point)\n"
        "   B_dequantized = DequantizeLinear <axis: int = 0> (B_quantized, B_scale)\n"
        "   W_dequantized = DequantizeLinear <axis: int = 0> "
        "(W_quantized, W_scale, W_zero_point)\n"
        "   a = Conv (x_dequantized, W_dequantized, B_dequantized)\n"
        "   y_quantized = QuantizeLinear (a, y_scale, y_zero_point)\n"
        "   y = DequantizeLinear (y_quantized, y_scale, y_zero_point)\n"
        "}"
    )


FORMS = {
    "conv": (CONV_RELU, "WB", {"Transpose": 2, "QLinearConv": 1}),
    "depthwise conv without bias": (
        """g (float[N,8,6,6] x, float[8,1,3,3] W) => (float[N,8,4,4] y)
        { y = Conv <group = 8> (x, W) }""",
        "W",
        {"Transpose": 2, "QLinearConv": 1},
    ),
    "conv of one axis": (
        """g (float[N,8,16] x, float[8,8,3] W) => (float[N,8,14] y) { y = Conv(x, W) }""",
        "W",
        {"Transpose": 2, "QLinearConv": 1},
    ),
    "relu6": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W) => (float[N,8,6,6] y)
        { a = Conv(x, W) lo = Constant <value_float = 0.0> ()
          hi = Constant <value_float = 6.0> () y = Clip(a, lo, hi) }""",
        "W",
        {"Transpose": 2, "QLinearConv": 1},
    ),
    "chain of convs": (
        """g (float[N,8,6,6] x, float[8,8,3,3] W, float[8,8,1,1] V) => (float[N,8,4,4] y)
        { a = Conv(x, W) b = Relu(a) c = Conv(b, V) y = Relu(c) }""",
        "WV",
        {"Transpose": 2, "QLinearConv": 2},
    ),
    "residual": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[8,8,1,1] V, float[8,8,1,1] U)
            => (float[N,8,6,6] y)
        { a = Conv(x, W) b = Relu(a) c = Conv(b, V) d = Add(c, b) e = Relu(d)
          y = Conv(e, U) }""",
        "WVU",
        {"Transpose": 2, "QLinearConv": 3, "QLinearAdd": 1},
    ),
    "pooling shares the scale": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[8,8,1,1] V) => (float[N,8,3,3] y)
        { a = Conv(x, W) b = Relu(a)
          c = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b) y = Conv(c, V) }""",
        "WV",
        {"Transpose": 2, "QLinearConv": 2, "NhwcMaxPool": 1},
    ),
    "classifier": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[4,8] V, float[4] B) => (float[N,4] y)
        { a = Conv(x, W) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c)
          y = Gemm <transB = 1> (d, V, B) }""",
        "WVB",
        {"Transpose": 2, "QLinearConv": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}
        | {"Flatten": 1, "DequantizeLinear": 0},
    ),
    "silu": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[8,8,1,1] V) => (float[N,8,6,6] y)
        { a = Conv(x, W) b = Sigmoid(a) c = Mul(a, b) y = Conv(c, V) }""",
        "WV",
        {"Transpose": 2, "QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1},
    ),
    "branches that join": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[8,8,1,1] V, float[8,16,1,1] U)
            => (float[N,8,6,6] y)
        { a = Conv(x, W) b = Conv(x, V) c = Concat <axis = 1> (a, b) y = Conv(c, U) }""",
        "WVU",
        {"Transpose": 2, "QLinearConv": 3, "QLinearConcat": 1},
    ),
    "float gate on integers": (
        """g (float[N,8,6,6] x, float[N,8,1,1] s, float[8,8,1,1] W, float[8,8,1,1] V)
            => (float[N,8,6,6] y)
        { a = Conv(x, W) g = Tanh(s) b = Mul(a, g) y = Conv(b, V) }""",
        "WV",
        {"Transpose": 3, "QLinearConv": 2, "QLinearMul": 1, "Tanh": 1, "QuantizeLinear": 2},
    ),
    "constant operand": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[1] S, float[8,8,1,1] V)
            => (float[N,8,6,6] y)
        { a = Conv(x, W) b = Mul(a, S) y = Conv(b, V) }""",
        "WSV",
        {"Transpose": 2, "QLinearConv": 2, "QLinearMul": 1},
    ),
    "matmul returns float": (
        "g (float[N,M,32] x, float[32,16] W) => (float[N,M,16] y) { y = MatMul(x, W) }",
        "W",
        {"MatMulIntegerToFloat": 1, "DequantizeLinear": 0},
    ),
    "matmul of a transposed weight": (
        """g (float[N,M,32] x, float[16,32] W) => (float[N,M,16] y)
        { w = Transpose(W) y = MatMul(x, w) }""",
        "W",
        {"MatMulIntegerToFloat": 1, "DequantizeLinear": 0},
    ),
    "matmul and bias, shape not known": (
        """g (float[N,M,32] x, float[32,16] W, float[16] B) => (float[N,M,16] y)
        { a = MatMul(x, W) y = Add(B, a) }""",
        "WB",
        {"MatMulIntegerToFloat": 1, "Add": 1, "DequantizeLinear": 0},
    ),
    "matmul and bias, shape known": (
        """g (float[2,3,32] x, float[32,16] W, float[16] B) => (float[2,3,16] y)
        { a = MatMul(x, W) y = Add(a, B) }""",
        "WB",
        {"QGemm": 1, "Reshape": 2, "DequantizeLinear": 0},
    ),
    "matmul and bias of a matrix": (
        """g (float[N,32] x, float[32,16] W, float[16] B) => (float[N,16] y)
        { a = MatMul(x, W) y = Add(a, B) }""",
        "WB",
        {"QGemm": 1, "DequantizeLinear": 0},
    ),
    "perceptron": (MLP, "ABCD", {"QGemm": 2, "DequantizeLinear": 0}),
    "query, key and value": (
        """g (float[N,M,32] x, float[32,32] Q, float[32,32] K, float[32,32] V)
            => (float[N,M,32] q, float[N,M,32] k, float[N,M,32] v)
        { q = MatMul(x, Q) k = MatMul(x, K) v = MatMul(x, V) }""",
        "QKV",
        {"MatMulIntegerToFloat": 3, "DequantizeLinear": 0},
    ),
    "split": (
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[4,4,1,1] V, float[4,4,1,1] U)
            => (float[N,4,6,6] y)
        { a = Conv(x, W) b, c = Split <axis = 1, num_outputs = 2> (a) d = Conv(b, V)
          e = Conv(c, U) y = Add(d, e) }""",
        "WVU",
        {"Transpose": 2, "QLinearConv": 3, "QLinearAdd": 1, "Split": 1},
    ),
}


# int8 activations become uint8 where a Q has one reader; otherwise they stay in float.
ONE_READER = ["conv", "chain of convs", "classifier", "matmul returns float", "perceptron"]


@pytest.mark.parametrize(
    ("name", "activations"),
    [*((name, "uint8") for name in FORMS), *((name, "int8") for name in ONE_READER)],
)
def test_runs_on_integer_kernels(
    name: str, activations: str, context: Context, tmp_path: pathlib.Path
) -> None:
    text, weights, expected = FORMS[name]
    model = load_with_weights(text, *weights)
    feed = graphs.random_feeds(model, seed=3)
    original = graphs.run(model, feed)
    quantize(model, context, QuantizeStatic(activations=activations))
    expected = {"QuantizeLinear": 1, "DequantizeLinear": 1} | expected
    operators = optimized_operators(model, tmp_path)
    if name == "float gate on integers":  # the layout it is in is not of interest
        operators["Transpose"] = expected["Transpose"]
    assert operators == {key: count for key, count in expected.items() if count}
    emulated = graphs.run(model, feed)
    fused = run_optimized(model, feed)
    for one, other, real in zip(emulated, fused, original, strict=True):
        assert signal_to_noise_db(one, real) > 25
        # The integer kernels round a product once, the emulation several times.
        assert signal_to_noise_db(other, one) > 35


@pytest.mark.parametrize("name", ["residual", "classifier", "silu", "perceptron", "split"])
def test_any_number_of_applications_gives_a_sound_model(
    name: str, context: Context, runtime
) -> None:
    text, weights, _ = FORMS[name]
    original = load_with_weights(text, *weights)
    feed = graphs.random_feeds(original, seed=3)
    made = 0
    for limit in itertools.count():
        if made < limit - 1:
            break
        model = load_with_weights(text, *weights)
        limited = Context(ledger=Ledger(limit=limit))
        limited.share(runtime)
        quantize(model, limited)
        for one, real in zip(graphs.run(model, feed), graphs.run(original, feed), strict=True):
            assert signal_to_noise_db(one, real) > 25
        made = len(limited.ledger)
    assert made >= 2


def test_shared_weight_is_quantized_once(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,M,32] x, float[32,32] W) => (float[N,M,32] z)
        { y = MatMul(x, W) z = MatMul(y, W) }""",
        "W",
    )
    quantize(model, context)
    names = [name for name in model.graph.initializers if name.startswith("W")]
    assert sorted(names) == ["W_quantized", "W_scale", "W_zero_point"]


def test_table_is_quantized_too(context: Context) -> None:
    model = load_with_weights(
        """g (int64[N,M] i, float[64,64] T, float[64,64] W) => (float[N,M,64] y)
        { x = Gather(T, i) y = MatMul(x, W) }""",
        *"TW",
    )
    quantize(model, context)
    assert array_of(model, "T_quantized").dtype == np.int8
    assert "T" not in model.graph.initializers
    model = load_with_weights(
        "g (int64[N,M] i, float[64,64] T) => (float[N,M,64] x) { x = Gather(T, i) }", "T"
    )
    result = quantize(model, context, QuantizeStatic(embeddings=False))
    assert not result.modified
    assert "embeddings=false" in reasons(context)[-1]


def test_value_read_by_float_operators_too_is_read_from_the_dq(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,8,6,6] x, float[8,8,1,1] W) => (float[N,8,6,6] y, float[N,8,6,6] z)
        { y = Conv(x, W) z = Tanh(y) t = Tanh(x) }""",
        "W",
    )
    quantize(model, context)
    assert "y = DequantizeLinear (y_quantized, y_scale, y_zero_point)" in body(model)
    assert "z = Tanh (y)" in body(model)
    assert "t = Tanh (x)" in body(model)  # nothing is gained by rounding it


def test_gemm_in_front_of_a_float_operator_returns_float(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,32] x, float[32,32] W, float[32,32] V) => (float[N,32] y, float[N,32] z)
        { a = Gemm(x, W) y = Tanh(a) z = Gemm(a, V) }""",
        *"WV",
    )
    quantize(model, context)
    assert "y = Tanh (a)" in body(model)
    assert "a_quantized = QuantizeLinear (a, a_scale, a_zero_point)" in body(model)


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        (
            "(float[N,2,4,4] x, float[2,2,1,1] W) => (float[N,2,4,4] y) { y = Conv(x, W) }",
            "",
            "its weight is not constant",
        ),
        (
            """(float[N,2,4,4] x, float[2] b, float[2,2,1,1] W) => (float[N,2,4,4] y)
            { y = Conv(x, W, b) }""",
            "W",
            "its bias is not constant",
        ),
        (
            "(double[N,2,4,4] x) => (double[N,1,4,4] y) <double[1,2,1,1] W = {1.0, 2.0}>"
            "{ y = Conv(x, W) }",
            "",
            "float32",
        ),
        (
            "(float[N,2,4,4] x, float[2,2,1,1] W) => (float[N,2,4,4] y)"
            "{ y = ConvTranspose(x, W) }",
            "W",
            "no integer kernel",
        ),
        (
            "(float[N,4] x, float[4,4] W, float[N,4] b) => (float[N,4] y)"
            "{ y = Gemm(x, W, b) }",
            "W",
            "its bias is no constant vector",
        ),
        (
            "(float[N,4] x, float[4,4] W, float[4] B) => (float[N,4] y)"
            "{ y = Gemm <beta = 0.5> (x, W, B) }",
            "WB",
            "its alpha is 1, its beta 0.5",
        ),
        (
            "(float[N,4] x, float[4,4] W) => (float[N,4] y){ y = Gemm <alpha = -1.0> (x, W) }",
            "W",
            "its alpha is -1, its beta 1",
        ),
        ("(float[N,4] x, float[4,4] W) => (float[N,4] y) { y = MatMul(x, W) }", "", "activat"),
        ("(float[N,4] x) => (float[N,4] y) { y = Add(x, x) }", "", "is not integer"),
        (
            "(bool c, float[N,4] x, float[4,4] W) => (float[N,4] y) { y = If (c) <"
            "then_branch = t () => (float[N,4] u) { u = MatMul(x, W) },"
            "else_branch = e () => (float[N,4] v) { v = Neg(x) }> }",
            "W",
            "inside a subgraph",
        ),
        (
            "(float[N,2,4,4] x, float[2,2,1,1] W) => (float[N,2,8,8] y)"
            "{ a = Conv(x, W) s = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> ()"
            '  b = Resize <mode = "linear"> (a, , s) y = Conv(b, W) }',
            "W",
            "needs mode=nearest",
        ),
    ],
)
def test_stays_in_float_with_a_reason(
    text: str, weights: str, reason: str, context: Context
) -> None:
    model = load_with_weights("g " + text, *weights)
    quantize(model, context)
    assert any(reason in found for found in reasons(context)), reasons(context)


def test_operator_behind_float_stays_in_float(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,8,6,6] x, float[8,8,1,1] W) => (float[N,8,6,6] y)
        { a = Conv(x, W) y = Sigmoid(a) }""",
        "W",
    )
    quantize(model, context)
    assert "y = Sigmoid (a_dequantized)" in body(model)
    assert reasons(context) == ["nothing behind it takes integers"]


def test_constant_that_would_lose_too_much_stays_in_float(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,8,6,6] x, float[8,8,1,1] W, float[8,1,1] S, float[8,8,1,1] V)
            => (float[N,8,6,6] y) { a = Conv(x, W) b = Mul(a, S) y = Conv(b, V) }""",
        *"WSV",
    )
    scales = np.full((8, 1, 1), 1e-3, np.float32)
    scales[0] = 0.3
    set_array(model, "S", scales)
    quantize(model, context)
    assert "b = Mul (a_dequantized, S)" in body(model)
    assert "its constant 'S' would keep" in reasons(context)[0]


def test_zeros_in_the_samples_leave_the_operator_in_float(context: Context) -> None:
    model = load_with_weights(CONV_RELU, *"WB")
    feeds = [{"x": np.zeros((1, 8, 6, 6), np.float32)}]
    result = quantize(model, context, feeds=feeds)
    assert not result.modified
    assert (
        "'x' cannot be quantized: its range [0, 0] holds nothing but 0" in reasons(context)[0]
    )


def test_overflow_leaves_the_operator_in_float(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,4] x, float[4,4] W) => (float[N,4] y) { a = Exp(x) y = MatMul(a, W) }""",
        "W",
    )
    feeds = [{"x": np.full((1, 4), value, np.float32)} for value in (1, 100)]
    result = quantize(model, context, feeds=feeds)
    assert not result.modified
    assert reasons(context) == ["'a' cannot be quantized: it takes NaN or Inf in sample 1"]


def test_weight_that_is_not_finite_is_refused_by_name(context: Context) -> None:
    model = load_with_weights(CONV_RELU, *"WB")
    array = array_of(model, "W").copy()
    array[0, 0, 0, 0] = np.inf
    set_array(model, "W", array)
    with pytest.raises(ModelError, match="'W' holds inf"):
        quantize(model, context)


@pytest.mark.parametrize(
    "name", ["conv", "classifier", "perceptron", "matmul and bias of a matrix"]
)
def test_one_scale_a_weight(name: str, context: Context, tmp_path: pathlib.Path) -> None:
    text, weights, expected = FORMS[name]
    model = load_with_weights(text, *weights)
    feed = graphs.random_feeds(model, seed=3)
    original = graphs.run(model, feed)
    quantize(model, context, QuantizeStatic(per_channel=False))
    assert array_of(model, "W_scale" if "W" in weights else "A_scale").shape == ()
    expected = {"QuantizeLinear": 1, "DequantizeLinear": 1} | expected
    operators = optimized_operators(model, tmp_path)
    assert operators == {key: count for key, count in expected.items() if count}
    assert signal_to_noise_db(graphs.run(model, feed)[0], original[0]) > 25


def test_bias_that_does_not_fit_into_32_bits_makes_the_weight_coarser(
    context: Context,
) -> None:
    model = load_with_weights(CONV_RELU, *"WB")
    weight, bias = array_of(model, "W").copy(), array_of(model, "B").copy()
    weight[2] *= 1e-9
    bias[2] = 5000
    set_array(model, "W", weight)
    set_array(model, "B", bias)
    feed = graphs.random_feeds(model, 3)
    original = graphs.run(model, feed)[0]
    quantize(model, context)
    assert np.abs(array_of(model, "B_quantized").astype(np.int64)).max() <= 2**30
    found = run_optimized(model, feed)[0]
    np.testing.assert_allclose(found[:, 2], original[:, 2], rtol=0.005)


def test_bias_scale_that_float32_does_not_hold_makes_the_weight_coarser(
    context: Context,
) -> None:
    """The product of both scales would be 0, and the bias a division by it."""
    model = graphs.load(
        """g (float[N,2] x) => (float[N,2] y)
        <float[2,2] W = {1.0, 2.0, 3.0, 4.0}, float[2] B = {0.0, 1.0}> { y = Gemm(x, W, B) }"""
    )
    set_array(model, "W", array_of(model, "W") * np.float32(1e-20))
    quantize(model, context, feeds=[{"x": np.full((1, 2), 1e-30, np.float32)}])
    assert np.abs(array_of(model, "B_quantized").astype(np.int64)).max() <= 2**30
    assert array_of(model, "B_scale").min() > np.finfo(np.float32).tiny
    found = run_optimized(model, {"x": np.full((1, 2), 1e-30, np.float32)})[0]
    np.testing.assert_allclose(found, [[0, 1]], rtol=1e-6)


def test_constant_that_is_a_weight_and_an_operand_has_a_zero_point_of_each_type(
    context: Context,
) -> None:
    """As a weight it is int8, as an operand without negative numbers uint8; 0 is 0 in both."""
    model = load_with_weights(
        """g (float[4,4] x, float[4,4] W) => (float[4,4] z)
        { y = MatMul(x, W) a = Add(y, W) z = MatMul(a, W) }""",
        "W",
    )
    set_array(model, "W", np.abs(array_of(model, "W")))
    feed = {"x": np.random.default_rng(0).random((4, 4), np.float32)}
    original = graphs.run(model, feed)[0]
    quantize(model, context, QuantizeStatic(per_channel=False), feeds=[feed])
    kinds = {array_of(model, f"W_zero_point{end}").dtype for end in ("", "_g1")}
    assert kinds == {np.dtype(np.int8), np.dtype(np.uint8)}
    assert signal_to_noise_db(run_optimized(model, feed)[0], original) > 35


def two_layers() -> ir.Model:
    model = load_with_weights(MLP, *"ABCD")
    array = array_of(model, "A").copy()
    array[0] *= 100  # an outlier a column leaves few steps for the rest
    set_array(model, "A", array)
    for node, name in zip(model.graph, ("first", "relu", "second"), strict=True):
        node.name = name
    return model


@pytest.mark.parametrize(
    ("pass_", "quantized"),
    [
        (QuantizeStatic(), ["A", "C"]),
        (QuantizeStatic(include=("first",)), ["A"]),
        (QuantizeStatic(exclude=("first",)), ["C"]),
        (QuantizeStatic(scope="half"), ["C"]),
        (QuantizeStatic(exclude=("Gemm",)), []),
    ],
)
def test_part_of_the_operators(
    pass_: QuantizeStatic, quantized: list[str], context: Context
) -> None:
    model = two_layers()
    quantize(model, context, pass_)
    weights = [name for name in "AC" if f"{name}_quantized" in model.graph.initializers]
    assert weights == quantized
    assert len(context.ledger.skips) == 2 - len(quantized)


def test_plan_is_replayed_without_looking_at_samples(
    context: Context, tmp_path: pathlib.Path
) -> None:
    model = two_layers()
    plan = quantize(model, context).details["plan"]
    assert plan["operators"] == {
        "first": {"op_type": "Gemm", "precision": "int8"},
        "second": {"op_type": "Gemm", "precision": "int8"},
    }
    assert sorted(plan["ranges"]) == ["b", "x"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    again = two_layers()
    graphs.apply(again, QuantizeStatic(plan=str(path)), Context())
    assert graphs.text_of(again) == graphs.text_of(model)
    plan["operators"]["first"] = {
        "op_type": "Gemm",
        "precision": "float",
        "reason": "edited by hand",
    }
    path.write_text(json.dumps(plan), encoding="utf-8")
    edited, fresh = two_layers(), Context()
    graphs.apply(edited, QuantizeStatic(plan=str(path)), fresh)
    assert reasons(fresh) == ["edited by hand"]
    assert "a = Gemm (x, A, B)" in body(edited)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.update(version=7), "version 7"),
        (lambda plan: plan["operators"]["first"].update(precision="int3"), "int3"),
        (lambda plan: plan["ranges"].update(x=[2, 1]), "range of 'x'"),
        (lambda plan: plan["ranges"].pop("b"), "no range for 'b'"),
        (lambda plan: plan.pop("ranges"), "ranges"),
        (
            lambda plan: plan["operators"].update(
                other={"op_type": "Gemm", "precision": "int8"}
            ),
            "wants 'other'",
        ),
    ],
)
def test_bad_plan_is_refused(change, message: str, context: Context, tmp_path) -> None:
    plan = json.loads(json.dumps(quantize(two_layers(), context).details["plan"]))
    change(plan)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    model = two_layers()
    before = graphs.text_of(model)
    with pytest.raises(PipelineError, match=message):
        QuantizeStatic(plan=str(path)).run(model, Context())
    assert graphs.text_of(model) == before


def test_plan_that_is_no_json_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("int8 please", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"plan\.json"):
        QuantizeStatic(plan=str(path)).run(two_layers(), Context())


def test_without_samples_is_refused() -> None:
    with pytest.raises(SamplesError, match="none were given"):
        QuantizeStatic().run(two_layers(), Context())


@pytest.mark.parametrize("share", [0, 50, 101])
def test_percentile_that_makes_no_sense_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        QuantizeStatic(percentile=share)


def test_old_opset_is_left_alone(context: Context) -> None:
    model = load_with_weights(CONV_RELU, *"WB", opset=12)
    result = quantize(model, context)
    assert not result.modified
    assert reasons(context) == ["it needs opset 13"]


def test_operator_that_a_guard_objects_to_stays_float(context: Context) -> None:
    context.guards.append(lambda _, entry: "no" if entry.anchor == "first" else "")
    model = two_layers()
    quantize(model, context)
    assert "a = Gemm (x, A, B)" in body(model)
    assert "C_quantized" in model.graph.initializers


def test_second_run_changes_nothing(context: Context) -> None:
    model = two_layers()
    quantize(model, context)
    assert not quantize(model, context).modified


def test_same_bytes_for_any_order_of_the_samples(context: Context, runtime) -> None:
    feeds = feeds_of(two_layers())
    found = set()
    for order in (feeds, feeds[::-1]):
        model, fresh = two_layers(), Context()
        fresh.share(runtime)
        quantize(model, fresh, QuantizeStatic(method="auto"), feeds=order)
        found.add(ir.to_proto(model).SerializeToString(deterministic=True))
    assert len(found) == 1

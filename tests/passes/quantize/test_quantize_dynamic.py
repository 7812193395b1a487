from __future__ import annotations

import pathlib

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from quantized import array_of, load_with_weights, optimized_operators, set_array

from graphopt.errors import ModelError, PipelineError
from graphopt.ledger import Ledger
from graphopt.passbase import Context

HEADER = '<\n   ir_version: 10,\n   opset_import: ["" : 21]\n>\n'
W = "float[2,2] W = {1.0, -2.0, 127.0, 0.5}"


def quantize(model: ir.Model, pass_: QuantizeDynamic | None = None) -> tuple[bool, Context]:
    context = Context()
    result = (pass_ or QuantizeDynamic()).run(model, context)
    graphs.check(model)
    return result.modified, context


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


def linear() -> ir.Model:
    return load_with_weights(
        "g (float[b,32] x, float[32,32] W) => (float[b,32] y) { y = MatMul(x, W) }", "W"
    )


def test_matmul() -> None:
    model = graphs.load(f"g (float[b,2] x) => (float[b,2] y) <{W}> {{ y = MatMul(x, W) }}")
    modified, context = quantize(model)
    assert modified
    assert graphs.text_of(model) == HEADER + (
        "g (float[b,2] x) => (float[b,2] y) \n"
        "   <int8[2,2] W_quantized =  {1,-127,127,32}, float[2] W_scale =  {1,0.015748031}>\n"
        "{\n"
        "   x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)\n"
        "   y_MatMulInteger_out0 = MatMulInteger (x_quantized, W_quantized, x_zero_point)\n"
        "   y_Cast_out0 = Cast <to: int = 1> (y_MatMulInteger_out0)\n"
        "   y_scale_out0 = Mul (x_scale, W_scale)\n"
        "   y = Mul (y_Cast_out0, y_scale_out0)\n"
        "}"
    )
    (entry,) = context.ledger.applications
    assert entry.note == "MatMul with a 2x2 weight to int8"
    assert [weight.name for weight in entry.weights_removed] == ["W"]


def test_gemm_with_every_attribute() -> None:
    model = graphs.load(
        f"""g (float[b,2] x) => (float[b,2] y)
        <{W}, float[1,2] C = {{3.0, 4.0}}>
        {{ y = Gemm <transB = 1, alpha = 2.0, beta = 0.5> (x, W, C) }}"""
    )
    quantize(model)
    assert graphs.text_of(model) == HEADER + (
        "g (float[b,2] x) => (float[b,2] y) \n"
        "   <float[2] C_scaled =  {1.5,2}, int8[2,2] W_quantized =  {64,127,-127,0}, "
        "float[2] W_scale =  {0.031496063,2}>\n"
        "{\n"
        "   x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)\n"
        "   y_MatMulInteger_out0 = MatMulInteger (x_quantized, W_quantized, x_zero_point)\n"
        "   y_Cast_out0 = Cast <to: int = 1> (y_MatMulInteger_out0)\n"
        "   y_scale_out0 = Mul (x_scale, W_scale)\n"
        "   y_Mul_out0 = Mul (y_Cast_out0, y_scale_out0)\n"
        "   y = Add (y_Mul_out0, C_scaled)\n"
        "}"
    )


def test_table_that_is_looked_up() -> None:
    model = load_with_weights(
        "g (int64[n] i, float[64,64] T) => (float[n,64] y) { y = Gather(T, i) }", "T"
    )
    table = array_of(model, "T")
    original = graphs.run(model, {"i": np.arange(64)})[0]
    quantize(model)
    assert [node.op_type for node in model.graph] == ["Gather", "Cast", "Gather", "Mul"]
    assert sorted(model.graph.initializers) == ["T_quantized", "T_scale"]
    y = graphs.run(model, {"i": np.arange(64)})[0]
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(y - original) <= step * 0.501)


@pytest.mark.parametrize("per_channel", [True, False])
def test_error_is_within_the_promised_bound(per_channel: bool) -> None:
    model = linear()
    w = array_of(model, "W")
    x = np.random.default_rng(1).normal(size=(16, 32)).astype(np.float32)
    expected = graphs.run(model, {"x": x})[0]
    quantize(model, QuantizeDynamic(per_channel=per_channel))
    y = graphs.run(model, {"x": x})[0]
    x_error = np.full_like(x, (x.max() - x.min()) / 255)
    w_error = np.broadcast_to(
        np.abs(w).max(axis=0 if per_channel else None) / 127 / 2, w.shape
    )
    bound = np.abs(x) @ w_error + x_error @ np.abs(w) + x_error @ w_error
    assert np.all(np.abs(y - expected) <= bound)
    # The bound is a worst case; typical is far better, and worse would be a defect.
    assert np.abs(y - expected).mean() < 0.03 * np.abs(expected).mean()


def test_operators_on_one_activation_share_its_quantization(tmp_path: pathlib.Path) -> None:
    model = load_with_weights(
        """g (float[b,s,32] x, float[32,32] Q, float[32,32] K, float[32,32] V)
              => (float[b,s,32] q, float[b,s,32] k, float[b,s,32] v)
        { q = MatMul(x, Q) k = MatMul(x, K) v = MatMul(x, V) }""",
        *"QKV",
    )
    quantize(model)
    assert optimized_operators(model, tmp_path) == {
        "DynamicQuantizeLinear": 1,
        "MatMulIntegerToFloat": 3,
    }


def test_weights_with_the_same_scales_still_fuse(tmp_path: pathlib.Path) -> None:
    model = load_with_weights(
        """g (float[b,32] x, float[32,32] Q, float[32,32] K) => (float[b,32] q, float[b,32] k)
        { q = MatMul(x, Q) k = MatMul(x, K) }""",
        *"QK",
    )
    for name in "QK":
        array = array_of(model, name).copy()
        array[0] = 5  # the largest of every column
        set_array(model, name, array)
    quantize(model)
    q, k = (array_of(model, f"{name}_scale") for name in "QK")
    assert np.all(q != k)
    np.testing.assert_allclose(q, k, rtol=2e-7)
    assert optimized_operators(model, tmp_path) == {
        "DynamicQuantizeLinear": 1,
        "MatMulIntegerToFloat": 2,
    }


def test_weight_shared_by_two_operators_is_quantized_once(tmp_path: pathlib.Path) -> None:
    model = load_with_weights(
        """g (float[b,32] x, float[32,32] W) => (float[b,32] z)
        { y = MatMul(x, W) z = MatMul(y, W) }""",
        "W",
    )
    quantize(model)
    assert sorted(model.graph.initializers) == ["W_quantized", "W_scale"]
    assert optimized_operators(model, tmp_path) == {"DynamicQuantizeMatMul": 2}


def test_weight_tied_to_a_table_is_quantized_once(tmp_path: pathlib.Path) -> None:
    model = load_with_weights(
        """g (int64[b,s] i, float[128,64] T) => (float[b,s,128] z)
        { y = Gather(T, i) t = Transpose(T) z = MatMul(y, t) }""",
        "T",
    )
    quantize(model)
    names = sorted(model.graph.initializers)
    assert names == ["T_quantized", "T_scale", "T_scale_g1"]
    operators = optimized_operators(model, tmp_path)
    assert operators.pop("DynamicQuantizeMatMul") == 1
    assert operators == {"Gather": 2, "Cast": 1, "Mul": 1}


def test_transposed_weight_without_other_use_is_stored_transposed() -> None:
    model = load_with_weights(
        """g (float[b,64] x, float[32,64] W) => (float[b,32] y)
        { t = Transpose(W) y = MatMul(x, t) }""",
        "W",
    )
    quantize(model)
    assert "Transpose" not in [node.op_type for node in model.graph]
    assert model.graph.initializers["W_quantized"].shape == ir.Shape([64, 32])


def test_weight_of_the_outer_graph_in_both_branches_is_quantized_once() -> None:
    model = load_with_weights(
        """g (bool c, float[b,32] x, float[32,32] W) => (float[b,32] y)
        { y = If (c) <
              then_branch = t () => (float[b,32] u) { u = MatMul(x, W) },
              else_branch = e () => (float[b,32] v) { n = Neg(x) v = MatMul(n, W) }> }""",
        "W",
    )
    x = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    feeds = [{"c": np.array(c), "x": x} for c in (True, False)]
    expected = [graphs.run(model, feed)[0] for feed in feeds]
    _, context = quantize(model)
    assert len(context.ledger.applications) == 2
    assert sorted(model.graph.initializers) == ["W_quantized", "W_scale"]
    for feed, wanted in zip(feeds, expected, strict=True):
        (y,) = graphs.run(model, feed)
        assert np.abs(y - wanted).mean() < 0.03 * np.abs(wanted).mean()


def test_constant_node_goes_with_its_user() -> None:
    model = graphs.load(
        """g (float[b,2] x) => (float[b,1] y)
        { W = Constant <value = float[2,1] {1.0, 2.0}> () y = MatMul(x, W) }"""
    )
    quantize(model)
    assert "Constant" not in [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[2,2] x, float[2,2] W) => (float[2,2] y) { y = MatMul(x, W) }", "activations"),
        (
            "(float[1,2] x) => (float[1,1,2] y) <float[1,2,2] W = {1.0, 2.0, 3.0, 4.0}>"
            "{ y = MatMul(x, W) }",
            "3 axes",
        ),
        (
            f"(float[2,2] x) => (float[2,2] y) <{W}> {{ y = MatMul(W, x) }}",
            "left operand is the",
        ),
        (f"(float[2] x) => (float[2] y) <{W}> {{ y = MatMul(x, W) }}", "vector"),
        (f"() => (float[2,2] y) <{W}> {{ y = MatMul(W, W) }}", "both operands are constant"),
        (
            "(double[2,2] x) => (double[2,1] y) <double[2,1] W = {1.0, 2.0}>"
            "{ y = MatMul(x, W) }",
            "double",
        ),
        ("(float[2,0] x) => (float[2,2] y) <float[0,2] W = {}> { y = MatMul(x, W) }", "empty"),
        (
            f"(float[2,2] x) => (float[2,2] y) <{W}> {{ y = Gemm <transA = 1> (x, W) }}",
            "transA",
        ),
        (
            f"(float[2,2] x) => (float[2,2] y) <{W}> {{ y = Gemm <alpha = 0.0> (x, W) }}",
            "alpha",
        ),
        (
            f"(float[2,2] x, float[2] c) => (float[2,2] y) <{W}>"
            "{ y = Gemm <beta = 2.0> (x, W, c) }",
            "beta",
        ),
        (f"(int64[n] i) => (float[n,2] y) <{W}> {{ y = Gather(W, i) }}", "fewer than 4096"),
        (
            f"(int64[n] i) => (float[2,n] y) <{W}> {{ y = Gather <axis = 1> (W, i) }}",
            "does not look up the rows",
        ),
        (
            "(float[1,1,4,4] x) => (float[1,1,4,4] y) <float[1,1,1,1] W = {2.0}>"
            "{ y = Conv(x, W) }",
            "ConvInteger is slower",
        ),
    ],
)
def test_left_alone_with_a_reason(text: str, reason: str) -> None:
    model = graphs.load("g " + text)
    before = graphs.text_of(model)
    modified, context = quantize(model)
    assert not modified
    assert graphs.text_of(model) == before
    assert [reason in found for found in reasons(context)] == [True]


def test_overridable_weight_is_left_alone() -> None:
    model = graphs.load(f"g (float[2,2] x) => (float[2,2] y) <{W}> {{ y = MatMul(x, W) }}")
    model.graph.inputs.append(model.graph.initializers["W"])
    modified, context = quantize(model)
    assert not modified
    assert reasons(context) == ["both operands are activations"]


def test_old_opset_is_left_alone() -> None:
    model = graphs.load(
        f'<ir_version: 7, opset_import: ["" : 10]> g (float[2,2] x) => (float[2,2] y) <{W}>'
        "{ y = MatMul(x, W) }"
    )
    modified, context = quantize(model)
    assert not modified
    assert reasons(context) == ["DynamicQuantizeLinear needs opset 11"]


def test_function_body_is_left_alone() -> None:
    model = graphs.load(
        """<ir_version: 10, opset_import: ["" : 21, "f" : 1]>
        g (float[2,2] x) => (float[2,2] y) { y = f.twice(x) }
        <domain: "f", opset_import: ["" : 21]> twice (a) => (b) { b = MatMul(a, a) }"""
    )
    modified, context = quantize(model)
    assert not modified
    assert reasons(context) == ["it is inside a model-local function"]


def test_weight_with_another_use_stays() -> None:
    model = load_with_weights(
        """g (float[b,32] x, float[32,32] W) => (float[b,32] y, float[32,32] w)
        { y = MatMul(x, W) w = Neg(W) }""",
        "W",
    )
    quantize(model)
    assert sorted(model.graph.initializers) == ["W", "W_quantized", "W_scale"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    model = linear()
    array = array_of(model, "W").copy()
    array[3, 4] = bad
    set_array(model, "W", array)
    before = graphs.text_of(model)
    with pytest.raises(ModelError, match=r"weight 'W' holds .*element 100 of 1024"):
        QuantizeDynamic().run(model, Context())
    assert graphs.text_of(model) == before


def two_layers() -> ir.Model:
    model = load_with_weights(
        """g (float[b,32] x, float[32,32] A, float[32,32] B) => (float[b,32] z)
        { y = MatMul(x, A) z = MatMul(y, B) }""",
        *"AB",
    )
    # One outlier a column leaves few steps for the rest.
    array = array_of(model, "A").copy()
    array[0] *= 100
    set_array(model, "A", array)
    for node, name in zip(model.graph, ("first", "second"), strict=True):
        node.name = name
    return model


@pytest.mark.parametrize(
    ("pass_", "quantized"),
    [
        (QuantizeDynamic(), ["A_quantized", "B_quantized"]),
        (QuantizeDynamic(include=("first",)), ["A_quantized"]),
        (QuantizeDynamic(include=("sec*",)), ["B_quantized"]),
        (QuantizeDynamic(include=("MatMul",), exclude=("y",)), ["B_quantized"]),
        (QuantizeDynamic(exclude=("MatMul",)), []),
        (QuantizeDynamic(scope="half"), ["B_quantized"]),
    ],
)
def test_part_of_the_operators(pass_: QuantizeDynamic, quantized: list[str]) -> None:
    model = two_layers()
    _, context = quantize(model, pass_)
    found = [name for name in sorted(model.graph.initializers) if name.endswith("quantized")]
    assert found == quantized
    assert len(context.ledger.skips) == 2 - len(quantized)


def test_half_says_what_the_weight_loses() -> None:
    _, context = quantize(two_layers(), QuantizeDynamic(scope="half"))
    assert reasons(context) == ["in the half that loses the most: its weight keeps 37.5 dB"]


def test_pattern_without_a_match_names_the_nearest() -> None:
    with pytest.raises(PipelineError, match="Did you mean 'first'"):
        QuantizeDynamic(exclude=("firts",)).run(two_layers(), Context())


def test_each_operator_is_an_application_of_its_own() -> None:
    for limit, quantized in enumerate([[], ["A_quantized"], ["A_quantized", "B_quantized"]]):
        model = two_layers()
        context = Context(ledger=Ledger(limit=limit))
        QuantizeDynamic().run(model, context)
        graphs.check(model)
        names = sorted(model.graph.initializers)
        assert [name for name in names if name.endswith("quantized")] == quantized


def test_operator_that_a_guard_objects_to_stays_float() -> None:
    model = two_layers()
    context = Context(guards=[lambda _, entry: "no" if entry.anchor == "first" else ""])
    QuantizeDynamic().run(model, context)
    graphs.check(model)
    assert sorted(model.graph.initializers) == ["A", "B_quantized", "B_scale"]


def test_second_run_changes_nothing() -> None:
    model = linear()
    quantize(model)
    before = graphs.text_of(model)
    modified, _ = quantize(model)
    assert not modified
    assert graphs.text_of(model) == before


def test_result_does_not_depend_on_the_run() -> None:
    texts = set()
    for _ in range(2):
        model = two_layers()
        quantize(model)
        texts.add(ir.to_proto(model).SerializeToString(deterministic=True))
    assert len(texts) == 1

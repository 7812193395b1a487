from __future__ import annotations

import pathlib

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.convert_float16 import ConvertFloat16
from quantized import array_of, load_with_weights, optimized_operators, set_array

from graphopt.errors import PipelineError
from graphopt.passbase import Context
from graphopt.pipeline import check_order, parse
from graphopt.samples import Samples

PRODUCT = "g (float[N,M,32] x, float[32,32] W) => (float[N,M,32] y) { y = MatMul(x, W) }"
MLP = """g (float[N,32] x, float[32,32] A, float[32] B, float[16,32] C, float[16] D)
         => (float[N,16] y)
    { a = Gemm(x, A, B) b = Relu(a) y = Gemm <transB = 1> (b, C, D) }"""


def body(model: ir.Model) -> list[str]:
    """Return the nodes of the graph as text, one a line."""
    text = graphs.text_of(model)
    return [line.strip() for line in text[text.rindex("{\n") + 2 : -2].splitlines()]


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


def test_weight_is_stored_as_float16(context: Context, tmp_path: pathlib.Path) -> None:
    model = load_with_weights(PRODUCT, "W")
    weight = array_of(model, "W")
    result = graphs.apply(model, ConvertFloat16(), context)
    assert result.summary == "stored 1 of 1 weights as float16: 0.0 MB less"
    assert body(model) == ["W_g1 = Cast <to: int = 1> (W_half)", "y = MatMul (x, W_g1)"]
    assert list(model.graph.initializers) == ["W_half"]
    np.testing.assert_array_equal(array_of(model, "W_half"), weight.astype(np.float16))
    # The Cast is folded when the model is loaded.
    assert optimized_operators(model, tmp_path) == {"MatMul": 1}


def test_answers_are_those_of_the_rounded_weight(context: Context) -> None:
    model, original = load_with_weights(PRODUCT, "W"), load_with_weights(PRODUCT, "W")
    graphs.apply(model, ConvertFloat16(), context)
    set_array(original, "W", array_of(original, "W").astype(np.float16).astype(np.float32))
    graphs.assert_same_answers(model, original)


def test_shared_weight_and_weight_used_in_a_subgraph_are_stored_once(context: Context) -> None:
    model = load_with_weights(
        """g (bool c, float[N,32] x, float[32,32] W) => (float[N,32] z)
        { y = MatMul(x, W) z = If (c) <
            then_branch = t () => (float[N,32] u) { u = MatMul(y, W) },
            else_branch = e () => (float[N,32] v) { v = Neg(y) }> }""",
        "W",
    )
    graphs.apply(model, ConvertFloat16(), context)
    assert list(model.graph.initializers) == ["W_half"]
    assert graphs.text_of(model).count("W_g1") == 3


def test_weight_in_a_constant_node(context: Context) -> None:
    values = ", ".join(str(float(i % 7 - 3)) for i in range(1024))
    text = f"""g (float[N,32] x) => (float[N,32] y)
        {{ W = Constant <value = float[32,32] {{{values}}}> () y = MatMul(x, W) }}"""
    model, original = graphs.load(text), graphs.load(text)
    graphs.apply(model, ConvertFloat16(), context)
    assert body(model) == ["W_g1 = Cast <to: int = 1> (W_half)", "y = MatMul (x, W_g1)"]
    graphs.assert_same_answers(model, original)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w * 1e5, "is beyond 65504"),
        (lambda w: w * 1e-6, "float16 would keep"),
        (lambda w: w * 1e-30, "float16 would keep"),
        (lambda w: np.where(w > 2, np.float32(np.inf), w), "NaN or Inf"),
        (lambda w: np.where(w > 2, np.float32(np.nan), w), "NaN or Inf"),
    ],
)
def test_numbers_that_float16_does_not_hold_are_left_alone(
    change, reason: str, context: Context
) -> None:
    model = load_with_weights(PRODUCT, "W")
    set_array(model, "W", change(array_of(model, "W")).astype(np.float32))
    assert not graphs.apply(model, ConvertFloat16(), context).modified
    assert reason in reasons(context)[0]
    assert context.ledger.skips[0].anchor == "W"


@pytest.mark.parametrize(
    ("pass_", "text", "names", "reason"),
    [
        (ConvertFloat16(exclude=("MatMul",)), PRODUCT, "W", "excluded by 'MatMul'"),
        (ConvertFloat16(min_elements=1025), PRODUCT, "W", "fewer than 1025"),
        (
            ConvertFloat16(),
            "g (float[N,32,32] x, float[32,32] W) => (float[N,32,32] y) { y = Div(x, W) }",
            "W",
            "Div is not linear in it",
        ),
        (
            ConvertFloat16(),
            """g (float[N,32] x, float[32,32] W) => (float[N,32] y, float[32,32] W)
            { y = MatMul(x, W) }""",
            "W",
            "it is a graph output",
        ),
    ],
)
def test_left_alone_with_a_reason(
    pass_: ConvertFloat16, text: str, names: str, reason: str, context: Context
) -> None:
    model = load_with_weights(text, *names)
    assert not graphs.apply(model, pass_, context).modified
    assert reason in reasons(context)[0]


def test_weight_that_the_caller_may_override_is_left_alone(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    model.graph.inputs.append(model.graph.initializers["W"])
    assert not graphs.apply(model, ConvertFloat16(), context).modified


def test_second_run_changes_nothing(context: Context) -> None:
    for pass_ in (ConvertFloat16(), ConvertFloat16(compute=True)):
        model = load_with_weights(MLP, *"ABCD")
        graphs.apply(model, pass_, context)
        assert not graphs.apply(model, pass_, context).modified


def test_folding_afterwards_is_refused() -> None:
    with pytest.raises(PipelineError, match="'convert-float16' stands before"):
        check_order(parse("convert-float16,fold-constants"))


def test_operators_compute_with_float16(context: Context) -> None:
    model, original = load_with_weights(MLP, *"ABCD"), load_with_weights(MLP, *"ABCD")
    result = graphs.apply(model, ConvertFloat16(compute=True), context)
    assert result.summary == "3 of 3 operators compute with float16"
    assert body(model) == [
        "x_float16 = Cast <to: int = 10> (x)",
        "a = Gemm (x_float16, A_half, B_half)",
        "b = Relu (a)",
        "y_replaced = Gemm <transB: int = 1> (b, C_half, D_half)",
        "y = Cast <to: int = 1> (y_replaced)",
    ]
    assert sorted(model.graph.initializers) == ["A_half", "B_half", "C_half", "D_half"]
    graphs.assert_same_answers(model, original, rtol=3e-3)


def test_casts_stand_where_float16_meets_float32(context: Context) -> None:
    text = """g (float[N,32] x, float[32,32] W) => (float[N,32] y, float[N,32] z)
        { a = MatMul(x, W) e = Exp(a) y = MatMul(e, W) z = Relu(a) }"""
    model, original = load_with_weights(text, "W"), load_with_weights(text, "W")
    feeds = {"x": graphs.random_feeds(model)["x"] * 0.1}
    graphs.apply(model, ConvertFloat16(compute=True), context)
    assert [node.op_type for node in model.graph] == [
        "Cast", "MatMul", "Cast", "Exp", "Cast", "MatMul", "Cast", "Relu", "Cast"
    ]  # fmt: skip
    assert reasons(context) == ["it needs float32"]
    graphs.assert_same_answers(model, original, rtol=3e-3, feeds=feeds)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "(float[N,32] x) => (float[N,32] y) { e = Constant <value_float = 1e-12> ()"
            " y = Add(x, e) }",
            "constant 'e': float16 would keep",
        ),
        (
            "(float[N,32] x) => (float[N,32] y) { e = Constant <value_float = -3e38> ()"
            " y = Add(x, e) }",
            "constant 'e': 3e+38 is beyond 65504",
        ),
        ("(float[N,32] x) => (float[N,32] y) { y = Sqrt(x) }", "it needs float32"),
        (
            "(float[4] x, int64[1,1] i, float[1] u) => (float[4] y)"
            '{ y = ScatterND <reduction = "max"> (x, i, u) }',
            "it needs float32",
        ),
    ],
)
def test_operator_stays_in_float32(text: str, reason: str, context: Context) -> None:
    model = graphs.load("g " + text)
    assert not graphs.apply(model, ConvertFloat16(compute=True), context).modified
    assert reason in reasons(context)[0]


def test_subgraph_computes_with_float32(context: Context) -> None:
    model = graphs.load(
        """g (bool c, float[N,32] x) => (float[N,32] y) { r = Relu(x) y = If (c) <
            then_branch = t () => (float[N,32] u) { u = Neg(r) },
            else_branch = e () => (float[N,32] v) { v = Abs(x) }> }"""
    )
    graphs.apply(model, ConvertFloat16(compute=True), context)
    assert [node.op_type for node in model.graph] == ["Cast", "Relu", "Cast", "If"]


@pytest.mark.parametrize(("peak", "modified"), [(1000.0, True), (40000.0, False)])
def test_activation_near_the_largest_float16(
    peak: float, modified: bool, context: Context
) -> None:
    model = graphs.load("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    context.samples = Samples.from_feeds([{"x": np.full((1, 4), peak, np.float32)}])
    assert graphs.apply(model, ConvertFloat16(compute=True), context).modified == modified
    if not modified:
        assert reasons(context) == ["'x' reaches 40000: near 65504 or beyond"]


def test_operator_that_a_guard_objects_to_stays_in_float32(context: Context) -> None:
    context.guards.append(lambda _, entry: "no" if entry.anchor == "b" else "")
    model, original = load_with_weights(MLP, *"ABCD"), load_with_weights(MLP, *"ABCD")
    graphs.apply(model, ConvertFloat16(compute=True), context)
    assert [node.op_type for node in model.graph] == [
        "Cast", "Gemm", "Cast", "Relu", "Cast", "Gemm", "Cast"
    ]  # fmt: skip
    graphs.assert_same_answers(model, original, rtol=3e-3)

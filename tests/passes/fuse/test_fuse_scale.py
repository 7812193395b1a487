"""Before -> after tests of FuseScale."""

import numpy as np
import pytest
from graphopt.passes.fuse.fuse_scale import FuseScale
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_same_answers, assert_unchanged, load

from graphopt.rewrite import Fixpoint

RTOL = 1e-5
PASS = Fixpoint((FuseScale(), EliminateDeadCode()))


def numbers(count: int, seed: int) -> str:
    values = np.random.default_rng(seed).uniform(0.2, 1.5, count)
    return "{" + ", ".join(f"{value:.4f}" for value in values) + "}"


WEIGHTS = f"""float[4, 2, 3, 3] w = {numbers(72, 1)}, float[4] c = {numbers(4, 2)},
    float[3, 4] g = {numbers(12, 3)}, float[1, 4, 1, 1] k = {numbers(4, 4)},
    float[4, 1, 1] k3 = {numbers(4, 5)}, float s = {{0.125}}, float[4] v = {numbers(4, 6)},
    float[1, 1, 1, 5] column = {numbers(5, 7)}, float[2, 4, 3, 3] t = {numbers(72, 8)},
    float[1, 1, 1, 1, 1] five = {{2.0}}, int64[4] heads = {{0, 0, 2, 2}},
    int64[3] back = {{0, 0, 4}}, float[1, 4] row = {numbers(4, 9)}, float[1] zero = {{0.0}},
    float[1] huge = {{3e38}}, float[1] many = {{100.0}}, int64[1] ax = {{0}}"""
IMAGE, ROWS, TOKENS = "float[N, 2, 6, 5] x", "float[N, 3] x", "float[N, M, 3] x"

FUSED = {
    "mul_after_conv": (IMAGE, "y = Conv(x, w, c)\n z = Mul(y, k)", ["Conv"]),
    "mul_by_three_axes": (IMAGE, "y = Conv(x, w, c)\n z = Mul(k3, y)", ["Conv"]),
    "scalar": (IMAGE, "y = Conv(x, w)\n z = Mul(y, s)", ["Conv"]),
    "div": (IMAGE, "y = Conv(x, w, c)\n z = Div(y, k)", ["Conv"]),
    "add_without_bias": (IMAGE, "y = Conv(x, w)\n z = Add(y, k)", ["Conv"]),
    "add_to_bias": (IMAGE, "y = Conv(x, w, c)\n z = Add(k3, y)", ["Conv"]),
    "sub": (IMAGE, "y = Conv(x, w, c)\n z = Sub(y, k)", ["Conv"]),
    "sub_from": (IMAGE, "y = Conv(x, w, c)\n z = Sub(k, y)", ["Conv"]),
    "chain": (IMAGE, "y = Conv(x, w, c)\n a = Mul(y, k)\n z = Add(a, k3)", ["Conv"]),
    "transposed_conv": (
        IMAGE,
        "y = ConvTranspose(x, t, c)\n z = Mul(y, k)",
        ["ConvTranspose"],
    ),
    "gemm": (ROWS, "y = Gemm(x, g, v)\n z = Mul(y, row)", ["Gemm"]),
    "gemm_add": (ROWS, "y = Gemm <beta=0.5> (x, g, v)\n z = Add(y, v)", ["Gemm"]),
    "matmul": (TOKENS, "y = MatMul(x, g)\n z = Mul(y, v)", ["MatMul"]),
    "through_layout": (
        TOKENS,
        """m = MatMul(x, g)
           b = Add(m, v)
           r = Reshape(b, heads)
           y = Transpose <perm=[0, 2, 1, 3]> (r)
           z = Mul(y, s)""",
        ["MatMul", "Add", "Reshape", "Transpose"],
    ),
    "through_layout_and_bias_first": (
        TOKENS,
        """m = MatMul(x, g)
           b = Add(v, m)
           y = Reshape(b, heads)
           z = Div(y, s)""",
        ["MatMul", "Add", "Reshape"],
    ),
    "normalization": (
        TOKENS.replace("3]", "4]"),
        "y = LayerNormalization(x, v, c)\n q = Mul(y, row)\n z = Add(q, row)",
        ["LayerNormalization"],
    ),
    "normalization_without_bias": (
        TOKENS.replace("3]", "4]"),
        "y = LayerNormalization <epsilon=0.1> (x, v)\n z = Sub(row, y)",
        ["LayerNormalization"],
    ),
    "of_the_biased_layer": (
        TOKENS,
        "m = MatMul(x, g)\n y = Add(m, v)\n z = Mul(y, s)",
        ["MatMul", "Add"],
    ),
}


def graph(inputs: str, lines: str) -> str:
    return f"g ({inputs}) => (float[A, B, C, D] z) <{WEIGHTS}> {{ {lines} }}"


def loaded(text: str):
    # The rank of the output is what inference says it is.
    for dims in ("A, B, C, D", "A, B, C", "A, B"):
        try:
            return load(text.replace("float[A, B, C, D] z", f"float[{dims}] z"))
        except Exception as error:
            last = error
    raise last


@pytest.mark.parametrize("name", FUSED)
def test_rewrites(name: str) -> None:
    inputs, lines, expected = FUSED[name]
    model, original = loaded(graph(inputs, lines)), loaded(graph(inputs, lines))
    assert apply(model, PASS).modified
    assert [node.op_type for node in model.graph] == expected
    assert not apply(model, PASS).modified
    assert_same_answers(model, original, RTOL)


REFUSED = {
    "a_factor_a_column": (IMAGE, "y = Conv(x, wide)\n z = Mul(y, column)", "not one number"),
    "a_constant_that_adds_a_dimension": (
        IMAGE,
        "y = Conv(x, w)\n q = Mul(y, five)\n z = Squeeze(q, ax)",
        "not one number",
    ),
    "a_fed_factor": (
        "float[N, 2, 6, 5] x, float s",
        "y = Conv(x, w)\n z = Mul(y, s)",
        None,
    ),
    "a_layer_with_another_use": (
        IMAGE,
        "y = Conv(x, w)\n q = Mul(y, s)\n z = Add(q, y)",
        "another use",
    ),
    "a_shared_weight": (
        IMAGE,
        "y = Conv(x, w)\n q = Mul(y, s)\n r = Conv(x, w)\n z = Add(q, r)",
        "another node uses",
    ),
    "a_normalization_along_two_axes": (
        "float[N, 4, 4] x",
        "y = LayerNormalization <axis=1> (x, square)\n z = Mul(y, s)",
        "more than the last axis",
    ),
    "a_normalization_whose_mean_is_used": (
        TOKENS.replace("3]", "4]"),
        "y, m = LayerNormalization(x, v)\n q = Mul(y, s)\n z = Add(q, m)",
        "is used itself",
    ),
    "the_layer_as_divisor": (IMAGE, "y = Conv(x, w)\n z = Div(s, y)", None),
    "a_bias_for_a_matmul": (TOKENS, "y = MatMul(x, g)\n z = Add(y, v)", "takes no bias"),
    "division_by_zero": (IMAGE, "y = Conv(x, w)\n z = Div(y, zero)", "infinite"),
    "overflow": (IMAGE, "y = Conv(x, w)\n q = Mul(y, huge)\n z = Mul(q, huge)", "infinite"),
    "two_variables": (IMAGE, "y = Conv(x, w)\n z = Mul(y, y)", None),
    "a_factor_behind_a_relu": (
        TOKENS,
        "m = MatMul(x, g)\n r = Relu(m)\n y = Reshape(r, heads)\n z = Mul(y, s)",
        None,
    ),
    "a_branch_before_the_factor": (
        TOKENS,
        "m = MatMul(x, g)\n y = Reshape(m, heads)\n q = Mul(y, s)\n z = Add(q, y)",
        None,
    ),
    "a_vector_behind_layout": (
        TOKENS,
        "m = MatMul(x, g)\n y = Reshape(m, heads)\n z = Mul(y, pair)",
        None,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    inputs, lines, reason = REFUSED[name]
    text = graph(inputs, lines).replace(
        "<float[4, 2",
        f"<float[2] pair = {{1.0, 2.0}}, float[4, 2, 3, 1] wide = {numbers(24, 3)},"
        f"float[4, 4] square = {numbers(16, 3)},"
        " float[4, 2",
        1,
    )
    if name == "overflow":
        extra = f"<float[4, 2, 3, 3] w3 = {numbers(72, 4)}, float[2] pair"
        text = text.replace("q = Mul(y, huge)", "q = Mul(y, y)").replace(
            "z = Mul(q, huge)", "r = Conv(x, w3)\n z = Mul(r, huge)"
        )
        text = text.replace("<float[2] pair", extra)
    for dims in ("A, B, C, D", "A, B, C"):
        try:
            assert_unchanged(
                FuseScale(),
                text.replace("float[A, B, C, D] z", f"float[{dims}] z"),
                reason=reason,
            )
        except Exception as error:  # the rank of the output is what inference says it is
            if "nference" not in str(error):
                raise
        else:
            return
    raise AssertionError("no rank fits")


def test_another_type_of_factor() -> None:
    text = f"""g (double[N, 3] x) => (double[N, 4] z)
               <double[3, 4] w = {numbers(12, 1)}, double[1] s = {{0.5}}>
               {{ y = MatMul(x, w)
                  z = Mul(y, s) }}"""
    model, original = load(text), load(text)
    assert apply(model, PASS).modified
    assert_same_answers(model, original, 1e-12)


def test_integers_are_left_alone() -> None:
    text = """g (int32[N, 2] x) => (int32[N, 2] z)
              <int32[2, 2] w = {1, 2, 3, 4}, int32 s = {2}>
              { y = MatMul(x, w)
                z = Mul(y, s) }"""
    assert_unchanged(FuseScale(), text, reason="type")

"""Before -> after tests of FuseActivations."""

import numpy as np
import pytest
from graphopt.passes.fuse.fuse_activations import FuseActivations
from graphs import assert_rewrites, assert_unchanged

HEAD = "g (float[N, 40] x) => (float[N, 40] z)"
NUMBERS = """float three = {3.0}, float zero = {0.0}, float six = {6.0}, float one = {1.0},
    float half = {0.5}, float two = {2.0}, float sixth = {0.16666667}"""
FEEDS = {"x": np.linspace(-5, 5, 80, dtype=np.float32).reshape(2, 40)}
CUT = "a = Add(x, three) c = Clip(a, zero, six)"
SIGMOID = "HardSigmoid <alpha=0.16666666666666666, beta=0.5> (x)"


def case(body: str, head: str = HEAD, constants: str = NUMBERS) -> str:
    return f"{head} <{constants}> {{ {body} }}"


REWRITES = {
    "hard_sigmoid": (f"{CUT} z = Div(c, six)", f"z = {SIGMOID}", 21),
    "hard_sigmoid_times": (f"{CUT} z = Mul(sixth, c)", f"z = {SIGMOID}", 21),
    "hard_sigmoid_to_one": (
        "m = Mul(x, half) a = Add(m, one) z = Clip(a, zero, one)",
        "z = HardSigmoid <alpha=0.5, beta=1.0> (x)",
        21,
    ),
    "hard_swish": (f"{CUT} m = Mul(x, c) z = Div(m, six)", "z = HardSwish(x)", 21),
    "divided_first": (f"{CUT} d = Div(c, six) z = Mul(d, x)", "z = HardSwish(x)", 14),
    "of_a_share_of_x": (f"{CUT} d = Mul(x, sixth) z = Mul(d, c)", "z = HardSwish(x)", 14),
    "hard_swish_below_opset_14": (
        f"{CUT} m = Mul(x, c) z = Div(m, six)",
        f"z_g1 = {SIGMOID} z = Mul(x, z_g1)",
        13,
    ),
    "another_line_times_x": (
        "a = Add(x, one) c = Clip(a, zero, two) m = Mul(x, c) z = Div(m, two)",
        "z_g1 = HardSigmoid <alpha=0.5, beta=0.5> (x) z = Mul(x, z_g1)",
        21,
    ),
    "hard_swish_of_hard_sigmoid": (
        "h = HardSigmoid <alpha=0.16666667> (x) z = Mul(x, h)", "z = HardSwish(x)", 14,
    ),
    "bounds_were_attributes": (
        f"{CUT} z = Div(c, six)".replace("Clip(a, zero, six)", "Clip <min=0.0, max=6.0> (a)"),
        f"z = {SIGMOID}",
        10,
    ),
    "mish": ("s = Softplus(x) t = Tanh(s) z = Mul(t, x)", "z = Mish(x)", 18),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    before, after, opset = REWRITES[name]
    pass_ = FuseActivations(mish=name == "mish")
    assert_rewrites(pass_, case(before), case(after), opset=opset, rtol=1e-6, feeds=FEEDS)


NO_REWRITES = {
    "a_relu6": (case("c = Clip(x, zero, six) z = Div(c, six)"), None, 21),
    "another_low": (case("a = Add(x, three) c = Clip(a, one, six) z = Div(c, six)"), None, 21),
    "no_high": (case("a = Add(x, three) c = Clip(a, zero) z = Div(c, six)"), None, 21),
    "another_share": (case(f"{CUT} z = Div(c, three)"), None, 21),
    "no_share": (case(f"{CUT} z = Mul(c, x)"), None, 21),
    "a_fed_bound": (
        case(f"{CUT} z = Div(c, six)", HEAD.replace("x)", "x, float six)")), None, 21,
    ),
    "another_use_of_the_clip": (
        case(f"{CUT} z = Div(c, six)", HEAD.replace("z)", "z, float[N, 40] c)")), None, 21,
    ),
    "another_use_of_the_sum": (
        case(f"{CUT} z = Div(c, six)", HEAD.replace("z)", "z, float[N, 40] a)")),
        "'a' has another use",
        21,
    ),
    "a_dimension_more": (
        case(f"{CUT} z = Div(c, six)", HEAD.replace("40] z", "P, Q] z"),
             NUMBERS.replace("float three", "float[1, 1, 1] three")),
        None,
        21,
    ),
    "float64": (
        case(f"{CUT} z = Div(c, six)", HEAD.replace("float", "double"),
             NUMBERS.replace("float", "double")),
        "no kernel for DOUBLE",
        21,
    ),
    "another_hard_sigmoid": (case("h = HardSigmoid(x) z = Mul(x, h)"), None, 21),
    "hard_sigmoid_of_another": (
        case("y = Relu(x) h = HardSigmoid <alpha=0.16666667> (y) z = Mul(x, h)"), None, 21,
    ),
    "hard_sigmoid_in_an_old_opset": (
        case("h = HardSigmoid <alpha=0.16666667> (x) z = Mul(x, h)"), "needs opset 14", 13,
    ),
    "mish_in_an_old_opset": (
        case("s = Softplus(x) t = Tanh(s) z = Mul(t, x)"), "needs opset 18", 17,
    ),
    "mish_of_another": (
        case("y = Relu(x) s = Softplus(y) t = Tanh(s) z = Mul(t, x)"), None, 18,
    ),
    "softplus_has_another_use": (
        case("s = Softplus(x) t = Tanh(s) z = Mul(t, x)",
             HEAD.replace("z)", "z, float[N, 40] s)")),
        "'s' has another use",
        18,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason, opset = NO_REWRITES[name]
    assert_unchanged(FuseActivations(mish=True), text, reason=reason, opset=opset)


def test_mish_is_an_option() -> None:
    assert_unchanged(FuseActivations(), case("s = Softplus(x) t = Tanh(s) z = Mul(t, x)"))


def test_silu_is_left_to_onnxruntime() -> None:
    assert_unchanged(FuseActivations(), case("s = Sigmoid(x) z = Mul(x, s)"), opset=24)

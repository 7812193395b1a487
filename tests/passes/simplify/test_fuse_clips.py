"""Before -> after tests of FuseClips."""

import re

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphopt.passes.simplify.fuse_clips import FuseClips
from graphs import assert_rewrites, assert_unchanged, load

from graphopt.passbase import Context
from graphopt.rewrite import Fixpoint

WEIGHTS = """{0} low = {{-1.0}}, {0} zero = {{0.0}}, {0} minus_zero = {{-0.0}},
    {0} five = {{5.0}}, {0} six = {{6.0}}, {0} seven = {{7.0}}"""
PASSES = Fixpoint((FuseClips(), EliminateDeadCode()))

REWRITES = {
    "relu_relu": ("a = Relu(x)\n y = Relu(a)", "y = Relu(x)"),
    "relu_clip": ("a = Relu(x)\n y = Clip(a, zero, six)", "y = Clip(x, zero, six)"),
    "relu_clip_below": ("a = Relu(x)\n y = Clip(a, low, six)", "y = Clip(x, y_low, y_high)"),
    "relu_clip_without_low": (
        "a = Relu(x)\n y = Clip(a, , six)",
        "y = Clip(x, y_low, y_high)",
    ),
    "relu_clip_without_high": ("a = Relu(x)\n y = Clip(a, zero)", "y = Clip(x, zero)"),
    "clip_relu": ("a = Clip(x, zero, six)\n y = Relu(a)", "y = Clip(x, zero, six)"),
    "clip_relu_above": ("a = Clip(x, low, six)\n y = Relu(a)", "y = Clip(x, y_low, y_high)"),
    "inner_is_narrower": (
        "a = Clip(x, zero, five)\n y = Clip(a, low, six)",
        "y = Clip(x, zero, five)",
    ),
    "outer_is_narrower": (
        "a = Clip(x, low, six)\n y = Clip(a, zero, five)",
        "y = Clip(x, zero, five)",
    ),
    "minus_zero_within_zero": (
        "a = Clip(x, zero, five)\n y = Clip(a, minus_zero, six)",
        "y = Clip(x, zero, five)",
    ),
}


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str, dtype: str) -> None:
    before, after = REWRITES[name]
    new = f"{dtype} y_low = {{0.0}}, {dtype} y_high = {{6.0}}"
    weights = f"{WEIGHTS.format(dtype)}, {new}".replace("\n", "").split(",")

    def text(lines: str) -> str:
        words = re.findall(r"\w+", lines)
        used = ",".join(weight for weight in weights if weight.split()[1] in words)
        head = f"g ({dtype}[N, M, 4] x) => ({dtype}[N, M, 4] y)"
        return f"{head} {f'<{used}>' if used else ''} {{ {lines} }}"

    assert_rewrites(PASSES, text(before), text(after))


def test_a_middle_that_something_else_uses_stays() -> None:
    head = "g (float[N] x) => (float[N] y, float[N] a) <float zero = {0.0}, float six = {6.0}>"
    assert_rewrites(
        FuseClips(),
        f"{head} {{ a = Relu(x)\n y = Clip(a, zero, six) }}",
        f"{head} {{ a = Relu(x)\n y = Clip(x, zero, six) }}",
    )


OTHERS = {
    "low_above_high": ("a = Clip(x, six, low)\n y = Relu(a)", "in their order"),
    "not_a_constant": ("a = Clip(x, , t)\n y = Relu(a)", "in their order"),
    "apart": ("a = Relu(x)\n y = Clip(a, low, minus_zero)", "one point in common"),
    "touching": ("a = Clip(x, low, five)\n y = Clip(a, five, six)", "one point in common"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_leaves_unchanged(name: str) -> None:
    lines, reason = OTHERS[name]
    text = f"g (float[N] x, float t) => (float[N] y) <{WEIGHTS.format('float')}> {{ {lines} }}"
    assert_unchanged(FuseClips(), text, reason=reason)


def test_float16_is_left() -> None:
    text = "g (float16[N] x) => (float16[N] y) { a = Relu(x)\n y = Relu(a) }"
    assert_unchanged(FuseClips(), text, reason="float32")


def test_nan_bound_is_left() -> None:
    text = """g (float[N] x) => (float[N] y) <float bound = {0.0}>
              { a = Clip(x, bound)
                y = Relu(a) }"""
    model = load(text)
    model.graph.initializers["bound"].const_value = ir.tensor(np.float32(np.nan))
    assert not FuseClips().run(model, Context()).modified


def test_attribute_bounds_are_left() -> None:
    text = "g (float[N] x) => (float[N] y) { a = Relu(x)\n y = Clip <max=6.0> (a) }"
    assert_unchanged(FuseClips(), text, opset=10, reason="bounds")

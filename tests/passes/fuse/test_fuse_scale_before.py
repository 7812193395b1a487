"""Before -> after tests of FuseScaleBefore."""

import numpy as np
import pytest
from graphopt.passes.fuse.fuse_scale_before import FuseScaleBefore
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_same_answers, assert_unchanged, load

from graphopt.rewrite import Fixpoint

RTOL = 1e-5
PASS = Fixpoint((FuseScaleBefore(), EliminateDeadCode()))


def numbers(count: int, seed: int) -> str:
    values = np.random.default_rng(seed).uniform(0.2, 1.5, count)
    return "{" + ", ".join(f"{value:.4f}" for value in values) + "}"


WEIGHTS = f"""float[4, 2, 3, 3] w = {numbers(72, 1)}, float[4] c = {numbers(4, 2)},
    float[4, 1, 3, 3] wg = {numbers(36, 3)}, float[1, 2, 1, 1] k = {numbers(2, 4)},
    float[2, 1, 1] k3 = {numbers(2, 5)}, float s = {{0.125}}, float[2] v = {numbers(2, 6)},
    float[3, 4] g = {numbers(12, 7)}, float[4, 3] gt = {numbers(12, 8)},
    float[3] r = {numbers(3, 9)}, float[1, 3] row = {numbers(3, 10)},
    float[1, 1, 1, 5] column = {numbers(5, 11)}, float[1, 1, 1, 1, 1] five = {{2.0}},
    float[2] m = {numbers(2, 12)}, float[2] q = {numbers(2, 13)}, float zero = {{0.0}},
    float[3] r2 = {numbers(3, 14)}, int64[1] ax = {{0}}, float huge = {{3e38}}"""
IMAGE, ROWS, TOKENS = "float[N, 2, 6, 5] x", "float[N, 3] x", "float[N, M, 3] x"

FUSED = {
    "mul": (IMAGE, "y = Mul(x, k)\n z = Conv(y, w, c)"),
    "mul_before_padding": (IMAGE, "y = Mul(k3, x)\n z = Conv <pads=[1, 1, 1, 1]> (y, w, c)"),
    "div": (IMAGE, "y = Div(x, k)\n z = Conv(y, w)"),
    "scalar": (IMAGE, "y = Mul(x, s)\n z = Conv(y, w)"),
    "add": (IMAGE, "y = Add(x, k)\n z = Conv(y, w, c)"),
    "add_without_bias": (IMAGE, "y = Add(s, x)\n z = Conv <strides=[2, 2]> (y, w)"),
    "sub_from": (IMAGE, "y = Sub(k, x)\n z = Conv(y, w, c)"),
    "preprocessing": (IMAGE, "a = Sub(x, k)\n y = Div(a, k3)\n z = Conv(y, w, c)"),
    "groups": (IMAGE, "a = Sub(x, k)\n y = Div(a, k3)\n z = Conv <group=2> (y, wg, c)"),
    "batchnorm": (IMAGE, "y = BatchNormalization(x, v, m, q, v)\n z = Conv(y, w, c)"),
    "gemm": (ROWS, "y = Mul(x, r)\n z = Gemm(y, g, c)"),
    "gemm_add": (ROWS, "y = Add(x, row)\n z = Gemm <alpha=2.0, beta=0.5> (y, g, c)"),
    "gemm_sub_without_bias": (ROWS, "y = Sub(x, row)\n z = Gemm <beta=0.5, transB=1> (y, gt)"),
    "gemm_batchnorm": (
        ROWS,
        "y = BatchNormalization <epsilon=0.1> (x, r, r2, r, r)\n z = Gemm(y, g, c)",
    ),
    "matmul": (TOKENS, "y = Mul(x, r)\n z = MatMul(y, g)"),
}


def loaded(inputs: str, lines: str):
    for dims in ("A, B, C, D", "A, B, C", "A, B"):  # the rank is what inference says it is
        try:
            return load(f"g ({inputs}) => (float[{dims}] z) <{WEIGHTS}> {{ {lines} }}")
        except Exception as error:
            last = error
    raise last


@pytest.mark.parametrize("name", FUSED)
def test_rewrites(name: str) -> None:
    inputs, lines = FUSED[name]
    model, original = loaded(inputs, lines), loaded(inputs, lines)
    assert apply(model, PASS).modified
    assert [node.op_type for node in model.graph] == [list(original.graph)[-1].op_type]
    assert not apply(model, PASS).modified
    assert_same_answers(model, original, RTOL)


REFUSED = {
    "1_a_factor_a_column": (IMAGE, 4, "y = Mul(x, column)\n z = Conv(y, w)", "input channel"),
    "1_a_dimension_more": (
        IMAGE,
        4,
        "a = Mul(x, five)\n y = Squeeze(a, ax)\n z = Conv(y, w)",
        None,
    ),
    "1_a_fed_factor": (f"{IMAGE}, float t", 4, "y = Mul(x, t)\n z = Conv(y, w)", None),
    "2_another_use": (
        IMAGE,
        4,
        "y = Mul(x, k)\n a = Conv(y, w)\n b = ReduceSum(y)\n z = Add(a, b)",
        "another use",
    ),
    "3_a_shared_weight": (
        IMAGE,
        4,
        "y = Mul(x, k)\n a = Conv(y, w)\n b = Conv(x, w)\n z = Add(a, b)",
        "another node uses",
    ),
    "4_padding": (IMAGE, 4, "y = Add(x, k)\n z = Conv <pads=[1, 0, 0, 0]> (y, w)", "padding"),
    "4_computed_padding": (
        IMAGE,
        4,
        'y = Add(x, k)\n z = Conv <auto_pad="SAME_UPPER"> (y, w)',
        "padding",
    ),
    "4_a_matmul": (TOKENS, 3, "y = Add(x, r)\n z = MatMul(y, g)", "no bias"),
    "4_training": (
        IMAGE,
        4,
        "y, a, b = BatchNormalization <training_mode=1> (x, v, m, q, v)\n z = Conv(y, w)",
        None,
    ),
    "5_division_by_zero": (IMAGE, 4, "y = Div(x, zero)\n z = Conv(y, w)", "infinite"),
    "5_overflow": (IMAGE, 4, "y = Mul(x, huge)\n z = Conv(y, w)", "infinite"),
    "6_the_end_of_a_normalization": (
        TOKENS,
        3,
        "a = Div(x, x)\n y = Mul(a, r)\n z = MatMul(y, g)",
        "normalization",
    ),
    "6_transposed_data": ("float[3, 3] x", 2, "y = Mul(x, r)\n z = Gemm <transA=1> (y, g)",
                          "transposes"),
    "as_the_divisor": (IMAGE, 4, "y = Div(k, x)\n z = Conv(y, w)", None),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    inputs, rank, lines, reason = REFUSED[name]
    dims = ", ".join("ABCD"[:rank])
    text = f"g ({inputs}) => (float[{dims}] z) <{WEIGHTS}> {{ {lines} }}"
    assert_unchanged(FuseScaleBefore(), text, reason=reason)

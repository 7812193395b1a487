"""Before -> after tests of FuseMatMulAdd."""

import pytest
from graphopt.passes.fuse.fuse_matmul_add import FuseMatMulAdd
from graphs import assert_rewrites, assert_unchanged

HEAD = "g (float[N, 2] x) => (float[N, 3] z)"
W = "float[2, 3] w = {1.0, -2.0, 0.5, 3.0, 0.25, -1.0}"
B = "float[3] b = {1.0, -1.0, 0.5}"
PLAIN = "y = MatMul(x, w) z = Add(y, b)"


def case(body: str, bias: str = B, head: str = HEAD, weight: str = W) -> str:
    return f"{head} <{weight}, {bias}> {{ {body} }}"


BIASES = {
    "vector": B,
    "row": B.replace("[3]", "[1, 3]"),
    "number": "float b = {2.0}",
    "one_element": "float[1] b = {2.0}",
    "one_by_one": "float[1, 1] b = {2.0}",
}


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("body", [PLAIN, PLAIN.replace("(y, b)", "(b, y)")])
def test_rewrites(name: str, body: str) -> None:
    bias = BIASES[name]
    after = case("z = Gemm(x, w, b)", bias)
    assert_rewrites(FuseMatMulAdd(), case(body, bias), after, rtol=1e-6)


def test_the_weight_may_be_computed() -> None:
    head = HEAD.replace("x)", "x, float[2, 3] w)")
    before, after = (f"{head} <{B}> {{ {body} }}" for body in (PLAIN, "z = Gemm(x, w, b)"))
    assert_rewrites(FuseMatMulAdd(), before, after, rtol=1e-6)


NO_REWRITES = {
    "three_dimensions": (
        case(PLAIN, head=HEAD.replace("N,", "N, M,")), "not known to be a matrix",
    ),
    "a_vector": (
        case(PLAIN, head="g (float[2] x) => (float[3] z)"), "not known to be a matrix",
    ),
    "a_number_a_row": (
        case(PLAIN, "float[3, 1] b = {1.0, 2.0, 3.0}", HEAD.replace("N", "3")),
        "one number a column",
    ),
    "a_dimension_more": (
        case(PLAIN, B.replace("[3]", "[1, 1, 3]"), HEAD.replace("3] z", "P, 3] z")),
        "one number a column",
    ),
    "a_row_of_one_column": (
        case(PLAIN, head=HEAD, weight="float[2, 1] w = {1.0, 2.0}"), "one number a column",
    ),
    "another_use": (case(PLAIN, head=HEAD.replace("z)", "z, float[N, 3] y)")), "another use"),
    "no_constant": (case(PLAIN, head=HEAD.replace("x)", "x, float[3] b)")), None),
    "integers": (
        case(PLAIN, B.replace("float", "int32").replace(".0", "").replace("0.5", "5"),
             HEAD.replace("float", "int32"), "int32[2, 3] w = {1, 2, 3, 4, 5, 6}"),
        "Gemm of INT32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(FuseMatMulAdd(), text, reason=reason)

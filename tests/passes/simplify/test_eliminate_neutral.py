"""Before -> after tests of EliminateNeutral."""

import pytest
from graphopt.passes.simplify.eliminate_neutral import EliminateNeutral
from graphs import assert_rewrites, assert_unchanged

INPUTS = "float[N, 3] x, float[N, 3] z, int64[N, 3] i, bool[N, 3] b, " + (
    "int64[1, 3] s, int64[N, 3] j"
)
WEIGHTS = """bool yes = {1}, bool[1] no = {0}, bool[3] all = {1, 1, 1},
    bool[3] some = {1, 0, 1}, int64 zero = {0}, int64[1, 3] one = {1, 1, 1},
    float unit = {1.0}, float null = {0.0}, float half = {0.5},
    float[3] units = {1.0, 1.0, 1.0}"""

REWRITES = {
    "and_true": ("b, yes", "And", "bool", "b", "Not"),
    "and_all_true": ("all, b", "And", "bool", "b", "Not"),
    "or_false": ("no, b", "Or", "bool", "b", "Not"),
    "xor_false": ("b, no", "Xor", "bool", "b", "Not"),
    "add_zero": ("zero, i", "Add", "int64", "i", "Neg"),
    "sub_zero": ("i, zero", "Sub", "int64", "i", "Neg"),
    "mul_ones": ("i, one", "Mul", "int64", "i", "Neg"),
    "div_ones": ("i, one", "Div", "int64", "i", "Neg"),
    "mul_float": ("unit, x", "Mul", "float", "x", "Neg"),
    "div_float": ("x, unit", "Div", "float", "x", "Neg"),
    "where_true": ("yes, i, j", "Where", "int64", "i", "Neg"),
    "where_false": ("no, i, j", "Where", "int64", "j", "Neg"),
    "where_all_true": ("all, i, j", "Where", "int64", "i", "Neg"),
    "where_the_same": ("b, i, i", "Where", "int64", "i", "Neg"),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    inputs, operator, dtype, left, last = REWRITES[name]
    head = f"g ({INPUTS}) => ({dtype}[N, 3] y) <{WEIGHTS}>"
    assert_rewrites(
        EliminateNeutral(),
        f"{head} {{ a = {operator}({inputs})\n y = {last}(a) }}",
        f"{head} {{ y = {last}({left}) }}",
    )


OTHERS = {
    "broadcast_by_ones": "a = Mul(t, one)\n k = Cast <to=1> (a)\n y = Add(x, k)",
    "broadcast_where": "a = Where(yes, s, j)\n y = Cast <to=1> (a)",
    "broadcast_where_the_same": "a = Where(b, s, s)\n y = Cast <to=1> (a)",
    "and_false": "a = And(b, no)\n y = Where(a, x, z)",
    "and_some": "a = And(b, some)\n y = Where(a, x, z)",
    "where_some": "a = Where(some, i, j)\n y = Cast <to=1> (a)",
    "where_of_an_input": "a = Where(b, i, j)\n y = Cast <to=1> (a)",
    "where_of_floats_loses_the_sign_of_zero": "y = Where(yes, x, z)",
    "float_add_of_zero_changes_a_sign": "y = Add(x, null)",
    "float_scale_of_ones": "y = Mul(x, units)",
    "one_minus": "a = Sub(zero, i)\n y = Cast <to=1> (a)",
    "one_over": "y = Div(unit, x)",
    "other_number": "y = Mul(x, half)",
    "not_a_constant": "y = Mul(x, z)",
}


@pytest.mark.parametrize("name", OTHERS)
def test_leaves_unchanged(name: str) -> None:
    lines = OTHERS[name]
    text = f"g ({INPUTS}, int64[1] t) => (float[N, 3] y) <{WEIGHTS}> {{ {lines} }}"
    assert_unchanged(EliminateNeutral(), text)


def test_a_constant_that_the_caller_may_override_stays() -> None:
    assert_unchanged(
        EliminateNeutral(),
        "g (float[N] x, float one = {1.0}) => (float[N] y) { y = Mul(x, one) }",
    )


def test_an_empty_constant_stays() -> None:
    text = """g (int64[1] x) => (int64[M] y) <int64[0] none = {}> { a = Mul(x, none)
                                                                   y = Neg(a) }"""
    assert_unchanged(EliminateNeutral(), text)


def test_inside_a_branch_and_as_an_output() -> None:
    assert_rewrites(
        EliminateNeutral(),
        """g (bool c, int64[N] x) => (int64[N] y) <int64 zero = {0}>
           { y = If (c) <then_branch = t () => (int64[N] p) { p = Add(x, zero) },
                         else_branch = e () => (int64[N] q) { a = Neg(x)
                                                              q = Add(a, zero) }> }""",
        """g (bool c, int64[N] x) => (int64[N] y) <int64 zero = {0}>
           { y = If (c) <then_branch = t () => (int64[N] p) { p = Identity(x) },
                         else_branch = e () => (int64[N] q) { q = Neg(x) }> }""",
    )

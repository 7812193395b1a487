"""Before -> after tests of EliminateDecided."""

import pytest
from graphopt.passes.simplify.eliminate_decided import EliminateDecided
from graphs import assert_rewrites, assert_unchanged

INPUTS = """bool[2, 3] b, bool[N, 3] m, int64[2, 3] i, float[2, 3] x, int64[N, 3] j,
    bool[1, 3] one, uint8[2, 3] u, double[2, 3] r"""
WEIGHTS = """bool no = {0}, bool yes = {1}, bool[2, 3] nos = {0, 0, 0, 0, 0, 0},
    int64 zero = {0},
    float null = {0.0}, bool[3] some = {0, 1, 0}, int64 unit = {1}"""

TO_A_CONSTANT = {
    "and_false": ("And(b, no)", "bool", "0"),
    "false_and": ("And(no, b)", "bool", "0"),
    "or_true": ("Or(b, yes)", "bool", "1"),
    "mul_zero": ("Mul(zero, i)", "int64", "0"),
    "xor_itself": ("Xor(b, b)", "bool", "0"),
    "equal_itself": ("Equal(i, i)", "bool", "1"),
    "equal_itself_of_truths": ("Equal(b, b)", "bool", "1"),
    "less": ("Less(x, x)", "bool", "0"),
    "greater": ("Greater(x, x)", "bool", "0"),
    "less_or_equal": ("LessOrEqual(i, i)", "bool", "1"),
    "greater_or_equal": ("GreaterOrEqual(i, i)", "bool", "1"),
    "sub_itself": ("Sub(i, i)", "int64", "0"),
    "bits": ("BitwiseXor(u, u)", "uint8", "0"),
}


@pytest.mark.parametrize("name", TO_A_CONSTANT)
def test_a_constant_of_fixed_shape(name: str) -> None:
    call, kind, item = TO_A_CONSTANT[name]
    head = f"g ({INPUTS}) => ({kind}[2, 3] y) <{WEIGHTS}"
    constants = f", {kind} a_g1 = {{{item}}}, int64[2] a_shape = {{2, 3}}"
    assert_rewrites(
        EliminateDecided(),
        f"{head}> {{ a = {call}\n y = Identity(a) }}",
        f"{head}{constants}> {{ a = Expand(a_g1, a_shape)\n y = Identity(a) }}",
    )


def test_of_one_element_it_is_the_constant() -> None:
    head = "g (bool b) => (bool y) <bool no = {0}%s> {"
    assert_rewrites(
        EliminateDecided(),
        f"{head % ''} a = And(b, no)\n y = Not(a) }}",
        f"{head % ''} y = Not(no) }}",
    )


TO_A_VALUE = {
    "a_constant_of_the_shape": ("And(one, nos)", "nos", "bool[2, 3]"),
    "and_itself": ("And(m, m)", "m", "bool[N, 3]"),
    "or_itself": ("Or(m, m)", "m", "bool[N, 3]"),
    "bitwise_and_itself": ("BitwiseAnd(j, j)", "j", "int64[N, 3]"),
    "bitwise_or_itself": ("BitwiseOr(j, j)", "j", "int64[N, 3]"),
}


@pytest.mark.parametrize("name", TO_A_VALUE)
def test_a_value(name: str) -> None:
    call, left, output = TO_A_VALUE[name]
    last = "Neg" if output.startswith("int") else "Not"
    head = f"g ({INPUTS}) => ({output} y) <{WEIGHTS}> {{"
    assert_rewrites(
        EliminateDecided(),
        f"{head} a = {call}\n y = {last}(a) }}",
        f"{head} y = {last}({left}) }}",
    )


REFUSED = {
    "1_a_neutral_element": ("y = And(b, yes)", "bool[2, 3]", None),
    "1_not_all": ("y = And(b, some)", "bool[2, 3]", None),
    "1_floats": ("y = Mul(x, null)", "float[2, 3]", None),
    "1_another_number": ("y = Mul(i, unit)", "int64[2, 3]", None),
    "2_floats_equal_to_themselves": ("y = Equal(x, x)", "bool[2, 3]", "NaN"),
    "2_doubles_equal_to_themselves": ("y = LessOrEqual(r, r)", "bool[2, 3]", "NaN"),
    "2_floats_without_themselves": ("y = Sub(x, x)", "float[2, 3]", "NaN"),
    "2_two_values": ("y = Equal(i, j)", "bool[2, 3]", None),
    "3_a_symbolic_size": ("y = And(m, no)", "bool[N, 3]", "no fixed shape"),
    "3_a_symbolic_size_of_itself": ("y = Equal(j, j)", "bool[N, 3]", "no fixed shape"),
}


def test_there_is_no_expand_before_version_8() -> None:
    text = "g (int64[2] i) => (int64[2] y) { y = Sub(i, i) }"
    assert_unchanged(EliminateDecided(), text, opset=7, reason="no Expand")


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    line, output, reason = REFUSED[name]
    text = f"g ({INPUTS}) => ({output} y) <{WEIGHTS}> {{ {line} }}"
    assert_unchanged(EliminateDecided(), text, reason=reason)

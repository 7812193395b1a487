"""Before -> after tests of EliminateNot."""

import pytest
from graphopt.passes.simplify.eliminate_not import OPPOSITE, EliminateNot
from graphs import assert_rewrites, assert_unchanged

INPUTS = """int64[N, 3] i, int64[N, 3] j, float[N, 3] x, float[N, 3] z, bool[N, 3] m,
    bool[N, 3] n, bool[3] few, int32[N, 3] k"""
WEIGHTS = "bool yes = {1}, bool no = {0}, bool[1] also = {1}, bool[1, 1, 1] deep = {1}"


def graph(lines: str, output: str = "bool[N, 3] y") -> str:
    return f"g ({INPUTS}) => ({output}) <{WEIGHTS}> {{ {lines} }}"


@pytest.mark.parametrize("operator", OPPOSITE)
@pytest.mark.parametrize("operands", ["i, j", "k, k"])
def test_comparison(operator: str, operands: str) -> None:
    assert_rewrites(
        EliminateNot(),
        graph(f"c = {operator}({operands})\n y = Not(c)"),
        graph(f"c = {operator}({operands})\n y = {OPPOSITE[operator]}({operands})"),
    )


def test_where() -> None:
    output = "int64[N, 3] y, bool[N, 3] c"
    assert_rewrites(
        EliminateNot(),
        graph("c = Not(m)\n y = Where(c, i, j)", output),
        graph("c = Not(m)\n y = Where(m, j, i)", output),
    )


@pytest.mark.parametrize(
    "call", ["Xor(m, yes)", "Xor(also, m)", "Equal(m, no)", "Equal(no, m)"]
)
def test_flip(call: str) -> None:
    assert_rewrites(EliminateNot(), graph(f"y = {call}"), graph("y = Not(m)"))


@pytest.mark.parametrize(("operator", "dual"), [("And", "Or"), ("Or", "And")])
def test_two_nots(operator: str, dual: str) -> None:
    assert_rewrites(
        EliminateNot(),
        graph(f"a = Not(m)\n b = Not(few)\n y = {operator}(a, b)"),
        graph(
            f"""a = Not(m)
                b = Not(few)
                node_{dual}_out0 = {dual}(m, few)
                y = Not(node_{dual}_out0)"""
        ),
    )


REFUSED = {
    "1_floats": ("c = Less(x, z)\n y = Not(c)", "NaN"),
    "2_a_comparison_with_another_use": (
        "c = Less(i, j)\n d = Not(c)\n y = And(c, d)",
        "another use",
    ),
    "2_a_not_with_another_use": (
        "a = Not(m)\n b = Not(n)\n c = And(a, b)\n y = Xor(c, a)",
        "another use",
    ),
    "2_one_not": ("a = Not(m)\n y = And(a, n)", None),
    "3_a_neutral_constant": ("y = Xor(m, no)", None),
    "3_equal_to_true": ("y = Equal(m, yes)", None),
    "3_an_operand_that_is_broadcast": ("y = Xor(m, few)", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    lines, reason = REFUSED[name]
    assert_unchanged(EliminateNot(), graph(lines), reason=reason)


def test_1_no_opposite_before_version_12() -> None:
    text = "g (int64[N] i, int64[N] j) => (bool[N] y) { c = Less(i, j)\n y = Not(c) }"
    assert_unchanged(EliminateNot(), text, opset=11, reason="no opposite")


def test_4_where_of_floats_stays() -> None:
    text = graph("c = Not(m)\n y = Where(c, x, z)", "float[N, 3] y")
    assert_unchanged(EliminateNot(), text, reason="sign of zero")


def test_3_a_constant_that_adds_a_dimension() -> None:
    text = graph("y = Xor(m, deep)", "bool[1, N, 3] y")
    assert_unchanged(EliminateNot(), text, reason="another shape")


def test_5_a_version_with_another_way_to_broadcast() -> None:
    text = """g (bool[N] m, bool[N] n) => (bool[N] y)
              { a = Not(m)
                b = Not(n)
                y = And(a, b) }"""
    assert_unchanged(EliminateNot(), text, opset=6)

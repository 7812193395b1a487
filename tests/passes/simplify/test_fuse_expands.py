"""Before -> after tests of FuseExpands."""

import pytest
from graphopt.passes.simplify.fuse_expands import BROADCASTING, FuseExpands
from graphs import assert_rewrites, assert_unchanged

INPUTS = """float[1, M] x, float[N, M] z, bool[1, M] b, bool[N, M] d, int64[1, M] i,
    int64[N, M] j,
    float[1, 1] one, int64[2] fed, float[N] unknown"""
WEIGHTS = "int64[2] four = {4, 3}, int64[2] three = {1, 3}, int64[3] more = {2, 4, 3}"
TRUTHS = ("And", "Or", "Xor")
BITS = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")


@pytest.mark.parametrize("operator", [name for name in BROADCASTING if name != "Where"])
@pytest.mark.parametrize("first", [True, False])
def test_an_operator_that_broadcasts(operator: str, first: bool) -> None:
    source, other, kind = ("x", "z", "float")
    if operator in TRUTHS:
        source, other, kind = ("b", "d", "bool")
    elif operator in BITS:
        source, other, kind = ("i", "j", "int64")
    compares = operator == "Equal" or operator.startswith(("Greater", "Less"))
    result = "bool" if compares else kind
    head = f"g ({INPUTS}) => ({result}[N, M] y) {{ s = Shape({other})\n"
    expand = f"a = Expand({source}, s)\n"
    order = ("a", other) if first else (other, "a")
    plain = (source, other) if first else (other, source)
    assert_rewrites(
        FuseExpands(),
        f"{head} {expand} y = {operator}({', '.join(order)}) }}",
        f"{head} {expand} y = {operator}({', '.join(plain)}) }}",
    )


@pytest.mark.parametrize("before", ["a, z, x", "d, e, z", "d, z, e"])
def test_where(before: str) -> None:
    head = f"g ({INPUTS}) => (float[N, M] y) {{ s = Shape(z)\n"
    lines = "a = Expand(b, s)\n e = Expand(x, s)\n"
    after = before.replace("a,", "b,").replace("e", "x")
    assert_rewrites(
        FuseExpands(),
        f"{head} {lines} y = Where({before}) }}",
        f"{head} {lines} y = Where({after}) }}",
    )


def test_expand_of_expand() -> None:
    head = f"g ({INPUTS}) => (float[2, 4, 3] y) <{WEIGHTS}> {{ a = Expand(one, four)\n"
    assert_rewrites(
        FuseExpands(),
        f"{head} c = Expand(a, more)\n y = Neg(c) }}",
        f"{head} c = Expand(one, more)\n y = Neg(c) }}",
    )


def test_expand_to_less_takes_the_shape_of_the_result() -> None:
    head = f"g ({INPUTS}) => (float[4, 3] y) <{WEIGHTS}%s> {{ a = Expand(one, four)\n"
    assert_rewrites(
        FuseExpands(),
        f"{head % ''} c = Expand(a, three)\n y = Neg(c) }}",
        f"{head % ', int64[2] c_shape = {4, 3}'} c = Expand(one, c_shape)\n y = Neg(c) }}",
    )


def test_expand_to_symbolic_sizes() -> None:
    head = f"""g ({INPUTS}) => (float[N, M] y) <int64[1] n = {{1}}> {{
               s = Shape <start=0, end=1> (z)
               t = Concat <axis=0> (s, n)
               w = Shape(z)
               a = Expand(one, t)\n"""
    assert_rewrites(
        FuseExpands(),
        f"{head} c = Expand(a, w)\n y = Neg(c) }}",
        f"{head} c = Expand(one, w)\n y = Neg(c) }}",
    )


REFUSED = {
    "1_a_shape_that_is_not_known": ("a = Expand(x, fed)\n y = Add(a, z)", "do not have"),
    "2_neither_target_gives_the_shape": (
        """s = Shape(z)
           a = Expand(x, s)
           y = Expand(a, three)""",
        "does not give",
    ),
    "3_a_kernel_of_its_own": ("s = Shape(z)\n a = Expand(one, s)\n y = Pow(z, a)", None),
    "4_nothing_else_is_so_large": (
        "s = Shape(z)\n a = Expand(x, s)\n y = Add(a, one)",
        "do not have",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    lines, reason = REFUSED[name]
    text = f"g ({INPUTS}) => (float[N, M] y) <{WEIGHTS}> {{ {lines} }}"
    assert_unchanged(FuseExpands(), text, reason=reason)

"""Before -> after tests of EliminateInversePairs."""

import pytest
from graphopt.passes.simplify.eliminate_inverse_pairs import EliminateInversePairs
from graphs import assert_rewrites, assert_unchanged

INPUTS = "float[4, N] x, float[2, N] z, float16[N] h, bool[N] b, uint8[N] u, int32[N] i"
WEIGHTS = "<int64[2] halves = {4, 2}, int64[2] other = {2, 4}>"


def test_cast_there_and_back() -> None:
    head = f"g ({INPUTS}) => (float16[N] y) {WEIGHTS}"
    assert_rewrites(
        EliminateInversePairs(),
        f"{head} {{ a = Cast <to=1> (h)\n c = Cast <to=10> (a)\n y = Neg(c) }}",
        f"{head} {{ a = Cast <to=1> (h)\n y = Neg(h) }}",
    )


@pytest.mark.parametrize(("source", "middle"), [("b", 6), ("u", 1), ("u", 10), ("b", 10)])
def test_cast_through_a_wider_type(source: str, middle: int) -> None:
    head = f"g ({INPUTS}) => (double[N] y) {WEIGHTS} {{ a = Cast <to={middle}> ({source})\n"
    assert_rewrites(
        EliminateInversePairs(),
        f"{head} y = Cast <to=11> (a) }}",
        f"{head} y = Cast <to=11> ({source}) }}",
    )


def test_split_and_concat() -> None:
    head = f"g ({INPUTS}) => (float[4, N] y) {WEIGHTS}"
    split = "a, c = Split <axis=0, num_outputs=2> (x)"
    assert_rewrites(
        EliminateInversePairs(),
        f"{head} {{ {split}\n d = Concat <axis=-2> (a, c)\n y = Relu(d) }}",
        f"{head} {{ {split}\n y = Relu(x) }}",
    )


def test_split_and_concat_among_others() -> None:
    head = f"g ({INPUTS}) => (float[14, N] y) {WEIGHTS}"
    split = "a, c = Split <axis=0, num_outputs=2> (x)"
    assert_rewrites(
        EliminateInversePairs(),
        f"{head} {{ {split}\n d = Concat <axis=0> (z, a, c, x, a, c)\n y = Relu(d) }}",
        f"{head} {{ {split}\n d = Concat <axis=0> (z, x, x, x)\n y = Relu(d) }}",
    )


def test_concat_and_split() -> None:
    head = f"g ({INPUTS}) => (float[4, N] y, float[2, N] w) {WEIGHTS}"
    concat = "a = Concat <axis=0> (x, z)"
    assert_rewrites(
        EliminateInversePairs(),
        f"""{head} {{ {concat}
            c, d = Split <axis=-2> (a, halves)
            y = Relu(c)
            w = Relu(d) }}""",
        f"{head} {{ {concat}\n y = Relu(x)\n w = Relu(z) }}",
    )


def test_a_part_that_is_an_output_keeps_its_name() -> None:
    head = f"g ({INPUTS}) => (float[4, N] y, float[2, N] w) {WEIGHTS}"
    concat = "a = Concat <axis=0> (x, z)"
    assert_rewrites(
        EliminateInversePairs(),
        f"{head} {{ {concat}\n y, d = Split <axis=0> (a, halves)\n w = Relu(d) }}",
        f"{head} {{ {concat}\n y = Identity(x)\n w = Relu(z) }}",
    )


@pytest.mark.parametrize(
    ("operator", "source", "dtype"), [("Not", "b", "bool"), ("Neg", "h", "float16")]
)
def test_twice(operator: str, source: str, dtype: str) -> None:
    head = f"g ({INPUTS}) => ({dtype}[N] y, {dtype}[N] w) {WEIGHTS}"
    assert_rewrites(
        EliminateInversePairs(),
        f"{head} {{ w = {operator}({source})\n y = {operator}(w) }}",
        f"{head} {{ w = {operator}({source})\n y = Identity({source}) }}",
    )


OTHERS = {
    "cast_through_a_narrower_type": "a = Cast <to=10> (x)\n y = Cast <to=1> (a)",
    "cast_through_another_type": "a = Cast <to=1> (i)\n k = Cast <to=6> (a)\n y = Relu(x)",
    "cast_to_a_narrower_type": "a = Cast <to=1> (u)\n k = Cast <to=3> (a)\n y = Relu(x)",
    "concat_in_another_order": (
        "a, c = Split <axis=0, num_outputs=2> (x)\n y = Concat <axis=0> (c, a)"
    ),
    "concat_of_a_part": (
        "a, c = Split <axis=0, num_outputs=2> (x)\n d = Concat <axis=0> (a)\n y = Relu(x)"
    ),
    "concat_of_parts_with_another_between": (
        "a, c = Split <axis=0, num_outputs=2> (x)\n y = Concat <axis=0> (a, z, c)"
    ),
    "concat_along_another_axis": (
        "a, c = Split <axis=0, num_outputs=2> (x)\n y = Concat <axis=1> (a, c)"
    ),
    "split_of_other_sizes": ("a = Concat <axis=0> (x, z)\n k, y = Split <axis=0> (a, other)"),
    "split_into_more": (
        "a = Concat <axis=0> (x, z)\n y, c, d = Split <axis=0, num_outputs=3> (a)"
    ),
    "split_along_another_axis": (
        "a = Concat <axis=0> (s, s)\n y, c = Split <axis=1, num_outputs=2> (a)"
    ),
    "once": "a = Not(b)\n y = Neg(x)",
}


@pytest.mark.parametrize("name", OTHERS)
def test_leaves_unchanged(name: str) -> None:
    text = f"g ({INPUTS}, float[2, 2] s) => (float[P, Q] y) {WEIGHTS} {{ {OTHERS[name]} }}"
    assert_unchanged(EliminateInversePairs(), text)

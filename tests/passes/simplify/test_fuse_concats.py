"""Before -> after tests of FuseConcats."""

import pytest
from graphopt.passes.simplify.fuse_concats import MAX_PARTS, FuseConcats
from graphs import assert_rewrites, assert_unchanged

HEAD = "g (float[N, 2] x, float[N, M] z, float[N, 0] none) => (float[N, P] y) {"

REWRITES = {
    "nested": (
        "a = Concat <axis=1> (z, x)\n y = Concat <axis=-1> (x, a, z)",
        "a = Concat <axis=1> (z, x)\n y = Concat <axis=-1> (x, z, x, z)",
    ),
    "two": (
        """a = Concat <axis=1> (z, x)
           b = Concat <axis=1> (x, x)
           y = Concat <axis=1> (a, b)""",
        """a = Concat <axis=1> (z, x)
           b = Concat <axis=1> (x, x)
           y = Concat <axis=1> (z, x, x, x)""",
    ),
    "one_of_two": (
        """a = Concat <axis=1> (z, x)
           b = Concat <axis=1> (x, x)
           c = Concat <axis=1> (a, b, a)
           y = Neg(c)""",
        """a = Concat <axis=1> (z, x)
           b = Concat <axis=1> (x, x)
           c = Concat <axis=1> (a, x, x, a)
           y = Neg(c)""",
    ),
    "empty": ("y = Concat <axis=1> (x, none, z, none)", "y = Concat <axis=1> (x, z)"),
    "all_but_one_empty": ("y = Concat <axis=-1> (none, x)", "y = Concat <axis=-1> (x)"),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    before, after = REWRITES[name]
    # What is joined before is left to eliminate-dead-code.
    assert_rewrites(FuseConcats(), f"{HEAD} {before} }}", f"{HEAD} {after} }}")


def test_1_another_axis_stays() -> None:
    text = "g (float[2, 2] x) => (float[4, 4] y) { %s }"
    lines = """a = Concat <axis=0> (x, x)
               b = Concat <axis=0> (x, x)
               y = Concat <axis=1> (a, b)"""
    assert_unchanged(FuseConcats(), text % lines, reason="another axis")


def test_2_what_is_used_elsewhere_stays() -> None:
    text = f"{HEAD} a = Concat <axis=1> (x, z)\n b = Neg(a)\n y = Concat <axis=1> (a, b) }}"
    assert_unchanged(FuseConcats(), text, reason="another use")


def test_2_what_is_used_twice_stays() -> None:
    text = f"{HEAD} a = Concat <axis=1> (x, z)\n y = Concat <axis=1> (a, a) }}"
    assert_unchanged(FuseConcats(), text, reason="another use")


def test_3_too_many_parts_stay() -> None:
    parts = ", ".join(["x"] * MAX_PARTS)
    text = f"{HEAD} a = Concat <axis=1> ({parts})\n y = Concat <axis=1> (a, x) }}"
    assert_unchanged(FuseConcats(), text, reason="65 parts")


def test_4_nothing_but_empty_parts_stays() -> None:
    assert_unchanged(FuseConcats(), f"{HEAD} y = Concat <axis=1> (none, none) }}")


def test_4_a_part_that_may_be_empty_stays() -> None:
    assert_unchanged(FuseConcats(), f"{HEAD} y = Concat <axis=1> (x, z) }}")

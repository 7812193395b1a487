"""Before -> after tests of FuseSlices."""

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.simplify.fuse_slices import FuseSlices
from graphs import assert_rewrites, assert_same_bits, assert_unchanged, load, run

from graphopt.passbase import Context

MOST = 2**63 - 1
INPUTS = "float[N, 9, M] x, float[N, 4, M] z, float[N, 8] p, float[N, K] q, int64[1] n"


def numbers(**constants: str) -> str:
    """Return vectors of integers in ONNX text, by name."""
    return ", ".join(
        f"int64[{text.count(',') + 1}] {name} = {{{text}}}" for name, text in constants.items()
    )


def slices(*bounds: tuple[int, int, int, int]) -> tuple[str, str]:
    """Return constants and lines of one Slice of (axis, start, end, step) after another."""
    constants, lines, value = [], [], "x"
    for index, bound in enumerate(bounds):
        names = [f"{letter}{index}" for letter in "abcd"]
        keys = (1, 2, 0, 3)
        constants += [
            f"int64[1] {name} = {{{bound[key]}}}"
            for name, key in zip(names, keys, strict=True)
        ]
        lines.append(f"v{index} = Slice({value}, {', '.join(names)})")
        value = f"v{index}"
    return ", ".join(constants), "\n".join(lines)


# Bounds of the two, and of the one they become: (axis, start, end, step).
COMPOSED = {
    "fixed": ((1, 1, 8, 1), (1, 2, 5, 1), (3, 6, 1)),
    "fixed_from_the_back": ((1, -8, -1, 1), (-2, -3, MOST, 1), (5, 8, 1)),
    "fixed_by_steps": ((1, 1, 9, 2), (1, 1, 4, 2), (3, 9, 4)),
    "fixed_backwards": ((1, 7, 0, -2), (1, 1, 3, 1), (5, 1, -2)),
    "fixed_backwards_twice": ((1, 9, -20, -1), (1, 9, -20, -2), (0, 9, 2)),
    "fixed_backwards_to_the_first": ((1, 2, 9, 1), (1, 6, -20, -3), (8, 1, -3)),
    "fixed_to_the_very_first": ((1, 0, 7, 1), (1, 6, -20, -3), (6, -10, -3)),
    "fixed_by_steps_beyond_64_bits": ((1, 0, MOST, 2**62), (1, 0, MOST, 4), (0, 1, 1)),
    "fixed_to_nothing": ((1, 5, 9, 1), (1, 7, 8, 1), (0, 0, 1)),
    "symbolic": ((0, 1, 8, 1), (0, 1, 5, 1), (2, 6, 1)),
    "symbolic_inner_end": ((0, 1, 3, 1), (0, 1, 5, 1), (2, 3, 1)),
    "symbolic_to_the_end": ((0, 1, MOST, 1), (0, 1, MOST, 1), (2, MOST, 1)),
    "symbolic_to_the_end_of_32_bits": ((0, 1, -1, 1), (0, 1, 2**31 - 1, 1), (2, -1, 1)),
    "symbolic_outer_from_the_back": ((0, 1, MOST, 1), (0, 1, -1, 1), (2, -1, 1)),
    "symbolic_both_from_the_back": ((0, 0, -1, 1), (0, 1, -1, 1), (1, -2, 1)),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_composes(name: str) -> None:
    first, second, (start, end, step) = COMPOSED[name]
    constants, lines = slices(first, second)
    rest = "" if step == 1 else ", v1_steps"
    steps = "" if step == 1 else f", int64[1] v1_steps = {{{step}}}"
    made = numbers(
        v1_starts=str(start), v1_ends=str(end), v1_axes=str(first[0])
    ) + steps  # fmt: skip
    head = f"g ({INPUTS}) => (float[A, B, M] y)"
    after = f"v0 = Slice(x, a0, b0, c0, d0)\n v1 = Slice(x, v1_starts, v1_ends, v1_axes{rest})"
    for batch in range(8):
        assert_rewrites(
            FuseSlices(),
            f"{head} <{constants}> {{ {lines}\n y = Neg(v1) }}",
            f"{head} <{constants}, {made}> {{ {after}\n y = Neg(v1) }}",
            feeds=_feeds(batch),
        )


def _feeds(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    shapes = {"x": (batch, 9, 2), "z": (batch, 4, 2), "p": (batch, 8), "q": (batch, 3)}
    feeds = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    return {**feeds, "n": np.array([1], np.int64)}


def test_different_axes() -> None:
    head = f"g ({INPUTS}) => (float[A, B, M] y)"
    text = numbers(a="1", b=str(MOST), c="0", d="-6", e="-2", f="-2")
    made = numbers(k_starts="1, -6", k_ends=f"{MOST}, -2", k_axes="0, 1")
    assert_rewrites(
        FuseSlices(),
        f"{head} <{text}> {{ j = Slice(x, a, b, c)\n k = Slice(j, d, e, f)\n y = Neg(k) }}",
        f"""{head} <{text}, {made}>
            {{ j = Slice(x, a, b, c)
               k = Slice(x, k_starts, k_ends, k_axes)
               y = Neg(k) }}""",
    )


def test_attributes_of_version_1() -> None:
    head = "g (float[N, 9] x) => (float[A, B] y) {"
    assert_rewrites(
        FuseSlices(),
        f"""{head} a = Slice <starts=[1], ends=[8], axes=[1]> (x)
                   b = Slice <starts=[0, 2], ends=[3, 5]> (a)
                   y = Neg(b) }}""",
        f"""{head} a = Slice <starts=[1], ends=[8], axes=[1]> (x)
                   b = Slice <starts=[0, 3], ends=[3, 6], axes=[0, 1]> (x)
                   y = Neg(b) }}""",
        opset=9,
    )


REFUSED = {
    "1_a_start_that_is_fed": (
        "a = Slice(x, n, most, zero)\n y = Slice(a, one, three, zero)",
        "not a number",
    ),
    "2_a_start_from_the_back": (
        "a = Slice(x, back, most, zero)\n y = Slice(a, one, three, zero)",
        "depends on its size",
    ),
    "2_a_start_from_the_back_of_what_is_left": (
        "a = Slice(x, one, most, zero)\n y = Slice(a, back, most, zero)",
        "depends on its size",
    ),
    "2_ends_from_both_sides": (
        "a = Slice(x, one, back, zero)\n y = Slice(a, one, three, zero)",
        "depends on its size",
    ),
    "2_steps_along_a_symbolic_axis": (
        "a = Slice(x, one, most, zero, two)\n y = Slice(a, one, three, zero)",
        "depends on its size",
    ),
    "2_from_in_front_of_the_first": (
        "a = Slice(x, far, far, one, back)\n y = Slice(a, one, three, one)",
        "depends on its size",
    ),
    "2_backwards_to_the_largest_end": (
        "a = Slice(x, three, most, one, back)\n y = Slice(a, one, three, one)",
        "depends on its size",
    ),
    "3_a_cut_through_a_part": (
        "a = Concat <axis=1> (x, z)\n y = Slice(a, one, nine, one)",
        "whole parts",
    ),
    "3_another_axis": (
        "a = Concat <axis=1> (x, z)\n y = Slice(a, one, three, zero)",
        "more than the axis",
    ),
    "3_by_steps": (
        "a = Concat <axis=1> (x, z)\n y = Slice(a, nil, nine, one, two)",
        "by steps",
    ),
    "3_an_unknown_bound": (
        "a = Concat <axis=1> (x, z)\n y = Slice(a, n, nine, one)",
        "whole parts",
    ),
    "4_a_gap": (
        """a = Slice(x, nil, one, one)
           b = Slice(x, three, most, one)
           y = Concat <axis=1> (a, b)""",
        "does not begin where",
    ),
    "4_not_from_the_first": (
        """a = Slice(x, one, three, one)
           b = Slice(x, three, most, one)
           y = Concat <axis=1> (a, b)""",
        "does not begin where",
    ),
    "4_not_to_the_end": (
        """a = Slice(x, nil, one, zero)
           b = Slice(x, one, three, zero)
           y = Concat <axis=0> (a, b)""",
        "does not end",
    ),
    "4_along_another_axis": (
        """a = Slice(x, nil, one, zero)
           b = Slice(x, one, most, zero)
           y = Concat <axis=1> (a, a)""",
        "not along the axis",
    ),
    "4_by_steps": (
        """a = Slice(x, nil, one, one)
           b = Slice(x, one, most, one, two)
           y = Concat <axis=1> (a, b)""",
        "not along the axis",
    ),
    "4_of_two_values": (
        """a = Slice(x, nil, one, one)
           b = Slice(z, one, most, one)
           y = Concat <axis=1> (a, b)""",
        "one value",
    ),
    "4_bounds_that_fall": (
        """a = Slice(x, nil, three, one)
           b = Slice(x, three, one, one)
           c = Slice(x, one, most, one)
           y = Concat <axis=1> (a, b, c)""",
        "that grow",
    ),
}
CONSTANTS = numbers(
    nil="0", zero="0", one="1", two="2", three="3", nine="9", back="-1", far="-20",
    most=str(MOST),
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    lines, reason = REFUSED[name]
    text = f"g ({INPUTS}) => (float[A, B, M] y) <{CONSTANTS}> {{ {lines} }}"
    assert_unchanged(FuseSlices(), text, reason=reason)


PARTS = {
    "the_first": ("nil", "nine", "one", "x"),
    "the_last": ("nine", "most", "one", "z"),
    "from_the_back": ("minus", "most", "one", "z"),
    "along_an_axis_from_the_back": ("nine", "most", "back2", "z"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_concat(name: str) -> None:
    start, end, axis, part = PARTS[name]
    head = f"g ({INPUTS}) => (float[A, B, M] y) <{CONSTANTS}, " + numbers(
        minus="-4", back2="-2"
    )
    concat = "a = Concat <axis=-2> (x, z)"
    assert_rewrites(
        FuseSlices(),
        f"{head}> {{ {concat}\n b = Slice(a, {start}, {end}, {axis})\n y = Neg(b) }}",
        f"{head}> {{ {concat}\n y = Neg({part}) }}",
    )


@pytest.mark.parametrize("shape", ["", "[4, 4]"])
def test_an_axis_that_does_not_exist_is_left_alone(shape: str, context: Context) -> None:
    model = ir.from_onnx_text(  # load() would refuse it, as onnxruntime does
        f"""<ir_version: 10, opset_import: ["": 21]> g (float{shape} x) => (float[A, B] y)
            <int64[1] s = {{1}}, int64[1] e = {{2}}, int64[1] axis = {{9}}>
            {{ a = Slice(x, s, e, axis) y = Slice(a, s, e, axis) }}"""
    )
    assert not FuseSlices().run(model, context).modified


def test_symbolic_parts_of_a_concat() -> None:
    head = f"g ({INPUTS}) => (float[A, B] y) <{CONSTANTS}>"
    lines = "s = Shape <start=1, end=2> (q)\n a = Concat <axis=1> (p, q, p)"
    assert_rewrites(
        FuseSlices(),
        f"{head} {{ {lines}\n e = Slice(a, eight, most, one)\n y = Neg(e) }}".replace(
            "<int64", "<int64[1] eight = {8}, int64", 1
        ),
        f"{head} {{ {lines}\n e = Concat <axis=1> (q, p)\n y = Neg(e) }}".replace(
            "<int64", "<int64[1] eight = {8}, int64", 1
        ),
    )


@pytest.mark.parametrize(
    "lines",
    [
        "a = Slice(x, nil, n, one)\n b = Slice(x, n, most, one)\n c = Concat <axis=-2> (a, b)",
        """a = Slice(x, nil, two, zero)
           b = Slice(x, two, three, zero)
           d = Slice(x, three, most, zero)
           c = Concat <axis=0> (a, b, d)""",
    ],
)
def test_all_slices_of_a_value(lines: str) -> None:
    head = f"g ({INPUTS}) => (float[N, 9, M] y) <{CONSTANTS}> {{"
    kept = lines[: lines.rindex("c = ")]
    assert_rewrites(
        FuseSlices(), f"{head} {lines}\n y = Neg(c) }}", f"{head} {kept}\n y = Neg(x) }}"
    )


def test_many_random_pairs() -> None:
    rng = np.random.default_rng(0)
    fused = 0
    for _ in range(60):
        pairs = [
            (
                int(rng.integers(2)),
                int(rng.integers(-11, 11)),
                int(rng.choice([*range(-11, 12), MOST])),
                int(rng.choice([1, 1, 1, 2, -1, -3])),
            )
            for _ in range(2)
        ]
        constants, lines = slices(*pairs)
        text = f"g ({INPUTS}) => (float[A, B, M] v1) <{constants}> {{ {lines} }}"
        model, original = load(text), load(text)
        fused += FuseSlices().run(model, Context()).modified
        for batch in (0, 1, 3, 6):
            feeds = _feeds(batch)
            assert_same_bits(run(model, feeds), run(original, feeds))
    assert fused > 20

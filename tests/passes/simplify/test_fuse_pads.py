"""Before -> after tests of FusePads."""

import onnx_ir as ir
import pytest
from graphopt.passes.simplify.fuse_pads import FusePads
from graphs import assert_rewrites, assert_unchanged

from graphopt.passbase import Context

HEAD = "g (float[N, 3] x, int64[4] fed, float number) => (float[A, B] y)"
WEIGHTS = """int64[4] p = {0, 1, 0, 2}, int64[4] q = {2, 0, 3, 1},
    int64[4] cut = {0, -1, 0, 0},
    int64[2] r = {1, 1}, int64[1] last = {-1}, float one = {1.0}, float[1] also = {1.0},
    float zero = {0.0}, float minus = {-0.0}, int64[1] a1 = {1}, int64[1] s1 = {1},
    int64[1] e4 = {4}, int64[1] e3 = {3}, int64[1] two = {2}, int64[1] nil = {0}"""


def graph(lines: str, more: str = "") -> str:
    return f"{HEAD} <{WEIGHTS}{more}> {{ {lines} }}"


REWRITES = {
    "constant": ("a = Pad(x, p)\n b = Pad(a, q)", "b = Pad(x, b_pads)", "2, 1, 3, 3"),
    "the_same_number": (
        "a = Pad(x, p, one)\n b = Pad(a, q, also)",
        "b = Pad(x, b_pads, also)",
        "2, 1, 3, 3",
    ),
    "zero_or_nothing": (
        "a = Pad(x, p, zero)\n b = Pad(a, q)",
        "b = Pad(x, b_pads)",
        "2, 1, 3, 3",
    ),
    "edge": (
        'a = Pad <mode="edge"> (x, p)\n b = Pad <mode="edge"> (a, q)',
        'b = Pad <mode="edge"> (x, b_pads)',
        "2, 1, 3, 3",
    ),
    "some_axes": (
        "a = Pad(x, r, , last)\n b = Pad(a, q)",
        "b = Pad(x, b_pads)",
        "2, 1, 3, 2",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    lines, after, widths = REWRITES[name]
    first = lines.split("\n")[0]
    assert_rewrites(
        FusePads(),
        graph(f"{lines}\n y = Neg(b)"),
        graph(f"{first}\n {after}\n y = Neg(b)", f", int64[4] b_pads = {{{widths}}}"),
    )


def test_attributes_of_version_2() -> None:
    head = "g (float[N, 3] x) => (float[A, B] y) {"
    assert_rewrites(
        FusePads(),
        f"""{head} a = Pad <pads=[0, 1, 0, 2], value=1.0> (x)
                   b = Pad <value=1.0, pads=[2, 0, 3, 1]> (a)
                   y = Neg(b) }}""",
        f"""{head} a = Pad <pads=[0, 1, 0, 2], value=1.0> (x)
                   b = Pad <value=1.0, pads=[2, 1, 3, 3]> (x)
                   y = Neg(b) }}""",
        opset=10,
    )


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_a_slice_that_cuts_off_what_was_added(mode: str) -> None:
    pad = f'a = Pad <mode="{mode}"> (x, p)'
    assert_rewrites(
        FusePads(),
        graph(f"{pad}\n b = Slice(a, s1, e4, a1)\n y = Neg(b)").replace("[A, B]", "[N, 3]"),
        graph(f"{pad}\n y = Neg(x)").replace("[A, B]", "[N, 3]"),
    )


REFUSED = {
    "1_fed_widths": ("a = Pad(x, fed)\n y = Pad(a, q)", "not known"),
    "1_a_cut_before": ("a = Pad(x, cut)\n y = Pad(a, q)", "negative"),
    "1_a_cut_behind": ("a = Pad(x, p)\n y = Pad(a, cut)", "negative"),
    "1_a_slice_of_a_cut": ("a = Pad(x, cut)\n y = Slice(a, s1, e4, a1)", "not known"),
    "2_another_number": ("a = Pad(x, p, one)\n y = Pad(a, q)", "same constant"),
    "2_another_sign_of_zero": ("a = Pad(x, p, minus)\n y = Pad(a, q, zero)", "same constant"),
    "2_a_fed_number": ("a = Pad(x, p, number)\n y = Pad(a, q, number)", "same constant"),
    "2_another_mode": ('a = Pad <mode="edge"> (x, p)\n y = Pad(a, q)', "pads by edge"),
    "2_reflection": (
        'a = Pad <mode="reflect"> (x, p)\n y = Pad <mode="reflect"> (a, q)',
        "pads by reflect",
    ),
    "3_another_start": ("a = Pad(x, p)\n y = Slice(a, two, e4, a1)", "does not start"),
    "3_no_start_of_an_axis": ("a = Pad(x, q)\n y = Slice(a, nil, e3, a1)", "does not start"),
    "3_steps": ("a = Pad(x, p)\n y = Slice(a, s1, e4, a1, two)", "does not start"),
    "3_another_end": ("a = Pad(x, p)\n y = Slice(a, s1, e3, a1)", "another shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    lines, reason = REFUSED[name]
    assert_unchanged(FusePads(), graph(lines), reason=reason)


@pytest.mark.parametrize("shape", ["", "[2, 3]"])
def test_an_axis_that_does_not_exist_is_left_alone(shape: str, context: Context) -> None:
    model = ir.from_onnx_text(  # load() would refuse it, as onnxruntime does
        f"""<ir_version: 10, opset_import: ["": 21]> g (float{shape} x) => (float[A, B] y)
            <int64[2] p = {{1, 1}}, int64[1] axis = {{7}}>
            {{ a = Pad(x, p, , axis) y = Pad(a, p, , axis) }}"""
    )
    assert not FusePads().run(model, context).modified

"""Before -> after tests of FuseSoftmax."""

import pytest
from graphopt.passes.fuse.fuse_softmax import FuseSoftmax
from graphs import assert_rewrites, assert_unchanged

HEAD = "g (float[N, M, 8] x) => (float[N, M, 8] z)"
AXES = "int64[1] a = {-1}, int64[1] b = {2}, int64[1] one = {1}, int64[2] both = {1, 2}"
SPELLED = "m = ReduceMax(x, a) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, b) z = Div(e, s)"
OLD = SPELLED.replace("ReduceMax(x, a)", "ReduceMax <axes=[-1]> (x)")
OLDEST = OLD.replace("ReduceSum(e, b)", "ReduceSum <axes=[2]> (e)")
ALONG_1 = SPELLED.replace("(x, a)", "(x, one)").replace("(e, b)", "(e, one)")


def case(body: str, head: str = HEAD, constants: str = AXES) -> str:
    return f"{head} <{constants}> {{ {body} }}"


REWRITES = {
    "last_axis": (SPELLED, "z = Softmax <axis=-1> (x)", 21),
    "axes_of_the_maximum_were_an_attribute": (OLD, "z = Softmax <axis=-1> (x)", 13),
    "axes_were_attributes": (OLDEST, "z = Softmax <axis=-1> (x)", 12),
    "axes_were_not_negative": (
        OLDEST.replace("[-1]", "[2]"),
        "z = Softmax <axis=2> (x)",
        10,
    ),
    "another_axis": (ALONG_1, "z = Softmax <axis=1> (x)", 21),
}


@pytest.mark.parametrize("name", REWRITES)
def test_softmax(name: str) -> None:
    before, after, opset = REWRITES[name]
    assert_rewrites(FuseSoftmax(), case(before), case(after), opset=opset, rtol=1e-6)


@pytest.mark.parametrize(
    ("before", "axis", "opset"),
    [("", -1, 13), ("<axis=1>", 1, 13), ("", 1, 12), ("<axis=2>", 2, 12)],
)
def test_log_softmax(before: str, axis: int, opset: int) -> None:
    assert_rewrites(
        FuseSoftmax(log=True),
        case(f"s = Softmax {before} (x) z = Log(s)"),
        case(f"z = LogSoftmax <axis={axis}> (x)"),
        opset=opset,
        rtol=1e-6,
    )


NO_REWRITES = {
    "no_maximum": (
        case("e = Exp(x) s = ReduceSum(e, b) z = Div(e, s)"), "maximum is not subtracted", 21,
    ),
    "the_maximum_of_another": (
        case(f"y = Relu(x) {SPELLED.replace('ReduceMax(x', 'ReduceMax(y')}"),
        "maximum is not subtracted",
        21,
    ),
    "the_sum_of_another": (case(SPELLED.replace("(e, b)", "(d, b)")), None, 21),
    "different_axes": (case(SPELLED.replace("(e, b)", "(e, one)")), "not along one axis", 21),
    "two_axes": (
        case(SPELLED.replace("(x, a)", "(x, both)").replace("(e, b)", "(e, both)")),
        "not along one axis",
        21,
    ),
    "an_axis_that_is_not_kept": (
        case(SPELLED.replace("ReduceSum(", "ReduceSum <keepdims=0> ("),
             "g (float[8, 8, 8] x) => (float[8, 8, 8] z)"),
        "not along one axis",
        21,
    ),
    "all_axes_from_one_on": (
        case(OLDEST.replace("axes=[-1]", "axes=[1]").replace("axes=[2]", "axes=[1]")),
        "before opset 13",
        12,
    ),
    "another_use": (
        case(SPELLED, HEAD.replace("z)", "z, float[N, M, 8] e)")), "'e' has another use", 21,
    ),
    "a_logarithm": (case("s = Softmax(x) z = Log(s)"), None, 21),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason, opset = NO_REWRITES[name]
    assert_unchanged(FuseSoftmax(), text, reason=reason, opset=opset)


def test_a_softmax_with_another_use_keeps_its_logarithm() -> None:
    head = HEAD.replace("z)", "z, float[N, M, 8] s)")
    text = case("s = Softmax(x) z = Log(s)", head)
    assert_unchanged(FuseSoftmax(log=True), text, reason="'s' has another use")

"""Before -> after tests of FuseConvPad."""

import pytest
from graphopt.passes.fuse.fuse_conv_pad import FuseConvPad
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import assert_rewrites, assert_unchanged

from graphopt.rewrite import Fixpoint

PASS = Fixpoint((FuseConvPad(), EliminateDeadCode()))
W = "float[2, 1, 2, 2] w = {1.0, -2.0, 0.5, 3.0, 1.0, -2.0, 0.5, 3.0}"
HEAD = "g (float[N, 1, 4, 4] x) => (float[N, 2, P, Q] z)"


def graph(pads: str, pad: str = "Pad(x, p)", conv: str = "Conv(y, w)", more: str = "") -> str:
    widths = f"int64[{pads.count(',') + 1}] p = {{{pads}}}"
    return f"{HEAD} <{W}, {widths}{more}> {{ y = {pad}\n z = {conv} }}"


REWRITES = {
    "plain": (graph("0, 0, 1, 2, 0, 0, 3, 0"), "Conv <pads=[1, 2, 3, 0]> (x, w)"),
    "added_to_its_own": (
        graph("0, 0, 1, 1, 0, 0, 1, 1", conv="Conv <pads=[1, 0, 0, 0]> (y, w)"),
        "Conv <pads=[2, 1, 1, 1]> (x, w)",
    ),
    "with_a_value_of_zero": (
        graph("0, 0, 1, 1, 0, 0, 1, 1", "Pad(x, p, o)", more=", float o = {0.0}"),
        "Conv <pads=[1, 1, 1, 1]> (x, w)",
    ),
    "of_some_axes": (
        graph("1, 2, 3, 0", "Pad(x, p, , a)", more=", int64[2] a = {-1, 2}"),
        "Conv <pads=[2, 1, 0, 3]> (x, w)",
    ),
    "valid_is_stated": (
        graph("0, 0, 1, 1, 0, 0, 1, 1", conv='Conv <auto_pad="VALID", strides=[2, 2]> (y, w)'),
        "Conv <strides=[2, 2], pads=[1, 1, 1, 1]> (x, w)",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    before, call = REWRITES[name]
    assert_rewrites(PASS, before, f"{HEAD} <{W}> {{ z = {call} }}", rtol=1e-6)


NO_REWRITES = {
    "another_value": (
        graph("0, 0, 1, 1, 0, 0, 1, 1", "Pad(x, p, o)", more=", float o = {1.0}"),
        "with 0",
    ),
    "a_mode": (graph("0, 0, 1, 1, 0, 0, 1, 1", 'Pad <mode="edge"> (x, p)'), "with 0"),
    "a_cut": (graph("0, 0, -1, 1, 0, 0, 1, 1"), "cuts"),
    "the_batch": (graph("1, 0, 0, 0, 0, 0, 0, 0"), "pads the batch"),
    "computed_padding": (
        graph("0, 0, 1, 1, 0, 0, 1, 1", conv='Conv <auto_pad="SAME_UPPER"> (y, w)'),
        "itself",
    ),
    "fed_widths": (
        graph("0, 0, 1, 1, 0, 0, 1, 1").replace("4] x)", "4] x, int64[8] p)"),
        "not known",
    ),
    "fed_value": (
        graph("0, 0, 1, 1, 0, 0, 1, 1", "Pad(x, p, o)", more=", float o = {0.0}").replace(
            "4] x)", "4] x, float o)"
        ),
        "with 0",
    ),
    "another_use": (
        graph("0, 0, 1, 1, 0, 0, 1, 1", conv="Conv(y, w2)\n w2 = Relu(w)").replace(
            "z = Conv(y, w2)\n w2 = Relu(w)",
            "k = Conv(y, w)\n m = ReduceMax(y)\n z = Add(k, m)",
        ),
        "another use",
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(PASS, text, reason=reason)


def test_widths_are_an_attribute_before_opset_11() -> None:
    assert_rewrites(
        PASS,
        f"{HEAD} <{W}> {{ y = Pad <pads=[0, 0, 1, 1, 0, 0, 1, 1]> (x)\n z = Conv(y, w) }}",
        f"{HEAD} <{W}> {{ z = Conv <pads=[1, 1, 1, 1]> (x, w) }}",
        opset=10,
        rtol=1e-6,
    )

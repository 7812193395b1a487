"""Before -> after tests of FuseReshapes."""

import pytest
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphopt.passes.simplify.fuse_reshapes import FuseReshapes
from graphs import assert_rewrites, assert_unchanged

from graphopt.rewrite import Fixpoint

PASS = Fixpoint((FuseReshapes(), EliminateDeadCode()))

REWRITES = {
    "two_reshapes": (
        """g (float[N, M, 12] x) => (float[N, K, 3, 4] y)
           <int64[2] s = {0, -1}, int64[4] t = {0, -1, 3, 4}>
           { a = Reshape(x, s)
             y = Reshape(a, t) }""",
        """g (float[N, M, 12] x) => (float[N, K, 3, 4] y) <int64[4] y_reshape = {0, 0, 3, 4}>
           { y = Reshape(x, y_reshape) }""",
    ),
    "three_in_a_row": (
        """g (float[24] x) => (float[4, 6] y)
           <int64[2] s = {2, 12}, int64[3] t = {2, 3, 4}, int64[2] u = {4, 6}>
           { a = Reshape(x, s)
             b = Reshape(a, t)
             y = Reshape(b, u) }""",
        """g (float[24] x) => (float[4, 6] y) <int64[2] y_reshape = {4, 6}>
           { y = Reshape(x, y_reshape) }""",
    ),
    "two_unsqueezes": (
        """g (float[N, M] x) => (float[1, N, M, 1] y) <int64[1] a = {0}, int64[1] b = {3}>
           { u = Unsqueeze(x, a)
             y = Unsqueeze(u, b) }""",
        """g (float[N, M] x) => (float[1, N, M, 1] y) <int64[2] y_unsqueeze = {0, 3}>
           { y = Unsqueeze(x, y_unsqueeze) }""",
    ),
    "two_squeezes": (
        """g (float[1, N, M, 1] x) => (float[N, M] y) <int64[1] a = {3}, int64[1] b = {0}>
           { u = Squeeze(x, a)
             y = Squeeze(u, b) }""",
        """g (float[1, N, M, 1] x) => (float[N, M] y) <int64[2] y_squeeze = {0, 3}>
           { y = Squeeze(x, y_squeeze) }""",
    ),
    "inverse_pair": (
        """g (float[N, M] x) => (float[N, M] y) <int64[1] a = {1}>
           { u = Unsqueeze(x, a)
             v = Squeeze(u, a)
             y = Relu(v) }""",
        "g (float[N, M] x) => (float[N, M] y) { y = Relu(x) }",
    ),
    "inverse_pair_of_reshapes": (
        """g (float[N, 12] x) => (float[N, 12] y)
           <int64[3] s = {0, 3, 4}, int64[2] t = {-1, 12}>
           { u = Reshape(x, s)
             v = Reshape(u, t)
             y = Relu(v) }""",
        "g (float[N, 12] x) => (float[N, 12] y) { y = Relu(x) }",
    ),
    "a_reshape_that_only_adds_an_axis": (
        """g (float[N, M] x) => (float[N, 1, M] y) <int64[1] m = {-1}, int64[1] a = {1}>
           { f = Flatten <axis=1> (x)
             y = Unsqueeze(f, a) }""",
        """g (float[N, M] x) => (float[N, 1, M] y) <int64[1] y_unsqueeze = {1}>
           { y = Unsqueeze(x, y_unsqueeze) }""",
    ),
    "an_axis_changes_its_place": (
        """g (float[N, 1, M] x) => (float[N, M, 1] y) <int64[1] a = {1}, int64[1] b = {2}>
           { u = Squeeze(x, a)
             y = Unsqueeze(u, b) }""",
        """g (float[N, 1, M] x) => (float[N, M, 1] y) <int64[3] y_reshape = {0, -1, 1}>
           { y = Reshape(x, y_reshape) }""",
    ),
    "ones_beside_ones": (
        """g (float[1, N, 1] x) => (float[1, 1, N, 1, 1] y)
           <int64[1] a = {0}, int64[1] b = {4}>
           { u = Unsqueeze(x, a)
             y = Unsqueeze(u, b) }""",
        """g (float[1, N, 1] x) => (float[1, 1, N, 1, 1] y) <int64[2] y_unsqueeze = {1, 4}>
           { y = Unsqueeze(x, y_unsqueeze) }""",
    ),
    "flatten_into_gemm": (
        """g (float[N, 8, 1, 1] x) => (float[N, 2, 4] y) <int64[3] s = {0, 2, 4}>
           { f = Flatten(x)
             y = Reshape(f, s) }""",
        """g (float[N, 8, 1, 1] x) => (float[N, 2, 4] y) <int64[3] y_reshape = {0, 2, 4}>
           { y = Reshape(x, y_reshape) }""",
    ),
    "after_a_reduction": (
        """g (float[N, 8, 7, 7] x) => (float[N, 8] y) <int64[2] a = {2, -1}>
           { m = ReduceMean(x, a)
             y = Flatten(m) }""",
        """g (float[N, 8, 7, 7] x) => (float[N, 8] y) <int64[2] a = {2, -1}>
           { y = ReduceMean <keepdims=0> (x, a) }""",
    ),
    "the_first_has_another_use": (
        """g (float[N, M] x) => (float[N, M] y, float[1, N, M] z) <int64[1] a = {0}>
           { z = Unsqueeze(x, a)
             v = Squeeze(z, a)
             y = Relu(v) }""",
        """g (float[N, M] x) => (float[N, M] y, float[1, N, M] z) <int64[1] a = {0}>
           { z = Unsqueeze(x, a)
             y = Relu(x) }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    assert_rewrites(PASS, *REWRITES[name])


NO_REWRITES = {
    "alone": ("g (float[N, M] x) => (float[A, B] y) { y = Flatten(x) }", None),
    "two_sizes_that_cannot_be_stated": (
        """g (float[N, M, 6] x, float[M, N, 6] z) => (float[A, B, C, D] y)
           <int64[1] a = {3}>
           { t = Shape(z)
             u = Reshape(x, t)
             y = Unsqueeze(u, a) }""",
        "more than one size",
    ),
    "a_fed_target": (
        """g (float[N, M] x, int64[3] t) => (float[A, B, C, D] y) <int64[1] a = {0}>
           { u = Reshape(x, t)
             y = Unsqueeze(u, a) }""",
        "more than one size",
    ),
    "after_a_reduction_of_another_axis": (
        """g (float[N, 8, 7] x) => (float[K, 4] y)
           <int64[1] a = {2}, int64[2] t = {-1, 4}>
           { m = ReduceMean(x, a)
             y = Reshape(m, t) }""",
        "not that of the reduction",
    ),
    "after_a_reduction_with_another_use": (
        """g (float[N, 8, 7] x) => (float[N, 8] y, float[N, 8, 1] m) <int64[1] a = {2}>
           { m = ReduceMean(x, a)
             y = Flatten(m) }""",
        "another use",
    ),
    "after_a_reduction_of_everything": (
        """g (float[2, 8] x) => (float[1] y) <int64[1] t = {1}>
           { m = ReduceMean(x)
             y = Reshape(m, t) }""",
        "not known, or are not kept",
    ),
    "an_unknown_rank": (
        """g (float[N, 1, M] x) => (float[A] y) <int64[1] m = {-1}>
           { u = Squeeze(x)
             y = Reshape(u, m) }""",
        None,
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    if name == "an_unknown_rank":
        assert_rewrites(
            PASS,
            text,
            """g (float[N, 1, M] x) => (float[A] y) <int64[1] y_reshape = {-1}>
               { y = Reshape(x, y_reshape) }""",
        )
    else:
        assert_unchanged(PASS, text, reason=reason)


def test_axes_are_attributes_before_opset_13() -> None:
    assert_rewrites(
        PASS,
        """g (float[N, M] x) => (float[1, N, M, 1] y)
           { u = Unsqueeze <axes=[0]> (x)
             y = Unsqueeze <axes=[3]> (u) }""",
        "g (float[N, M] x) => (float[1, N, M, 1] y) { y = Unsqueeze <axes=[0, 3]> (x) }",
        opset=11,
    )


def test_across_a_branch() -> None:
    assert_rewrites(
        PASS,
        """g (bool c, float[N, M] x) => (float[1, B, C] y) <int64[1] a = {0}>
           { u = Unsqueeze(x, a)
             y = If (c) <then_branch = t () => (float[1, B, C] p) { v = Squeeze(u, a)
                                                                  w = Unsqueeze(v, a)
                                                                  p = Relu(w) },
                         else_branch = e () => (float[A, B, C] q) { q = Exp(u) }> }""",
        """g (bool c, float[N, M] x) => (float[1, B, C] y) <int64[1] a = {0}>
           { u = Unsqueeze(x, a)
             y = If (c) <then_branch = t () => (float[1, B, C] p) { w = Unsqueeze(x, a)
                                                                  p = Relu(w) },
                         else_branch = e () => (float[A, B, C] q) { q = Exp(u) }> }""",
    )

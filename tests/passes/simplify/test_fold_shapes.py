"""Before -> after tests of FoldShapes."""

import numpy as np
import pytest
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphopt.passes.simplify.fold_shapes import FoldShapes
from graphs import apply, assert_rewrites, assert_same_answers, assert_unchanged, load

from graphopt.passbase import Context
from graphopt.rewrite import Fixpoint

PASS = Fixpoint((FoldShapes(), EliminateDeadCode()))

REWRITES = {
    "copies_and_what_is_left": (
        """g (float[N, M, 96] x) => (float[N, M, 12, 8] y)
           <int64[2] nm = {0, 1}, int64[2] rest = {12, -1}>
           { s = Shape(x)
             h = Gather(s, nm)
             t = Concat <axis=0> (h, rest)
             y = Reshape(x, t) }""",
        """g (float[N, M, 96] x) => (float[N, M, 12, 8] y) <int64[4] y_shape = {0, 0, 12, 8}>
           { y = Reshape(x, y_shape) }""",
    ),
    "one_product": (
        """g (float[N, M, 8] x) => (float[K, 8] y) <int64[1] rest = {8}, int64[1] m = {-1}>
           { a = Shape <start=0, end=1> (x)
             b = Shape <start=1, end=2> (x)
             p = Mul(a, b)
             t = Concat <axis=0> (p, rest)
             y = Reshape(x, t) }""",
        """g (float[N, M, 8] x) => (float[K, 8] y) <int64[2] y_shape = {-1, 8}>
           { y = Reshape(x, y_shape) }""",
    ),
    "target_of_another_tensor": (
        """g (float[N, M] x, float[N, M, 1] z) => (float[N, M, 1] y)
           { t = Shape(z)
             y = Reshape(x, t) }""",
        """g (float[N, M] x, float[N, M, 1] z) => (float[N, M, 1] y)
           <int64[3] y_shape = {0, 0, 1}>
           { y = Reshape(x, y_shape) }""",
    ),
    "allowzero_is_dropped": (
        """g (float[N, 6] x) => (float[N, 2, 3] y) <int64[2] rest = {2, 3}>
           { n = Shape <start=0, end=1> (x)
             t = Concat <axis=0> (n, rest)
             y = Reshape <allowzero=1> (x, t) }""",
        """g (float[N, 6] x) => (float[N, 2, 3] y) <int64[3] y_shape = {0, 2, 3}>
           { y = Reshape(x, y_shape) }""",
    ),
    "slice_to_the_end": (
        """g (float[N, M] x) => (float[N, M] y) <int64[1] one = {1}, int64[1] zero = {0}>
           { m = Shape <start=1, end=2> (x)
             y = Slice(x, zero, m, one) }""",
        """g (float[N, M] x) => (float[N, M] y) <int64[1] one = {1}, int64[1] zero = {0},
             int64[1] y_ends = {9223372036854775807}>
           { y = Slice(x, zero, y_ends, one) }""",
    ),
    "slice_beyond_the_end": (
        """g (float[N, M] x) => (float[N, K] y) <int64[1] one = {1}, int64[1] two = {2}>
           { m = Shape <start=1, end=2> (x)
             e = Add(m, two)
             y = Slice(x, one, e, one, one) }""",
        """g (float[N, M] x) => (float[N, K] y) <int64[1] one = {1},
             int64[1] y_ends = {9223372036854775807}>
           { y = Slice(x, one, y_ends, one, one) }""",
    ),
    "slice_by_int32": (
        """g (float[N, M] x) => (float[N, M] y) <int32[1] one = {1}, int32[1] zero = {0}>
           { m = Shape <start=1, end=2> (x)
             e = Cast <to=6> (m)
             y = Slice(x, zero, e, one) }""",
        """g (float[N, M] x) => (float[N, M] y) <int32[1] one = {1}, int32[1] zero = {0},
             int32[1] y_ends = {2147483647}>
           { y = Slice(x, zero, y_ends, one) }""",
    ),
    "slice_with_a_fixed_end_on_another_axis": (
        """g (float[N, M] x) => (float[K, M] y) <int64[2] zeros = {0, 0}, int64[1] two = {2}>
           { m = Shape <start=1, end=2> (x)
             e = Concat <axis=0> (two, m)
             y = Slice(x, zeros, e) }""",
        """g (float[N, M] x) => (float[K, M] y) <int64[2] zeros = {0, 0},
             int64[2] y_ends = {2, 9223372036854775807}>
           { y = Slice(x, zeros, y_ends) }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    model = assert_rewrites(PASS, *REWRITES[name])
    for n, m in ((1, 1), (1, 5), (4, 1)):
        original = load(REWRITES[name][0])
        feeds = {
            value.name: np.random.default_rng(0)
            .standard_normal([{"N": n, "M": m}.get(str(d), d) for d in value.shape])
            .astype(np.float32)
            for value in original.graph.inputs
        }
        assert_same_answers(model, original, feeds=feeds)


NO_REWRITES = {
    "constant_target": (
        """g (float[N, 6] x) => (float[N, 2, 3] y) <int64[3] t = {-1, 2, 3}>
           { y = Reshape(x, t) }""",
        None,
    ),
    "fed_target": (
        "g (float[N, M] x, int64[2] t) => (float[A, B] y) { y = Reshape(x, t) }",
        "more than one size",
    ),
    "two_sizes_change_places": (
        """g (float[N, M, 6] x) => (float[M, N, 6] y) <int64[3] i = {1, 0, 2}>
           { s = Shape(x)
             t = Gather(s, i)
             y = Reshape(x, t) }""",
        "more than one size",
    ),
    "fed_target_of_any_length": (
        """g (float[N, M] x, int64[K] t) => (float[A, B] y) { y = Reshape(x, t) }""",
        "more than one size",
    ),
    "slice_that_may_end_inside": (
        """g (float[N, M] x) => (float[N, K] y) <int64[1] one = {1}, int64[1] zero = {0}>
           { m = Shape <start=1, end=2> (x)
             e = Sub(m, one)
             y = Slice(x, zero, e, one) }""",
        "may lie inside",
    ),
    "slice_by_another_size": (
        """g (float[N, M] x) => (float[N, K] y) <int64[1] one = {1}, int64[1] zero = {0}>
           { n = Shape <start=0, end=1> (x)
             y = Slice(x, zero, n, one) }""",
        "may lie inside",
    ),
    "slice_backwards": (
        """g (float[N, M] x) => (float[N, K] y)
           <int64[1] one = {1}, int64[1] minus = {-1}, int64[1] zero = {0}>
           { m = Shape <start=1, end=2> (x)
             y = Slice(x, minus, m, one, minus) }""",
        "may lie inside",
    ),
    "slice_of_what_is_fed": (
        """g (float[N, M] x, int64[1] e) => (float[N, K] y)
           <int64[1] one = {1}, int64[1] zero = {0}>
           { y = Slice(x, zero, e, one) }""",
        "may lie inside",
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(FoldShapes(), text, reason=reason)


def test_the_number_zero_is_not_a_copy() -> None:
    text = """g (float[N, 0] x) => (float[0, N] y) <int64[1] zero = {0}>
              { n = Shape <start=0, end=1> (x)
                t = Concat <axis=0> (zero, n)
                y = Reshape <allowzero=1> (x, t) }"""
    assert_unchanged(FoldShapes(), text, reason="or may be 0")


def test_copies_of_an_empty_batch_stay_empty() -> None:
    text, _ = REWRITES["copies_and_what_is_left"]
    model = load(text)
    assert apply(model, FoldShapes()).modified
    feeds = {"x": np.zeros((0, 3, 96), np.float32)}
    # The target computed before was [0, 3, 12, -1], which onnxruntime refuses.
    from graphs import run

    assert run(model, feeds)[0].shape == (0, 3, 12, 8)


def test_inside_a_branch() -> None:
    text = """g (bool c, float[N, 6] x) => (float[N, K] y) <int64[1] six = {6}>
              { s = Shape <end=1> (x)
                y = If (c) <then_branch = t () => (float[A, B] p)
                              { u = Concat <axis=0> (s, six)
                                p = Reshape(x, u) },
                            else_branch = e () => (float[A, B] q) { q = Exp(x) }> }"""
    model, original = load(text), load(text)
    assert apply(model, FoldShapes()).modified
    assert not apply(model, FoldShapes()).modified
    for c in (True, False):
        feeds = {"c": np.array(c), "x": np.ones((2, 6), np.float32)}
        assert_same_answers(model, original, feeds=feeds)


def test_a_shape_the_file_is_wrong_about_is_not_believed() -> None:
    import onnx_ir as ir

    text = """g (float[N, 6] x) => (float[N, 2, 3] y) <int64[2] rest = {2, 3}>
              { h = Relu(x)
                n = Shape <start=0, end=1> (h)
                t = Concat <axis=0> (n, rest)
                y = Reshape(h, t) }"""
    model, original = load(text), load(text)
    model.graph[0].outputs[0].shape = ir.Shape([1, 6])
    FoldShapes().run(model, Context())
    assert_same_answers(model, original)

"""Before -> after tests of FuseTransposes."""

import itertools

import onnx_ir as ir
import pytest
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphopt.passes.simplify.eliminate_noop import EliminateNoop
from graphopt.passes.simplify.fuse_transposes import FuseTransposes
from graphs import apply, assert_rewrites, assert_same_answers, assert_unchanged, load

from graphopt.passbase import Context
from graphopt.rewrite import Fixpoint

PASS = Fixpoint((FuseTransposes(), EliminateDeadCode()))

REWRITES = {
    "two": (
        """g (float[N, M, 4] x) => (float[M, N, 4] y)
           { a = Transpose <perm=[0, 2, 1]> (x)
             y = Transpose <perm=[2, 0, 1]> (a) }""",
        "g (float[N, M, 4] x) => (float[M, N, 4] y) { y = Transpose <perm=[1, 0, 2]> (x) }",
    ),
    "inverse": (
        """g (float[N, M, 4] x) => (float[N, M, 4] y)
           { a = Transpose <perm=[1, 2, 0]> (x)
             b = Transpose <perm=[2, 0, 1]> (a)
             y = Relu(b) }""",
        "g (float[N, M, 4] x) => (float[N, M, 4] y) { y = Relu(x) }",
    ),
    "without_perm": (
        """g (float[N, M] x) => (float[N, M] y)
           { a = Transpose(x)
             b = Transpose(a)
             y = Relu(b) }""",
        "g (float[N, M] x) => (float[N, M] y) { y = Relu(x) }",
    ),
    "the_first_has_another_use": (
        """g (float[N, M] x) => (float[N, M] y, float[M, N] z)
           { z = Transpose(x)
             b = Transpose(z)
             y = Relu(b) }""",
        """g (float[N, M] x) => (float[N, M] y, float[M, N] z)
           { z = Transpose(x)
             y = Relu(x) }""",
    ),
    "only_a_one_moves": (
        """g (float[N, 64, 1] x) => (float[N, 1, 64] y)
           { y = Transpose <perm=[0, 2, 1]> (x) }""",
        """g (float[N, 64, 1] x) => (float[N, 1, 64] y) <int64[3] y_shape = {0, 1, 64}>
           { y = Reshape(x, y_shape) }""",
    ),
    "joined_and_taken_apart": (
        """g (float[N, 12, M, 64] x) => (float[N, 12, 64, M] y)
           <int64[1] minus = {-1}, int64[1] h = {12}, int64[1] w = {64}>
           { n = Shape <end=1> (x)
             m = Shape <start=2, end=3> (x)
             l = Concat <axis=0> (minus, m, w)
             a = Reshape(x, l)
             b = Transpose <perm=[0, 2, 1]> (a)
             t = Concat <axis=0> (n, h, w, m)
             y = Reshape(b, t) }""",
        """g (float[N, 12, M, 64] x) => (float[N, 12, 64, M] y)
           { y = Transpose <perm=[0, 1, 3, 2]> (x) }""",
    ),
    "joined_at_the_end": (
        """g (float[2, 3, 4] x) => (float[3, 4, 2] y)
           <int64[2] s = {2, 12}, int64[3] t = {3, 4, 2}>
           { a = Reshape(x, s)
             b = Transpose(a)
             y = Reshape(b, t) }""",
        "g (float[2, 3, 4] x) => (float[3, 4, 2] y) { y = Transpose <perm=[1, 2, 0]> (x) }",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    assert_rewrites(PASS, *REWRITES[name])


NO_REWRITES = {
    "alone": ("g (float[N, M] x) => (float[M, N] y) { y = Transpose(x) }", None),
    "two_symbols_around_a_one": (
        """g (float[1, N, M] x) => (float[N, M, 1] y)
           { y = Transpose <perm=[1, 2, 0]> (x) }""",
        "more than one symbolic size",
    ),
    "the_first_reshape_takes_apart": (
        """g (float[6, 4] x) => (float[2, 12] y)
           <int64[3] s = {2, 3, 4}, int64[2] t = {2, 12}>
           { a = Reshape(x, s)
             b = Transpose <perm=[0, 2, 1]> (a)
             y = Reshape(b, t) }""",
        "more than join axes",
    ),
    "the_second_reshape_takes_other_axes_apart": (
        """g (float[2, 3, 4] x) => (float[4, 3, 2] y)
           <int64[2] s = {6, 4}, int64[3] t = {4, 3, 2}>
           { a = Reshape(x, s)
             b = Transpose(a)
             y = Reshape(b, t) }""",
        "does not take the same axes apart",
    ),
    "the_axes_are_not_neighbours": (
        """g (float[2, 3, 2] x) => (float[2, 2, 3] y)
           <int64[2] s = {4, 3}, int64[3] t = {2, 2, 3}>
           { a = Reshape(x, s)
             b = Transpose <perm=[0, 1]> (a)
             y = Reshape(b, t) }""",
        None,
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(PASS, text, reason=reason)


def test_every_pair_of_permutations() -> None:
    for first, second in itertools.product(itertools.permutations(range(3)), repeat=2):
        text = f"""g (float[2, 3, 4] x) => (float[A, B, C] y)
                   {{ a = Transpose <perm={list(first)}> (x)
                      y = Transpose <perm={list(second)}> (a) }}"""
        model, original = load(text), load(text)
        assert apply(model, PASS).modified
        assert_same_answers(model, original)


def test_without_perm_the_rank_must_be_known() -> None:
    text = """g (float[N, M] x, int64[K] s) => (float[A, B] y)
              { r = Reshape(x, s)
                a = Transpose(r)
                b = Transpose(a)
                f = Flatten(b)
                y = Relu(f) }"""
    assert_unchanged(PASS, text, reason="rank")


@pytest.mark.parametrize("perms", [([0, 0], [1, 0]), ([1, 0], [5, 1]), ([1, 0], [0, 2, 1])])
def test_an_order_of_axes_that_is_none_is_left_alone(perms, context: Context) -> None:
    first, second = perms
    model = ir.from_onnx_text(  # load() would refuse it, as onnxruntime does
        f"""<ir_version: 10, opset_import: ["": 21]> g (float[2, 3] x) => (float[A, B] y)
            {{ a = Transpose <perm={first}> (x) y = Transpose <perm={second}> (a) }}"""
    )
    rules = Fixpoint((EliminateNoop(), FuseTransposes()))
    assert not rules.run(model, context).modified

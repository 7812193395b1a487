"""Before -> after tests of EliminateIdentity."""

import numpy as np
import pytest
from graphopt.passes.simplify.eliminate_identity import EliminateIdentity
from graphs import apply, assert_rewrites, assert_same_answers, assert_unchanged, load

REWRITES = {
    "in_a_chain": (
        """g (float[N] x) => (float[N] y)
           { a = Identity(x)
             y = Relu(a) }""",
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
    ),
    "several": (
        """g (float[N] x) => (float[N] y)
           { a = Identity(x)
             b = Identity(a)
             c = Identity(a)
             y = Add(b, c) }""",
        "g (float[N] x) => (float[N] y) { y = Add(x, x) }",
    ),
    "of_an_initializer": (
        """g (float[N] x) => (float[N] y) <float[1] w = {2.0}>
           { a = Identity(w)
             y = Mul(x, a) }""",
        "g (float[N] x) => (float[N] y) <float[1] w = {2.0}> { y = Mul(x, w) }",
    ),
    "graph_output_keeps_its_name": (
        """g (float[N] x) => (float[N] y)
           { a = Relu(x)
             y = Identity(a) }""",
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
    ),
    "graph_output_of_a_value_with_other_uses": (
        """g (float[N] x) => (float[N] y, float[N] z)
           { a = Relu(x)
             y = Identity(a)
             z = Exp(a) }""",
        """g (float[N] x) => (float[N] y, float[N] z)
           { y = Relu(x)
             z = Exp(y) }""",
    ),
    "inside_a_branch": (
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { a = Identity(x)
                                                            p = Relu(a) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }""",
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { p = Relu(x) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }""",
    ),
    "captured_by_a_branch": (
        """g (bool c, float[N] x) => (float[N] y)
           { a = Identity(x)
             y = If (c) <then_branch = t () => (float[N] p) { p = Relu(a) },
                         else_branch = e () => (float[N] q) { q = Exp(a) }> }""",
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { p = Relu(x) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    assert_rewrites(EliminateIdentity(), *REWRITES[name])


NO_REWRITES = {
    "output_of_an_input": (
        "g (float[N] x) => (float[N] y) { y = Identity(x) }",
        "would lose its producer",
    ),
    "output_of_an_initializer": (
        """g (float[N] x) => (float[1] y, float[N] z) <float[1] w = {2.0}>
           { y = Identity(w)
             z = Relu(x) }""",
        "would lose its producer",
    ),
    "output_of_an_outer_value": (
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { p = Identity(x) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }""",
        "would lose its producer",
    ),
    "both_are_outputs": (
        """g (float[N] x) => (float[N] a, float[N] y)
           { a = Relu(x)
             y = Identity(a) }""",
        "both graph outputs",
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(EliminateIdentity(), text, reason=reason)


def test_the_output_of_an_outer_node_stays_outside() -> None:
    text = """g (bool c, float[N] x) => (float[N] y)
              { r = Relu(x)
                y = If (c) <then_branch = t () => (float[N] p) { p = Identity(r) },
                            else_branch = e () => (float[N] q) { q = Exp(r) }> }"""
    assert_unchanged(EliminateIdentity(), text, reason="would lose its producer")


def test_declared_type_of_an_output_is_kept() -> None:
    text = """g (float[N, 3] x) => (float[M, 3] y)
              { a = Relu(x)
                y = Identity(a) }"""
    model = load(text)
    apply(model, EliminateIdentity())
    assert str(model.graph.outputs[0].shape) == "[M,3]"


def test_loop_body() -> None:
    text = """g (int64 n, float[2] x) => (float[2] y) <bool t = {1}>
              { y = Loop <body = b (int64 i, bool c, float[2] h) => (bool d, float[2] k)
                    { d = Identity(c)
                      g = Identity(h)
                      k = Add(g, g) }> (n, t, x) }"""
    model, original = load(text), load(text)
    assert apply(model, EliminateIdentity()).modified
    body = model.graph[0].attributes["body"].as_graph()
    assert [node.op_type for node in body] == ["Identity", "Add"]
    feeds = {"n": np.array(3), "x": np.ones(2, np.float32)}
    assert_same_answers(model, original, feeds=feeds)

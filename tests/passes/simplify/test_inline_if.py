"""Before -> after tests of InlineIf."""

import numpy as np
import pytest
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphopt.passes.simplify.inline_if import InlineIf
from graphs import apply, assert_rewrites, assert_same_answers, assert_unchanged, load

from graphopt.rewrite import Fixpoint

PASS = Fixpoint((InlineIf(), EliminateDeadCode()))
BRANCHES = """<then_branch = t () => (float[N] p) { a = Relu(x)
                                                p = Exp(a) },
               else_branch = e () => (float[N] q) { q = Neg(x) }>"""

REWRITES = {
    "true": (
        f"""g (float[N] x) => (float[N] z) <bool c = {{1}}>
            {{ y = If (c) {BRANCHES}
               z = Abs(y) }}""",
        """g (float[N] x) => (float[N] z)
           { a_g1 = Relu(x)
             y = Exp(a_g1)
             z = Abs(y) }""",
    ),
    "false": (
        f"""g (float[N] x) => (float[N] z) <bool c = {{0}}>
            {{ y = If (c) {BRANCHES}
               z = Abs(y) }}""",
        """g (float[N] x) => (float[N] z)
           { y = Neg(x)
             z = Abs(y) }""",
    ),
    "graph_output": (
        f"g (float[N] x) => (float[N] y) <bool c = {{1}}> {{ y = If (c) {BRANCHES} }}",
        """g (float[N] x) => (float[N] y)
           { a_g1 = Relu(x)
             y = Exp(a_g1) }""",
    ),
    "initializers_move_too": (
        """g (float[N] x) => (float[N] z) <bool c = {1}>
           { y = If (c) <then_branch = t () => (float[N] p) <float[1] w = {2.0}>
                             { p = Mul(x, w) },
                         else_branch = e () => (float[N] q) { q = Neg(x) }>
             z = Abs(y) }""",
        """g (float[N] x) => (float[N] z) <float[1] w_g1 = {2.0}>
           { y = Mul(x, w_g1)
             z = Abs(y) }""",
    ),
    "two_outputs": (
        """g (float[N] x) => (float[N] z) <bool c = {1}>
           { y, k = If (c) <then_branch = t () => (float[N] p, float[N] r)
                                { p = Exp(x)
                                  r = Neg(p) },
                            else_branch = e () => (float[N] q, float[N] s)
                                { q = Neg(x)
                                  s = Abs(x) }>
             z = Add(y, k) }""",
        """g (float[N] x) => (float[N] z)
           { y = Exp(x)
             k = Neg(y)
             z = Add(y, k) }""",
    ),
    "nested": (
        """g (float[N] x) => (float[N] z) <bool c = {1}, bool d = {0}>
           { y = If (c) <then_branch = t () => (float[N] p)
                           { p = If (d) <then_branch = u () => (float[N] r) { r = Exp(x) },
                                         else_branch = v () => (float[N] s) { s = Abs(x) }> },
                         else_branch = e () => (float[N] q) { q = Neg(x) }>
             z = Relu(y) }""",
        """g (float[N] x) => (float[N] z)
           { y = Abs(x)
             z = Relu(y) }""",
    ),
    "a_condition_that_follows_from_shapes": (
        """g (float[N, 3] x) => (float[N, 3] z) <int64 three = {3}, int64 i = {1}>
           { s = Shape(x)
             m = Gather(s, i)
             c = Equal(m, three)
             y = If (c) <then_branch = t () => (float[N, 3] p) { p = Exp(x) },
                         else_branch = e () => (float[N, 3] q) { q = Neg(x) }>
             z = Abs(y) }""",
        """g (float[N, 3] x) => (float[N, 3] z)
           { y = Exp(x)
             z = Abs(y) }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    assert_rewrites(PASS, *REWRITES[name])


NO_REWRITES = {
    "fed_condition": (
        f"g (bool c, float[N] x) => (float[N] y) {{ y = If (c) {BRANCHES} }}",
        "not constant",
    ),
    "overridable_condition": (
        f"g (bool c, float[N] x) => (float[N] y) <bool c = {{1}}> {{ y = If (c) {BRANCHES} }}",
        "not constant",
    ),
    "a_branch_with_a_subgraph": (
        f"""g (bool d, float[N] x) => (float[N] y) <bool c = {{1}}>
            {{ y = If (c) <then_branch = o () => (float[N] k) {{ k = If (d) {BRANCHES} }},
                          else_branch = w () => (float[N] l) {{ l = Neg(x) }}> }}""",
        "subgraph of its own",
    ),
    "a_size_that_may_be_one": (
        """g (float[N, 3] x) => (float[N, 3] y) <int64 one = {1}, int64 i = {0}>
           { s = Shape(x)
             m = Gather(s, i)
             c = Equal(m, one)
             y = If (c) <then_branch = t () => (float[N, 3] p) { p = Exp(x) },
                         else_branch = e () => (float[N, 3] q) { q = Neg(x) }> }""",
        "not constant",
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(InlineIf(), text, reason=reason)


def test_a_branch_that_is_only_an_outer_value() -> None:
    text = """g (float[N] x) => (float[N] y) <bool c = {1}>
              { y = If (c) <then_branch = t () => (float[N] p) { p = Identity(x) },
                            else_branch = e () => (float[N] q) { q = Neg(x) }> }"""
    model, original = load(text), load(text)
    assert apply(model, PASS).modified
    assert [node.op_type for node in model.graph] == ["Identity"]
    assert_same_answers(model, original)


def test_names_of_both_branches_do_not_collide() -> None:
    text = """g (float[N] x) => (float[N] z) <bool c = {1}>
              { a = Exp(x)
                y = If (c) <then_branch = t () => (float[N] p) { b = Relu(a)
                                                               p = Neg(b) },
                            else_branch = e () => (float[N] q) { q = Neg(x) }>
                z = Add(a, y) }"""
    model, original = load(text), load(text)
    inner = model.graph[1].attributes["then_branch"].as_graph()
    inner[0].outputs[0].name = "a2"
    assert apply(model, PASS).modified
    assert_same_answers(model, original, feeds={"x": np.ones(3, np.float32)})

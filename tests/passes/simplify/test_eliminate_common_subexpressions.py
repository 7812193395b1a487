"""Before -> after tests of EliminateCommonSubexpressions."""

import pytest
from graphopt.passes.simplify.eliminate_common_subexpressions import (
    EliminateCommonSubexpressions,
)
from graphs import apply, assert_rewrites, assert_unchanged, load

REWRITES = {
    "two": (
        """g (float[N] x) => (float[N] y)
           { a = Relu(x)
             b = Relu(x)
             y = Add(a, b) }""",
        """g (float[N] x) => (float[N] y)
           { a = Relu(x)
             y = Add(a, a) }""",
    ),
    "chains": (
        """g (float[N] x) => (float[N] y) <float[1] w = {2.0}>
           { a = Mul(x, w)
             b = Exp(a)
             c = Mul(x, w)
             d = Exp(c)
             y = Add(b, d) }""",
        """g (float[N] x) => (float[N] y) <float[1] w = {2.0}>
           { a = Mul(x, w)
             b = Exp(a)
             y = Add(b, b) }""",
    ),
    "three": (
        """g (float[N] x) => (float[N] y)
           { a = Relu(x)
             b = Relu(x)
             c = Relu(x)
             y = Sum(a, b, c) }""",
        """g (float[N] x) => (float[N] y)
           { a = Relu(x)
             y = Sum(a, a, a) }""",
    ),
    "equal_attributes": (
        """g (float[N, 4] x) => (float[N, 4] y)
           { a = Softmax <axis=1> (x)
             b = Softmax <axis=1> (x)
             y = Add(a, b) }""",
        """g (float[N, 4] x) => (float[N, 4] y)
           { a = Softmax <axis=1> (x)
             y = Add(a, a) }""",
    ),
    "several_outputs": (
        """g (float[4] x) => (float[2] y)
           { a, b = Split <num_outputs=2> (x)
             c, d = Split <num_outputs=2> (x)
             y = Add(a, d) }""",
        """g (float[4] x) => (float[2] y)
           { a, b = Split <num_outputs=2> (x)
             y = Add(a, b) }""",
    ),
    "sizes_that_are_known_to_be_equal": (
        """g (float[N, 3] x, float[N, 8] h) => (int64[2] y)
           { a = Shape <start=0, end=1> (x)
             r = Relu(h)
             b = Shape <start=0, end=1> (r)
             y = Concat <axis=0> (a, b) }""",
        """g (float[N, 3] x, float[N, 8] h) => (int64[2] y)
           { a = Shape <start=0, end=1> (x)
             r = Relu(h)
             y = Concat <axis=0> (a, a) }""",
    ),
    "in_a_branch_and_around_it": (
        """g (bool c, float[N] x) => (float[N] y)
           { a = Relu(x)
             z = If (c) <then_branch = t () => (float[N] p) { b = Relu(x)
                                                            p = Exp(b) },
                         else_branch = e () => (float[N] q) { q = Exp(a) }>
             y = Neg(z) }""",
        """g (bool c, float[N] x) => (float[N] y)
           { a = Relu(x)
             z = If (c) <then_branch = t () => (float[N] p) { p = Exp(a) },
                         else_branch = e () => (float[N] q) { q = Exp(a) }>
             y = Neg(z) }""",
    ),
    "a_graph_output_and_an_inner_value": (
        """g (float[N] x) => (float[N] y, float[N] z)
           { a = Relu(x)
             y = Relu(x)
             z = Exp(a) }""",
        """g (float[N] x) => (float[N] y, float[N] z)
           { y = Relu(x)
             z = Exp(y) }""",
    ),
    "two_graph_outputs": (
        """g (float[N] x) => (float[N] y, float[N] z)
           { y = Relu(x)
             z = Relu(x) }""",
        """g (float[N] x) => (float[N] y, float[N] z)
           { y = Relu(x)
             z = Identity(y) }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    assert_rewrites(EliminateCommonSubexpressions(), *REWRITES[name])


NO_REWRITES = {
    "another_operator": "a = Relu(x)\n b = Exp(x)\n y = Add(a, b)",
    "another_attribute": """a = LeakyRelu <alpha=0.1> (x)
        b = LeakyRelu <alpha=0.2> (x)
        y = Add(a, b)""",
    "sign_of_an_attribute": """a = LeakyRelu <alpha=0.0> (x)
        b = LeakyRelu <alpha=-0.0> (x)
        y = Add(a, b)""",
    "other_inputs": "a = Sub(x, w)\n b = Sub(w, x)\n y = Add(a, b)",
    "random": "a = RandomUniformLike(x)\n b = RandomUniformLike(x)\n y = Add(a, b)",
    "sibling_branches": """y = If (c)
        <then_branch = t () => (float[N] p) { a = Relu(x)
                                            p = Exp(a) },
         else_branch = e () => (float[N] q) { b = Relu(x)
                                            q = Neg(b) }>""",
    "a_branch_before_it": """z = If (c)
        <then_branch = t () => (float[N] p) { a = Relu(x)
                                            p = Exp(a) },
         else_branch = e () => (float[N] q) { q = Neg(x) }>
        b = Relu(x)
        y = Add(b, z)""",
    "branches": """
        i = If (c) <then_branch = t () => (float[N] p) { p = Relu(x) },
                    else_branch = e () => (float[N] q) { q = Neg(x) }>
        j = If (c) <then_branch = t () => (float[N] r) { r = Relu(x) },
                    else_branch = e () => (float[N] s) { s = Exp(x) }>
        y = Add(i, j)""",
    "identities_of_an_output": "a = Relu(x)\n y = Identity(a)\n z = Identity(a)",
    "sizes_that_may_differ": """k = Shape <start=0, end=1> (x)
        l = Shape <start=0, end=1> (u)
        m = Concat <axis=0> (k, l)
        e = ConstantOfShape(m)
        f = ReduceMax(e)
        g = Squeeze(f)
        y = Add(x, g)""",
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    outputs = "float[N] y, float[N] z" if "z = Identity" in NO_REWRITES[name] else "float[N] y"
    text = f"""g (bool c, float[N] x, float[M] u) => ({outputs}) <float[1] w = {{2.0}}>
               {{ {NO_REWRITES[name]} }}"""
    assert_unchanged(EliminateCommonSubexpressions(), text)


def test_what_an_unknown_operator_does_is_not_known() -> None:
    text = """g (float[N] x) => (float[N] y)
              { a = my.domain.Log(x)
                b = my.domain.Log(x)
                y = my.domain.Both(a, b) }"""
    model = load(text, domains=("my.domain",))
    assert not apply(model, EliminateCommonSubexpressions()).modified


def test_a_merged_node_is_not_merged_with() -> None:
    # The second Shape equals the first by its elements; the third equals the second by its
    # operator, and must not be given the value of a node that is gone.
    text = """g (float[N, 3] x, float[N, 8] h) => (int64[3] y)
              { a = Shape <start=0, end=1> (x)
                b = Shape <start=0, end=1> (h)
                c = Shape <start=0, end=1> (h)
                y = Concat <axis=0> (a, b, c) }"""
    model = load(text)
    assert apply(model, EliminateCommonSubexpressions()).modified
    assert [node.op_type for node in model.graph] == ["Shape", "Concat"]


def test_an_output_that_is_not_computed_is_no_output() -> None:
    model = load(
        """g (float[S, 1, 3] x, float[1, 8, 3] w, float[1, 8, 2] r)
           => (float[1, 1, 2] a, float[1, 1, 2] b, float[S, 1, 1, 2] c)
           { n, a = LSTM<hidden_size=2>(x, w, r)
             y, b = LSTM<hidden_size=2>(x, w, r)
             c = Neg(y) }"""
    )
    next(iter(model.graph)).outputs[0].name = ""

    assert not apply(model, EliminateCommonSubexpressions()).modified

"""Before -> after tests of EliminateDeadCode."""

import onnx_ir as ir
import pytest
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_rewrites, assert_unchanged, load

REWRITES = {
    "a_chain": (
        """g (float[N] x) => (float[N] y)
           { y = Relu(x)
             a = Exp(x)
             b = Neg(a) }""",
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
    ),
    "an_initializer": (
        "g (float[N] x) => (float[N] y) <float[1] w = {2.0}> { y = Relu(x) }",
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
    ),
    "a_node_and_its_weight": (
        """g (float[N] x) => (float[N] y) <float[1] w = {2.0}>
           { y = Relu(x)
             a = Mul(x, w) }""",
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
    ),
    "random_numbers_that_nobody_wants": (
        """g (float[N] x) => (float[N] y)
           { y = Relu(x)
             a = RandomNormalLike(x) }""",
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
    ),
    "inside_a_branch": (
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) <float[1] w = {2.0}>
                             { a = Mul(x, w)
                               p = Relu(x) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }""",
        """g (bool c, float[N] x) => (float[N] y)
           { y = If (c) <then_branch = t () => (float[N] p) { p = Relu(x) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }""",
    ),
    "what_only_a_dead_branch_used": (
        """g (bool c, float[N] x) => (float[N] y) <float[1] w = {2.0}>
           { a = Mul(x, w)
             z = If (c) <then_branch = t () => (float[N] p) { p = Relu(a) },
                         else_branch = e () => (float[N] q) { q = Exp(a) }>
             y = Relu(x) }""",
        "g (bool c, float[N] x) => (float[N] y) { y = Relu(x) }",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    assert_rewrites(EliminateDeadCode(), *REWRITES[name])


NO_REWRITES = {
    "second_output_in_use": """g (float[4] x) => (float[2] y)
           { a, b = Split <num_outputs=2> (x)
             y = Relu(b) }""",
    "an_initializer_that_is_an_input": """g (float[N] x, float[1] w) => (float[N] y)
           <float[1] w = {2.0}> { y = Relu(x) }""",
    "an_initializer_used_in_a_branch": """g (bool c, float[N] x) => (float[N] y)
           <float[1] w = {2.0}>
           { y = If (c) <then_branch = t () => (float[N] p) { p = Mul(x, w) },
                         else_branch = e () => (float[N] q) { q = Exp(x) }> }""",
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    assert_unchanged(EliminateDeadCode(), NO_REWRITES[name])


def test_an_initializer_that_is_an_output_is_kept() -> None:
    model = load("g (float[N] x) => (float[N] y) <float[1] w = {2.0}> { y = Relu(x) }")
    model.graph.outputs.append(model.graph.initializers["w"])
    assert not EliminateDeadCode().run(model, _context()).modified
    assert "w" in model.graph.initializers


def test_what_an_unknown_operator_does_is_not_known() -> None:
    text = """g (float[N] x) => (float[N] y)
              { y = Relu(x)
                a = my.domain.Log(x) }"""
    model = load(text, domains=("my.domain",))
    context = _context()
    assert not EliminateDeadCode().run(model, context).modified
    assert "side effects" in context.ledger.skips[0].reason


def test_a_model_local_function_has_no_side_effects() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
              g (float[N] x) => (float[N] y)
              { y = Relu(x)
                a = local.twice(x) }
              <domain: "local", opset_import: ["" : 21]>
              twice (x) => (y) { y = Add(x, x) }"""
    model = load(text)
    apply(model, EliminateDeadCode())
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_the_ledger_names_what_went() -> None:
    context = _context()
    model = load(REWRITES["a_node_and_its_weight"][0])
    EliminateDeadCode().run(model, context)
    first, second = context.ledger.applications
    assert [node.op_type for node in first.nodes_removed] == ["Mul"]
    assert [weight.name for weight in second.weights_removed] == ["w"]


def _context():
    from graphopt.passbase import Context

    return Context()


def test_a_wide_graph_takes_linear_time() -> None:
    count = 3000
    model = load("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    x = model.graph.inputs[0]
    model.graph.extend([ir.node("Exp", [x]) for _ in range(count)])
    EliminateDeadCode().run(model, _context())
    assert len(model.graph) == 1

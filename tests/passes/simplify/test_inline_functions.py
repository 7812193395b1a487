"""Before -> after tests of InlineFunctions."""

import onnx
import onnx_ir as ir
import pytest
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphopt.passes.simplify.inline_functions import InlineFunctions
from graphs import apply, check, random_feeds, run, text_of

from graphopt import pipeline
from graphopt.passbase import Context
from graphopt.rewrite import Fixpoint

PASS = Fixpoint((InlineFunctions(), EliminateDeadCode()))
HEADER = '<ir_version: 10, opset_import: ["" : 18, "own" : 1]>\n'
LEAKY = """<opset_import: ["" : 18], domain: "own">
           leaky <alpha> (a) => (c) { b = LeakyRelu <alpha: float = @alpha> (a)
                                      c = Exp(b) }"""
DEFAULT = """<opset_import: ["" : 18], domain: "own">
             leaky <alpha: float = 0.25> (a) => (c)
             { b = LeakyRelu <alpha: float = @alpha> (a)
               c = Exp(b) }"""
NESTED = """<opset_import: ["" : 18, "own" : 1], domain: "own">
            twice (a) => (c) { b = own.leaky <alpha = 0.5> (a)
                               c = own.leaky <alpha = 0.1> (b) }"""
BRANCH = """<opset_import: ["" : 18], domain: "own">
            either <alpha> (c, a) => (d)
            { b = Neg(a)
              d = If (c) <then_branch = t () => (p)
                              { k = Relu(b)
                                p = LeakyRelu <alpha: float = @alpha> (k) },
                          else_branch = e () => (q) { q = Exp(a) }> }"""
OPTIONAL = """<opset_import: ["" : 18], domain: "own">
              limit (a, low, high) => (c) { c = Clip(a, low, high) }"""
THROUGH = """<opset_import: ["" : 18], domain: "own">
             both (a) => (a, c) { c = Exp(a) }"""


def load(graph: str, *functions: str, header: str = HEADER) -> ir.Model:
    proto = onnx.parser.parse_model(header + graph + "\n" + "\n".join(functions))
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


REWRITES = {
    "an_attribute_is_passed": (
        ("g (float[N] x) => (float[N] y) { y = own.leaky <alpha = 0.1> (x) }", LEAKY),
        """g (float[N] x) => (float[N] y) { b_g1 = LeakyRelu <alpha = 0.1> (x)
                                            y = Exp(b_g1) }""",
    ),
    "an_attribute_that_is_left_out": (
        ("g (float[N] x) => (float[N] y) { y = own.leaky (x) }", LEAKY),
        """g (float[N] x) => (float[N] y) { b_g1 = LeakyRelu (x)
                                            y = Exp(b_g1) }""",
    ),
    "a_default": (
        ("g (float[N] x) => (float[N] y) { y = own.leaky (x) }", DEFAULT),
        """g (float[N] x) => (float[N] y) { b_g1 = LeakyRelu <alpha = 0.25> (x)
                                            y = Exp(b_g1) }""",
    ),
    "twice_and_nested": (
        ("g (float[N] x) => (float[N] y) { h = own.twice (x) y = own.leaky (h) }",
         LEAKY, NESTED),
        """g (float[N] x) => (float[N] y)
           { b_g3 = LeakyRelu <alpha = 0.5> (x)
             b_g1 = Exp(b_g3)
             b_g4 = LeakyRelu <alpha = 0.1> (b_g1)
             h = Exp(b_g4)
             b_g2 = LeakyRelu (h)
             y = Exp(b_g2) }""",
    ),
    "a_branch_uses_values_of_the_body": (
        ("g (bool s, float[N] x) => (float[N] y) { y = own.either <alpha = 0.1> (s, x) }",
         BRANCH),
        """g (bool s, float[N] x) => (float[N] y)
           { b_g1 = Neg(x)
             y = If (s) <then_branch = t () => (p_g1)
                             { k_g1 = Relu(b_g1)
                               p_g1 = LeakyRelu <alpha = 0.1> (k_g1) },
                         else_branch = e () => (q_g1) { q_g1 = Exp(x) }> }""",
    ),
    "an_input_that_is_left_out": (
        ("g (float[N] x, float m) => (float[N] y) { y = own.limit (x, , m) }", OPTIONAL),
        "g (float[N] x, float m) => (float[N] y) { y = Clip(x, , m) }",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(name: str) -> None:
    before, after = REWRITES[name]
    model, original = load(*before), load(*before)
    assert apply(model, PASS).modified
    expected = ir.from_proto(onnx.parser.parse_model(HEADER + after))
    assert text_of(model) == text_of(expected)
    check(model)
    feeds = random_feeds(original)
    for ours, theirs in zip(run(model, feeds), run(original, feeds), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert not apply(model, PASS).modified


KNOWN = LEAKY.replace('"own"', '"com.microsoft"')
OLDER = """<opset_import: ["" : 12], domain: "own">
           total (a) => (c) { c = ReduceSum <axes = [0]> (a) }"""
SAME_SINCE = """<opset_import: ["" : 16], domain: "own">
                leaky (a) => (c) { c = Exp(a) }"""


def unchanged(model: ir.Model) -> str:
    before, context = text_of(model), Context()
    assert not InlineFunctions().run(model, context).modified
    assert text_of(model) == before
    return context.ledger.skips[0].reason


def test_1_a_function_that_onnxruntime_may_know() -> None:
    header = HEADER.replace("own", "com.microsoft")
    graph = "g (float[N] x) => (float[N] y) { y = com.microsoft.leaky <alpha = 0.1> (x) }"
    assert "kernel" in unchanged(load(graph, KNOWN, header=header))


def test_2_an_operator_that_means_something_else() -> None:
    proto = onnx.parser.parse_model(
        HEADER + "g (float[2, 3] x) => (float[1, 3] y) { y = own.total (x) }\n" + OLDER
    )
    assert "ReduceSum of opset 12" in unchanged(ir.from_proto(proto))


def test_2_an_operator_that_means_the_same() -> None:
    proto = onnx.parser.parse_model(
        HEADER + "g (float[N] x) => (float[N] y) { y = own.leaky (x) }\n" + SAME_SINCE
    )
    model = ir.from_proto(proto)
    assert InlineFunctions().run(model, Context()).modified
    assert [node.op_type for node in model.graph] == ["Exp"]


def test_2_an_operator_set_that_the_model_does_not_import() -> None:
    function = LEAKY.replace('["" : 18]', '["" : 18, "com.microsoft" : 1]').replace(
        "Exp(b)", "com.microsoft.Gelu(b)"
    )
    graph = "g (float[N] x) => (float[N] y) { y = own.leaky <alpha = 0.1> (x) }"
    model = ir.from_proto(onnx.parser.parse_model(HEADER + graph + function))
    assert InlineFunctions().run(model, Context()).modified
    assert model.opset_imports["com.microsoft"] == 1


def test_3_a_function_that_calls_itself() -> None:
    function = """<opset_import: ["" : 18, "own" : 1], domain: "own">
                  loop (a) => (c) { b = Exp(a)
                                    c = own.loop (b) }"""
    proto = onnx.parser.parse_model(
        HEADER + "g (float[N] x) => (float[N] y) { y = own.loop (x) }\n" + function
    )
    assert "calls itself" in unchanged(ir.from_proto(proto))


def test_an_output_that_is_an_input() -> None:
    # onnxruntime 1.31 refuses such a function; the standard does not.
    graph = "g (float[N] x) => (float[N] y) { a, c = own.both (x) y = Add(a, c) }"
    model = load(graph, THROUGH)
    assert apply(model, PASS).modified
    check(model)
    assert [[v.name for v in node.inputs] for node in model.graph] == [["x"], ["x", "c"]]


def test_4_an_output_that_is_an_input_that_is_left_out() -> None:
    function = THROUGH.replace("(a) => (a, c)", "(a, m) => (m, c)")
    proto = onnx.parser.parse_model(
        HEADER + "g (float[N] x) => (float[N] y) { m, y = own.both (x) }\n" + function
    )
    assert "not computed" in unchanged(ir.from_proto(proto))


def test_names_in_two_copies_of_a_branch_differ() -> None:
    graph = """g (bool s, float[N] x) => (float[N] y)
               { h = own.either <alpha = 0.1> (s, x)
                 y = own.either <alpha = 0.2> (s, h) }"""
    model, original = load(graph, BRANCH), load(graph, BRANCH)
    apply(model, PASS)
    check(model)
    names = [v.name for node in model.graph.all_nodes() for v in node.outputs]
    assert len(names) == len(set(names))
    feeds = random_feeds(original)
    assert run(model, feeds)[0].tobytes() == run(original, feeds)[0].tobytes()


def test_what_a_guard_objects_to_is_undone() -> None:
    model = load("g (float[N] x) => (float[N] y) { y = own.leaky <alpha = 0.1> (x) }", LEAKY)
    before = text_of(model)
    context = Context(guards=[lambda model, entry: "no"])
    assert not PASS.run(model, context).modified
    assert text_of(model) == before


def test_a_function_that_nothing_calls_goes() -> None:
    model = load("g (float[N] x) => (float[N] y) { y = Exp(x) }", LEAKY, NESTED)
    assert apply(model, EliminateDeadCode()).modified
    assert not model.functions
    assert not apply(model, EliminateDeadCode()).modified


def test_a_function_that_a_function_calls_stays() -> None:
    model = load("g (float[N] x) => (float[N] y) { y = own.twice (x) }", LEAKY, NESTED)
    assert not apply(model, EliminateDeadCode()).modified


def test_the_presets_inline_first() -> None:
    model = load("g (float[N] x) => (float[N] y) { y = own.twice (x) }", LEAKY, NESTED)
    for pass_ in pipeline.parse("simplify"):
        pass_.run(model, Context())
    assert [node.op_type for node in model.graph] == ["LeakyRelu", "Exp", "LeakyRelu", "Exp"]
    assert not model.functions

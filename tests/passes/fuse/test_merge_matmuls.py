"""Before -> after tests of MergeMatMuls."""

import pytest
from graphopt.passes.fuse.merge_matmuls import MergeMatMuls
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_rewrites, assert_same_answers, assert_unchanged, load

from graphopt.rewrite import Fixpoint

RTOL = 1e-6
PASS = Fixpoint((MergeMatMuls(), EliminateDeadCode()))
HEAD = "g (float[N, M, 2] x) => (float[N, M, 3] q, float[N, M, 2] k)"
WQ = "float[2, 3] wq = {1, 2, 3, 4, 5, 6}"
WK = "float[2, 2] wk = {7, 8, 9, 10}"
W = "float[2, 5] weights = {1, 2, 3, 7, 8, 4, 5, 6, 9, 10}"
BQ = "float[3] bq = {0.5, -1, 2}"
BK = "float[1, 2] bk = {3, -4}"
SIZES = "int64[2] split = {3, 2}"
X, Y = "x_products", "x_products_g1"
MERGED_WITH_BIAS = f"""{X} = MatMul(x, weights) {Y} = Add({X}, biases)
    q, k = Split <axis = 2> ({Y}, split)"""
BOTH = "q = MatMul(x, wq) k = MatMul(x, wk)"


def graph(body: str, weights: str, head: str = HEAD) -> str:
    return f"{head} <{weights}> {{ {body} }}"


FORMS = {
    "plain": (
        graph(BOTH, f"{WQ}, {WK}"),
        graph(
            f"{X} = MatMul(x, weights) q, k = Split <axis = 2> ({X}, split)",
            f"{W}, {SIZES}",
        ),
    ),
    "biases": (
        graph(
            "q0 = MatMul(x, wq) q = Add(q0, bq) k0 = MatMul(x, wk) k = Add(bk, k0)",
            f"{WQ}, {WK}, {BQ}, {BK}",
        ),
        graph(
            MERGED_WITH_BIAS,
            f"{W}, float[5] biases = {{0.5, -1, 2, 3, -4}}, {SIZES}",
        ),
    ),
    "one_bias": (
        graph("q0 = MatMul(x, wq) q = Add(q0, bq) k = MatMul(x, wk)", f"{WQ}, {WK}, {BQ}"),
        graph(
            MERGED_WITH_BIAS,
            f"{W}, float[5] biases = {{0.5, -1, 2, 0, 0}}, {SIZES}",
        ),
    ),
    "an_add_that_is_no_bias_stays": (
        graph("q = MatMul(x, wq) k0 = MatMul(x, wk) k = Add(k0, x)", f"{WQ}, {WK}"),
        graph(
            f"{X} = MatMul(x, weights) q, k0 = Split <axis = 2> ({X}, split) k = Add(k0, x)",
            f"{W}, {SIZES}",
        ),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    before, after = FORMS[name]
    assert_rewrites(PASS, before, after, rtol=RTOL)


def test_sizes_were_an_attribute() -> None:
    after = graph(f"{X} = MatMul(x, weights) q, k = Split <axis = 2, split = [3, 2]> ({X})", W)
    assert_rewrites(PASS, graph(BOTH, f"{WQ}, {WK}"), after, opset=12, rtol=RTOL)


def test_gemm() -> None:
    head = "g (float[N, 2] x) => (float[N, 3] q, float[N, 2] k)"
    wq, wk = "float[3, 2] wq = {1, 4, 2, 5, 3, 6}", "float[2, 2] wk = {7, 9, 8, 10}"
    w = "float[5, 2] weights = {1, 4, 2, 5, 3, 6, 7, 9, 8, 10}"
    gemm = "Gemm <transB = 1, alpha = 0.5, beta = 2.0>"
    assert_rewrites(
        PASS,
        graph(f"q = {gemm} (x, wq, bq) k = {gemm} (x, wk)", f"{wq}, {wk}, {BQ}", head),
        graph(
            f"{X} = {gemm} (x, weights, biases) q, k = Split <axis = 1> ({X}, split)",
            f"{w}, float[5] biases = {{0.5, -1, 2, 0, 0}}, {SIZES}",
            head,
        ),
        rtol=RTOL,
    )


def test_of_what_is_computed_and_in_between_others() -> None:
    before = graph(
        "y = Relu(x) q = MatMul(y, wq) r = Exp(q) k = MatMul(y, wk)",
        f"{WQ}, {WK}",
        HEAD.replace("] q", "] r"),
    )
    after = graph(
        """y = Relu(x) y_products = MatMul(y, weights)
           q, k = Split <axis = 2> (y_products, split) r = Exp(q)""",
        f"{W}, {SIZES}",
        HEAD.replace("] q", "] r"),
    )
    assert_rewrites(PASS, before, after, rtol=RTOL)


def test_in_a_subgraph_of_what_is_outside() -> None:
    def whole(body: str, weights: str) -> str:
        inner = f"""z = If (c) <then_branch = t () => (float[N, M, 2] v) {{ {body} }},
            else_branch = f () => (float[N, M, 2] u) {{ u = Relu(x) }}>"""
        head = "g (float[N, M, 2] x, bool c) => (float[N, M, 2] z)"
        return graph(inner, weights, head)

    wq = WQ.replace("2, 3", "2, 2").replace(", 5, 6", "")
    # Where both are still to come is at the front of the branch.
    model = load(whole("e = Relu(x) q = MatMul(x, wq) k = MatMul(x, wk) v0 = Mul(q, k)"
                       " v = Mul(v0, e)", f"{wq}, {WK}"))  # fmt: skip
    original = model.clone()
    assert apply(model, PASS).modified
    (choice,) = model.graph
    branch = [node.op_type for node in choice.attributes["then_branch"].as_graph()]
    assert branch == ["MatMul", "Split", "Relu", "Mul", "Mul"]
    assert_same_answers(model, original, RTOL)


REFUSED = {
    "one_alone": (graph("q = MatMul(x, wq) k = Relu(x)", WQ), None),
    "of_another_tensor": (
        graph("y = Relu(x) q = MatMul(x, wq) k = MatMul(y, wk)", f"{WQ}, {WK}"),
        None,
    ),
    "a_weight_that_is_fed": (
        graph(BOTH, WQ, HEAD.replace("x)", "x, float[2, 2] wk)")),
        "no other product",
    ),
    "a_weight_of_two": (
        graph(
            f"{BOTH} r = Relu(wk)", f"{WQ}, {WK}", HEAD.replace("] k)", "] k, float[2, 2] r)")
        ),
        "another use",
    ),
    "a_weight_that_is_an_output": (
        graph(BOTH, f"{WQ}, {WK}", f"{HEAD[:-1]}, float[2, 2] wk)"),
        "another use",
    ),
    "weights_of_a_batch": (
        graph(
            BOTH,
            f"{WQ}, float[1, 2, 2] wk = {{7, 8, 9, 10}}",
        ),
        "no matrix",
    ),
    "a_product_from_the_left": (
        graph(
            "q = MatMul(x, wq) k = MatMul(wk, x)",
            f"{WQ}, {WK}",
            "g (float[2, 2] x) => (float[2, 3] q, float[2, 2] k)",
        ),
        "no other product",
    ),
    "other_attributes": (
        graph(
            "q = Gemm(x, wq) k = Gemm <alpha = 2.0> (x, wk)",
            f"{WQ}, {WK}",
            "g (float[N, 2] x) => (float[N, 3] q, float[N, 2] k)",
        ),
        "no other product",
    ),
    "another_operator": (
        graph(
            "q = Gemm(x, wq) k = MatMul(x, wk)",
            f"{WQ}, {WK}",
            "g (float[N, 2] x) => (float[N, 3] q, float[N, 2] k)",
        ),
        "no other product",
    ),
    "a_bias_a_row_of_a_gemm": (
        graph(
            "q = Gemm(x, wq, b) k = Gemm(x, wk)",
            f"{WQ}, {WK}, float[2, 1] b = {{1, 2}}",
            "g (float[2, 2] x) => (float[2, 3] q, float[2, 2] k)",
        ),
        "one number a column",
    ),
    "a_vector": (
        graph(BOTH, f"{WQ}, {WK}", "g (float[2] x) => (float[3] q, float[2] k)"),
        "rank",
    ),
    "integers": (
        graph(BOTH, f"{WQ}, {WK}").replace("float", "int32"),
        "not of floats",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaves_unchanged(name: str) -> None:
    text, reason = REFUSED[name]
    assert_unchanged(MergeMatMuls(), text, reason=reason)

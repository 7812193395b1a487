"""FuseAttention with the projections of queries, keys and values inside."""

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, load, random_feeds, run, text_of

from graphopt.passbase import Context, Target
from graphopt.rewrite import Fixpoint

RTOL = 1e-5
PASS = Fixpoint((FuseAttention(Target.ONNXRUNTIME, projections=True), EliminateDeadCode()))


def weight(name: str, columns: int = 4, seed: int = 1, rows: int = 4) -> str:
    numbers = ", ".join(str((i * 7 + seed) % 11 / 4 - 1) for i in range(rows * columns))
    return f"float[{rows}, {columns}] {name} = {{{numbers}}}"


WEIGHTS = {name: weight(name, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))}
CONSTANTS = f"""{", ".join(WEIGHTS.values())}, float[4] bq = {{0.5, -1, 2, 0}},
    float[4] bv = {{1, 0, -0.5, 3}}, int64[4] heads = {{0, 0, 2, 2}}, float f = {{0.7}},
    int64[3] merged = {{0, 0, 4}}, float zero = {{0}}, float infinite = {{-inf}},
    float lowest = {{-3.4028234663852886e+38}}"""
PROJECTED = """q0 = MatMul(x, wq) q1 = Add(q0, bq) k1 = MatMul(x, wk)
    v0 = MatMul(x, wv) v1 = Add(bv, v0)"""
HEADS = """q3 = Reshape(q1, heads) q = Transpose <perm = [0, 2, 1, 3]> (q3)
    k3 = Reshape(k1, heads) kt = Transpose <perm = [0, 2, 3, 1]> (k3)
    v3 = Reshape(v1, heads) v = Transpose <perm = [0, 2, 1, 3]> (v3)
    d = MatMul(q, kt) s = Mul(d, f)"""
REST = """o = MatMul(p, v) t = Transpose <perm = [0, 2, 1, 3]> (o) z = Reshape(t, merged)"""
PLAIN = "p = Softmax <axis = -1> (s)"
MASKED = "w = Where(m, zero, lowest) a = Add(s, w) p = Softmax <axis = -1> (a)"
ATTENTION = "Attention <num_heads = 2, scale = 0.7, qkv_hidden_sizes = [4, 4, 4]>"


def graph(
    projected: str = PROJECTED,
    softmax: str = PLAIN,
    inputs: str = "",
    outputs: str = "",
    constants: str = CONSTANTS,
) -> str:
    more = f", {inputs}" if inputs else ""
    return f"""g (float[B, S, 4] x{more}) => (float[B, S, 4] z{outputs}) <{constants}>
        {{ {projected} {HEADS} {softmax} {REST} }}"""


def fuse(text: str, opset: int = 23) -> tuple[ir.Model, list[str]]:
    """Return the model and its operators, after holding its answers to the original's."""
    model, original = load(text, opset), load(text, opset)
    apply(model, PASS)
    assert not apply(model, PASS).modified
    feeds = random_feeds(original)
    if "m" in feeds:
        feeds["m"][..., :1, :] = False  # a query that sees no key
    for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=RTOL * np.nanmax(np.abs(other)))
    prefix = {"": "", "com.microsoft": "ms."}
    return model, [prefix[node.domain] + node.op_type for node in model.graph]


def test_three_products() -> None:
    model, _ = fuse(graph())
    weights = [np.array(_numbers(WEIGHTS[name]), np.float32) for name in WEIGHTS]
    packed = np.concatenate([one.reshape(4, 4) for one in weights], axis=1).reshape(-1)
    numbers = ", ".join(map(str, packed.tolist()))
    after = f"""g (float[B, S, 4] x) => (float[B, S, 4] z)
        <float[4, 12] weights = {{{numbers}}},
         float[12] biases = {{0.5, -1, 2, 0, 0, 0, 0, 0, 1, 0, -0.5, 3}}>
        {{ z = com.microsoft.{ATTENTION} (x, weights, biases) }}"""
    assert text_of(model) == text_of(load(after, 23, ("com.microsoft",)))


def _numbers(text: str) -> list[float]:
    return [float(one) for one in text.partition("{")[2].rstrip("}").split(",")]


@pytest.mark.parametrize("opset", [13, 23])
def test_mask(opset: int) -> None:
    _, operators = fuse(graph(softmax=MASKED, inputs="bool[B, 1, S, S] m"), opset)
    assert operators == ["Where", "ms.Attention"]


def test_values_of_another_width() -> None:
    constants = CONSTANTS.replace(WEIGHTS["wv"], weight("wv", 6, 2))
    constants = constants.replace(
        "float[4] bv = {1, 0, -0.5, 3}", "float[6] bv = {1,0,2,3,4,5}"
    )
    constants = constants.replace("merged = {0, 0, 4}", "merged = {0, 0, 6}")
    text = graph(constants=f"{constants}, int64[4] wide = {{0, 0, 2, 3}}")
    text = text.replace("Reshape(v1, heads)", "Reshape(v1, wide)")
    model, operators = fuse(text.replace("float[B, S, 4] z", "float[B, S, 6] z"))
    assert operators == ["ms.Attention"]
    (node,) = model.graph
    assert list(node.attributes["qkv_hidden_sizes"].value) == [4, 4, 6]


PACKED = "y0 = MatMul(x, w) y = Add(y0, b) q1, k1, v1 = Split <axis = 2> (y, thirds)"
PACKED_CONSTANTS = f"""{CONSTANTS}, {weight("w", 12)}, int64[3] thirds = {{4, 4, 4}},
    float[12] b = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}"""


def test_one_weight_for_all_three_is_taken_as_it_is() -> None:
    model, operators = fuse(graph(PACKED, constants=PACKED_CONSTANTS))
    assert operators == ["ms.Attention"]
    (node,) = model.graph
    assert node.inputs[1] is not None
    assert node.inputs[1].name == "w"


WITHOUT = {
    "a_weight_that_another_uses": (
        graph(outputs=", float[4, 4] r").replace(PLAIN, f"{PLAIN} r = Relu(wk)"),
        [
            "MatMul",
            "Add",
            "MatMul",
            "MatMul",
            "Add",
            "Relu",
            "ms.MultiHeadAttention",
        ],
    ),
    "keys_that_another_uses": (
        graph(outputs=", float[B, S, 2, 2] k3"),
        [
            "MatMul",
            "Add",
            "MatMul",
            "MatMul",
            "Add",
            "Reshape",
            "ms.MultiHeadAttention",
        ],
    ),
    "keys_of_another_tensor": (
        graph(PROJECTED.replace("MatMul(x, wk)", "MatMul(y, wk)"), inputs="float[B, S, 4] y"),
        ["MatMul", "Add", "MatMul", "MatMul", "Add", "ms.MultiHeadAttention"],
    ),
    "a_bias_that_is_fed": (
        graph(
            PROJECTED.replace("k1 = MatMul(x, wk)", "k0 = MatMul(x, wk) k1 = Add(k0, bk)"),
            inputs="float[4] bk",
        ),
        ["MatMul", "Add", "MatMul", "Add", "MatMul", "Add", "ms.MultiHeadAttention"],
    ),
    "values_before_keys_in_one_weight": (
        graph(PACKED.replace("q1, k1, v1", "q1, v1, k1"), constants=PACKED_CONSTANTS),
        ["MatMul", "Add", "Split", "ms.MultiHeadAttention"],
    ),
    "keys_that_are_the_values": (
        graph().replace("Reshape(v1,", "Reshape(k1,"),
        ["MatMul", "Add", "MatMul", "ms.MultiHeadAttention"],
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_projections_stay_outside(name: str) -> None:
    text, expected = WITHOUT[name]
    _, operators = fuse(text)
    assert operators == expected


def test_rows_without_a_key_that_get_0_need_the_other_operator() -> None:
    lines = """a = Where(m, s, infinite) r = Softmax <axis = -1> (a)
        n = IsNaN(r) p = Where(n, zero, r)"""
    _, operators = fuse(graph(softmax=lines, inputs="bool[B, 1, S, S] m"))
    assert operators[-1] == "Attention"


def test_standard_operators_take_no_projections() -> None:
    model = load(graph(), 23)
    apply(model, Fixpoint((FuseAttention(projections=True), EliminateDeadCode())), Context())
    assert [node.op_type for node in model.graph][-1] == "Attention"
    assert "com.microsoft" not in model.opset_imports

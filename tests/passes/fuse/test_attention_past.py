"""FuseAttention with keys and values from before."""

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, load, random_feeds, run, text_of

from graphopt.passbase import Target
from graphopt.rewrite import Fixpoint

RTOL = 1e-5
STANDARD = Fixpoint((FuseAttention(), EliminateDeadCode()))
CONTRIB = Fixpoint((FuseAttention(emit=Target.ONNXRUNTIME), EliminateDeadCode()))
INPUTS = """float[B, S, 8] x, float[B, S, 8] y, float[B, S, 8] w, float[B, 4, P, 2] pk,
    float[B, 4, P, 2] pv"""
OUTPUTS = "float[B, S, 8] z, float[B, 4, T, 2] k, float[B, 4, T, 2] v"
CONSTANTS = """int64[4] heads = {0, 0, 4, 2}, int64[3] merged = {0, 0, 8}, float f = {0.7},
    int64[4] shared = {0, 0, 2, 2}, int64[1] third = {2}, int64[5] twice = {1, 1, 2, 1, 1},
    int64[4] flat = {0, 4, -1, 2}, float zero = {0}, float some = {-10000}"""
KEYS = """k3 = Reshape(y, heads) k4 = Transpose <perm = [0, 2, 1, 3]> (k3)
    k = Concat <axis = 2> (pk, k4) kt = Transpose <perm = [0, 1, 3, 2]> (k)"""
VALUES = """v3 = Reshape(w, heads) v4 = Transpose <perm = [0, 2, 1, 3]> (v3)
    v = Concat <axis = -2> (pv, v4)"""
SCORES = """q3 = Reshape(x, heads) q = Transpose <perm = [0, 2, 1, 3]> (q3)
    d = MatMul(q, kt) s = Mul(d, f)"""
PLAIN = "p = Softmax <axis = -1> (s)"
REST = "o = MatMul(p, v) t = Transpose <perm = [0, 2, 1, 3]> (o) z = Reshape(t, merged)"
ATTENTION = "Attention <q_num_heads = 4, kv_num_heads = 4, scale = 0.7>"
MULTI_HEAD = "com.microsoft.MultiHeadAttention <num_heads = 4, scale = 0.7>"


def graph(body: str, inputs: str = INPUTS, outputs: str = OUTPUTS) -> str:
    return f"g ({inputs}) => ({outputs}) <{CONSTANTS}> {{ {body} }}"


WHOLE = f"{KEYS} {VALUES} {SCORES} {PLAIN} {REST}"


def fuse(text: str, pass_: Fixpoint = STANDARD, opset: int = 23) -> ir.Model:
    """Return the model, after holding its answers to the original's."""
    model, original = load(text, opset), load(text, opset)
    apply(model, pass_)
    assert not apply(model, pass_).modified
    feeds = random_feeds(original)
    for earlier in (3, 0):
        feeds |= {name: feeds[name][:, :, :earlier] for name in ("pk", "pv")}
        if "m" in feeds:
            feeds["m"] = feeds["m"][..., : earlier + 4]
        for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=RTOL * np.abs(other).max())
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("pass_", "opset", "call"),
    [
        (STANDARD, 23, f"z, k, v = {ATTENTION} (x, y, w, , pk, pv)"),
        (CONTRIB, 17, f"z, k, v = {MULTI_HEAD} (x, y, w, , , , pk, pv)"),
    ],
    ids=["standard", "contributed"],
)
def test_whole(pass_: Fixpoint, opset: int, call: str) -> None:
    model = fuse(graph(WHOLE), pass_, opset)
    domains = ("com.microsoft",) if "microsoft" in call else ()
    after = load(f"g ({INPUTS}) => ({OUTPUTS}) {{ {call} }}", opset, domains)
    assert text_of(model) == text_of(after)


def test_nothing_asks_for_keys_and_values() -> None:
    model = fuse(graph(WHOLE, outputs="float[B, S, 8] z"))
    assert operators(model) == ["Attention"]


def test_a_mask_of_all_keys() -> None:
    body = f"""{KEYS} {VALUES} {SCORES} i = Where(m, zero, some) a = Add(s, i)
        p = Softmax <axis = -1> (a) {REST}"""
    inputs = INPUTS.replace("P, 2", "3, 2") + ", bool[B, 1, S, M] m"
    model = load(graph(body, inputs.replace("S,", "4,").replace(", M]", ", 7]")), 23)
    apply(model, STANDARD)
    assert operators(model) == ["Where", "Attention"]
    assert model.graph[1].inputs[4] is model.graph.inputs[3]


def test_heads_that_share_keys() -> None:
    inputs = INPUTS.replace("S, 8] y", "S, 4] y").replace("S, 8] w", "S, 4] w")
    inputs = inputs.replace("float[B, 4,", "float[B, 2,")
    repeated = """{0}5 = Unsqueeze({0}, third) {0}6 = Expand({0}5, twice)
        {0}7 = Reshape({0}6, flat)"""
    body = WHOLE.replace("y, heads", "y, shared").replace("w, heads", "w, shared")
    body = body.replace(
        "kt = Transpose <perm = [0, 1, 3, 2]> (k)",
        f"{repeated.format('k')} kt = Transpose <perm = [0, 1, 3, 2]> (k7)",
    )
    body = body.replace("o = MatMul(p, v)", f"{repeated.format('v')} o = MatMul(p, v7)")
    model = fuse(graph(body, inputs, OUTPUTS.replace("B, 4, T", "B, 2, T")))
    assert operators(model) == ["Attention"]


def test_keys_that_another_uses_stay_joined() -> None:
    text = graph(f"{WHOLE} e = Exp(k)", outputs=f"{OUTPUTS}, float[B, 4, T, 2] e")
    left = operators(fuse(text))
    assert left.count("Concat") == 2
    assert left.count("Attention") == 1


def test_new_keys_that_are_scaled_alone_are_not_scaled_with_all() -> None:
    body = WHOLE.replace("k4 = Transpose", "k5 = Transpose")
    model = fuse(graph(body.replace("k = Concat", "k4 = Mul(k5, f) k = Concat")))
    assert {"Mul", "Attention"} <= set(operators(model))


def test_values_without_a_past_leave_keys_joined() -> None:
    body = WHOLE.replace("v = Concat <axis = -2> (pv, v4)", "v = Identity(pv)")
    text = graph(body, INPUTS.replace("float[B, 4, P, 2] pv", "float[B, 4, T, 2] pv"))
    model = load(text, 23)
    apply(model, STANDARD)
    assert operators(model).count("Concat") == 1


def test_a_mask_that_is_broadcast_along_keys() -> None:
    body = f"{KEYS} {VALUES} {SCORES} a = Add(s, m1) p = Softmax <axis = -1> (a) {REST}"
    body = body.replace("a = Add(s, m1)", "m1 = Where(b, zero, some) a = Add(s, m1)")
    model = load(graph(body, f"{INPUTS}, bool[B, 1, S, 1] b"), 23)
    apply(model, STANDARD)
    assert operators(model).count("Concat") >= 2


def test_tensors_joined_along_heads() -> None:
    # Heads of before and new ones beside each other are no more keys.
    inputs = INPUTS.replace("4, P, 2", "4, S, 2")
    body = WHOLE.replace("axis = 2", "axis = 1").replace("axis = -2", "axis = 1")
    body = body.replace("q = T", "q0 = T").replace(
        "d = M", "q = Concat <axis = 1> (q0, q0) d = M"
    )
    body = body.replace(" z = Reshape(t, merged)", " z = Identity(t)")
    outputs = "float[B, S, 8, 2] z, float[B, 8, S, 2] k, float[B, 8, S, 2] v"
    model = load(graph(body, inputs, outputs), 23)
    apply(model, STANDARD)
    assert all(len(n.inputs) < 5 for n in model.graph if n.op_type == "Attention")


def held(text: str, pass_: Fixpoint, opset: int, second: str = "") -> list[str]:
    """Return the operators, after holding the answers to the original's, of 3 keys before.

    Args:
        text: The graph.
        pass_: The pass.
        opset: The opset.
        second: An input as long as the earlier keys, along its third dimension.
    """
    model, original = load(text, opset), load(text, opset)
    apply(model, pass_)
    feeds = random_feeds(original)
    for name in {"pk", "pv", second} & set(feeds):
        feeds[name] = feeds[name][:, :, :3]
    for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=RTOL * np.abs(other).max())
    return operators(model)


@pytest.mark.parametrize(
    ("pass_", "opset"), [(STANDARD, 23), (CONTRIB, 17)], ids=["standard", "contributed"]
)
@pytest.mark.parametrize("keys", ["joined", "not_joined"])
def test_queries_joined_with_earlier_ones_stay_joined(
    pass_: Fixpoint, opset: int, keys: str
) -> None:
    body = WHOLE.replace("q = T", "q4 = T")
    body = body.replace("d = M", "q = Concat <axis = 2> (pq, q4) d = M")
    if keys == "not_joined":
        body = body.replace("k = Concat <axis = 2> (pk, k4)", "k = Identity(k4)")
        body = body.replace("v = Concat <axis = -2> (pv, v4)", "v = Identity(v4)")
    outputs = OUTPUTS.replace("S, 8] z", "U, 8] z")
    assert "Concat" in held(
        graph(body, f"{INPUTS}, float[B, 4, P, 2] pq", outputs), pass_, opset, "pq"
    )


def test_keys_and_values_of_different_pasts_stay_joined() -> None:
    # As many in all, but more of the keys than of the values come first.
    body = WHOLE.replace("(pv, v4)", "(v4, pv)")
    assert held(graph(body), STANDARD, 23).count("Concat") == 2


@pytest.mark.parametrize(
    ("pass_", "opset"), [(STANDARD, 23), (CONTRIB, 17)], ids=["standard", "contributed"]
)
@pytest.mark.parametrize("made", ["queries", "mask"])
def test_what_is_made_of_all_keys_is_not_made_of_the_result(
    made: str, pass_: Fixpoint, opset: int
) -> None:
    if made == "queries":
        body = WHOLE.replace("q = T", "q4 = T")
        body = body.replace("d = M", "n = ReduceMax <keepdims = 0> (k) q = Mul(q4, n) d = M")
    else:
        mask = """c1 = Slice(k, at0, at1, at3) c = Transpose <perm = [0, 1, 3, 2]> (c1)
            r = Slice(q, at0, at1, at3) m = Less(r, c) i = Where(m, zero, some)
            a = Add(s, i) p = Softmax <axis = -1> (a)"""
        body = f"{KEYS} {VALUES} {SCORES} {mask} {REST}"
    text = graph(body).replace(
        "float zero", "int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] at3 = {3}, float zero"
    )
    assert held(text, pass_, opset).count("Concat") == 2


def test_values_of_another_width_than_keys() -> None:
    body = WHOLE.replace("w, heads", "w, wide").replace("t, merged", "t, broad")
    inputs = INPUTS.replace("S, 8] w", "S, 12] w").replace("P, 2] pv", "P, 3] pv")
    outputs = OUTPUTS.replace("S, 8] z", "S, 12] z").replace("T, 2] v", "T, 3] v")
    text = graph(body, inputs, outputs).replace(
        "float zero", "int64[4] wide = {0, 0, 4, 3}, int64[3] broad = {0, 0, 12}, float zero"
    )
    assert held(text, STANDARD, 23) == ["Attention"]
    # MultiHeadAttention has one width for both pasts.
    assert held(text, CONTRIB, 17).count("Concat") == 2

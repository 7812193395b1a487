"""Before -> after tests of FuseConvBatchNorm."""

import numpy as np
import pytest
from graphopt.passes.fuse.fuse_conv_batchnorm import FuseConvBatchNorm
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, assert_same_answers, assert_unchanged, load

from graphopt.passbase import Context
from graphopt.rewrite import Fixpoint

RTOL = 1e-5
PASS = Fixpoint((FuseConvBatchNorm(), EliminateDeadCode()))


def numbers(count: int, seed: int, low: float = -1.0) -> str:
    values = np.random.default_rng(seed).uniform(low, 1.0, count)
    return "{" + ", ".join(f"{value:.4f}" for value in values) + "}"


def norm(channels: int) -> str:
    """Return the initializers of a normalization: s, b, m and a positive v."""
    parts = [
        f"float[{channels}] {name} = {numbers(channels, i)}" for i, name in enumerate("sbm")
    ]
    return ", ".join([*parts, f"float[{channels}] v = {numbers(channels, 9, 0.1)}"])


LAYERS = {
    "conv": ("float[N, 2, 6, 5] x", "y = Conv(x, w, c)", "4, 2, 3, 3", 4),
    "conv_without_bias": ("float[N, 2, 6, 5] x", "y = Conv(x, w)", "4, 2, 3, 3", 4),
    "grouped": (
        "float[N, 4, 6, 5] x",
        "y = Conv <group=2, strides=[2, 1], pads=[1, 0, 1, 0]> (x, w, c)",
        "4, 2, 3, 3",
        4,
    ),
    "depthwise": ("float[N, 4, 6, 5] x", "y = Conv <group=4> (x, w, c)", "4, 1, 3, 3", 4),
    "one_dimensional": ("float[N, 2, 6] x", "y = Conv(x, w, c)", "4, 2, 3", 4),
    "transposed": ("float[N, 2, 6, 5] x", "y = ConvTranspose(x, w, c)", "2, 4, 3, 3", 4),
    "transposed_in_groups": (
        "float[N, 4, 6, 5] x",
        "y = ConvTranspose <group=2> (x, w)",
        "4, 3, 3, 3",
        6,
    ),
    "gemm": ("float[N, 3] x", "y = Gemm(x, w, c)", "3, 4", 4),
    "gemm_transposed": (
        "float[N, 3] x",
        "y = Gemm <transB=1, alpha=0.5, beta=2.0> (x, w, c)",
        "4, 3",
        4,
    ),
    "gemm_without_bias": ("float[N, 3] x", "y = Gemm <beta=0.5> (x, w)", "3, 4", 4),
}


def graph(name: str, norm_attributes: str = "") -> str:
    x, call, shape, channels = LAYERS[name]
    size = int(np.prod([int(part) for part in shape.split(",")]))
    rank = 2 if "emm" in name else x.count(",") + 1
    out = ", ".join(["N", str(channels), *"PQR"[: rank - 2]])
    return f"""g ({x}) => (float[{out}] z)
        <float[{shape}] w = {numbers(size, 5)}, float[{channels}] c = {numbers(channels, 6)},
         {norm(channels)}>
        {{ {call}
           z = BatchNormalization {norm_attributes} (y, s, b, m, v) }}"""


@pytest.mark.parametrize("attributes", ["", "<epsilon=0.1>"])
@pytest.mark.parametrize("name", LAYERS)
def test_rewrites(name: str, attributes: str) -> None:
    model, original = load(graph(name, attributes)), load(graph(name, attributes))
    assert apply(model, PASS).modified
    (layer,) = model.graph
    assert (layer.op_type, len(layer.inputs)) == (original.graph[0].op_type, 3)
    kept = {key: value.value for key, value in original.graph[0].attributes.items()}
    if "without" in name:
        kept.pop("beta", None)
    assert {key: value.value for key, value in layer.attributes.items()} == kept
    assert set(model.graph.initializers) == {value.name for value in layer.inputs[1:]}
    assert not apply(model, PASS).modified
    assert_same_answers(model, original, RTOL)


def test_double_precision() -> None:
    text = graph("gemm").replace("float[", "double[")
    model, original = load(text), load(text)
    assert apply(model, PASS).modified
    assert_same_answers(model, original, 1e-12)


CONV = graph("conv")
NO_REWRITES = {
    "training_mode": (
        CONV.replace(
            "z = BatchNormalization", "z, p, q = BatchNormalization <training_mode=1>"
        ),
        "training mode",
    ),
    "layer_with_another_use": (
        CONV.replace("{ y =", "{ y =")
        .replace("z = Batch", "k = Relu(y)\n z0 = Batch")
        .replace("(y, s, b, m, v)", "(y, s, b, m, v)\n z = Add(z0, k)"),
        "another use",
    ),
    "weight_with_another_use": (
        CONV.replace("z = Batch", "k = ReduceMax(w)\n z0 = Batch").replace(
            "(y, s, b, m, v)", "(y, s, b, m, v)\n z = Add(z0, k)"
        ),
        "another node uses the weight",
    ),
    "fed_weight": (
        CONV.replace("(float[N, 2, 6, 5] x", "(float[N, 2, 6, 5] x, float[4, 2, 3, 3] w"),
        "not constant",
    ),
    "fed_bias": (
        CONV.replace("(float[N, 2, 6, 5] x", "(float[N, 2, 6, 5] x, float[4] c"),
        "not constant",
    ),
    "fed_scale": (
        CONV.replace("(float[N, 2, 6, 5] x", "(float[N, 2, 6, 5] x, float[4] s"),
        "not constant",
    ),
    "fed_variance": (
        CONV.replace("(float[N, 2, 6, 5] x", "(float[N, 2, 6, 5] x, float[4] v"),
        "not constant",
    ),
    "a_normalization_whose_channels_are_others": (
        """g (float[N, 2, 2] x) => (float[N, 2, 2] z) <float[2] s = {1.5, 0.5},
           float[2] b = {0.0, 1.0}, float[2] m = {2.0, 0.25}, float[2] v = {1.0, 2.0},
           float[2] w = {1.25, 3.0}>
           { y = LayerNormalization(x, w)
             z = BatchNormalization(y, s, b, m, v) }""",
        "does not come from",
    ),
    "no_layer": (
        CONV.replace("y = Conv(x, w, c)", "h = Conv(x, w, c)\n y = Relu(h)"),
        "does not come from",
    ),
}


@pytest.mark.parametrize("name", NO_REWRITES)
def test_leaves_unchanged(name: str) -> None:
    text, reason = NO_REWRITES[name]
    assert_unchanged(FuseConvBatchNorm(), text, reason=reason)


def test_a_graph_output_in_between_is_kept() -> None:
    text = CONV.replace("P, Q] z)", "P, Q] z, float[N, 4, P, Q] y)")
    assert_unchanged(FuseConvBatchNorm(), text, reason="another use")


def test_types_that_differ_are_not_fused() -> None:
    text = """g (float16[N, 2, 6] x) => (float16[N, 4, P] z)
        <float16[4, 2, 1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float16[4] s = {1, 2, 3, 4},
         float16[4] b = {1, 2, 3, 4}, float[4] m = {1, 2, 3, 4}, float[4] v = {1, 2, 3, 4}>
        { y = Conv(x, w)
          z = BatchNormalization(y, s, b, m, v) }"""
    assert_unchanged(FuseConvBatchNorm(), text, reason="different types")


def test_a_shared_normalization_is_used_by_both() -> None:
    text = f"""g (float[N, 2, 6] x) => (float[N, 4, P] z)
        <float[4, 2, 1] w = {numbers(8, 1)}, float[4, 4, 1] u = {numbers(16, 2)}, {norm(4)}>
        {{ y = Conv(x, w)
           h = BatchNormalization(y, s, b, m, v)
           k = Conv(h, u)
           z = BatchNormalization(k, s, b, m, v) }}"""
    model, original = load(text), load(text)
    apply(model, PASS)
    assert [node.op_type for node in model.graph] == ["Conv", "Conv"]
    assert_same_answers(model, original, RTOL)


def test_inside_a_branch() -> None:
    body = CONV[CONV.index("{ y") + 1 : -1]
    text = f"""g (bool t, float[N, 2, 6, 5] x) => (float[N, 4, P, Q] out)
        {CONV[CONV.index("<float") : CONV.index("{ y")]}
        {{ out = If (t) <then_branch = g1 () => (float[N, 4, P, Q] z) {{ {body} }},
                        else_branch = g2 () => (float[N, 4, P, Q] q)
                            {{ q = Conv(x, w2) }}> }}"""
    text = text.replace(
        "<float[4, 2", f"<float[4, 2, 3, 3] w2 = {numbers(72, 8)}, float[4, 2", 1
    )
    model, original = load(text), load(text)
    assert apply(model, PASS).modified
    for flag in (True, False):
        x = np.random.default_rng(0).standard_normal((2, 2, 6, 5)).astype(np.float32)
        assert_same_answers(model, original, RTOL, {"t": np.array(flag), "x": x})


def test_the_weights_of_the_file_are_not_touched() -> None:
    model = load(CONV)
    before = model.graph.initializers["w"].const_value
    copy = before.numpy().copy()
    FuseConvBatchNorm().run(model, Context())
    np.testing.assert_array_equal(before.numpy(), copy)

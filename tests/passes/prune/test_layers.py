"""Layers as matrices: rows x weight + bias is what onnxruntime computes."""

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.prune.layers import layer_of
from graphopt.passes.prune.prune_channels import PruneChannels
from graphs import check, random_feeds, run
from networks import network

from graphopt.ledger import Ledger
from graphopt.passbase import Context

LAYERS = {
    "conv": (
        "y = Conv<pads = [1, 0, 2, 1], strides = [2, 1]>(x, w, b)",
        "float[4, 3, 3, 2] w, float[4] b",
        "float[N, 3, 7, 6] x => float[N, 4, P, Q] y",
    ),
    "conv_dilated": (
        "y = Conv<dilations = [2, 1]>(x, w)",
        "float[4, 3, 3, 2] w",
        "float[N, 3, 7, 6] x => float[N, 4, P, Q] y",
    ),
    "conv_same_upper": (
        'y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w, b)',
        "float[4, 3, 3, 2] w, float[4] b",
        "float[N, 3, 7, 6] x => float[N, 4, P, Q] y",
    ),
    "conv_same_lower": (
        'y = Conv<auto_pad = "SAME_LOWER">(x, w)',
        "float[4, 3, 2, 2] w",
        "float[N, 3, 7, 6] x => float[N, 4, P, Q] y",
    ),
    "conv_1d": (
        "y = Conv<pads = [1, 1]>(x, w)",
        "float[4, 3, 3] w",
        "float[N, 3, 7] x => float[N, 4, P] y",
    ),
    "conv_3d": (
        "y = Conv(x, w, b)",
        "float[4, 3, 2, 1, 2] w, float[4] b",
        "float[N, 3, 4, 3, 4] x => float[N, 4, P, Q, R] y",
    ),
    "gemm": (
        "y = Gemm(x, w, b)",
        "float[5, 4] w, float[4] b",
        "float[N, 5] x => float[N, 4] y",
    ),
    "gemm_transposed": (
        "y = Gemm<transB = 1>(x, w, b)",
        "float[4, 5] w, float[1] b",
        "float[N, 5] x => float[N, 4] y",
    ),
    "matmul": ("y = MatMul(x, w)", "float[5, 4] w", "float[N, L, 5] x => float[N, L, 4] y"),
    "matmul_and_add": (
        "h = MatMul(x, w)  y = Add(b, h)",
        "float[5, 4] w, float[4] b",
        "float[N, L, 5] x => float[N, L, 4] y",
    ),
}


def model_of(name):
    body, weights, signature = LAYERS[name]
    inputs, outputs = signature.split("=>")
    return network(f"g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}")


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_plus_bias_is_the_output(name):
    model = model_of(name)
    layer = layer_of(next(iter(model.graph)))
    feeds = random_feeds(model)
    (y,) = run(model, feeds)

    total = layer.positions(y)
    picked = np.random.default_rng(0).choice(total, total // 2, replace=False)
    rows = layer.rows(feeds["x"], picked)
    expected = layer.targets(y, picked)

    np.testing.assert_allclose(
        rows @ layer.weight().T + layer.bias(), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", LAYERS)
def test_another_weight_and_bias_are_what_is_computed_then(name):
    model = model_of(name)
    layer = layer_of(next(iter(model.graph)))
    rng = np.random.default_rng(1)
    weight = rng.standard_normal(layer.weight().shape)
    bias = rng.standard_normal(len(weight)) if layer.bias_node is not None else None
    rewriter = Context(ledger=Ledger()).rewriter(model, PruneChannels())

    rewriter.apply("set", layer.node, lambda edit: layer.set(edit, weight, bias))

    check(model)
    feeds = random_feeds(model)
    (y,) = run(model, feeds)
    picked = np.arange(layer.positions(y))
    expected = layer.rows(feeds["x"], picked) @ weight.T + (0 if bias is None else bias)
    np.testing.assert_allclose(layer.targets(y, picked), expected, rtol=1e-4, atol=1e-4)


REFUSED = {
    "another operator": ("y = Relu(x)", "", "float[N, 5] x => float[N, 5] y", "no Conv"),
    "computed weight": (
        "y = MatMul(x, u)",
        "",
        "float[N, 5] x, float[5, 4] u => float[N, 4] y",
        "no floating-point constant",
    ),
    "shared weight": (
        "h = MatMul(x, w)  y = MatMul(h, w)",
        "float[5, 5] w",
        "float[N, 5] x => float[N, 5] y",
        "other uses",
    ),
    "groups": (
        "y = Conv<group = 2>(x, w)",
        "float[4, 2, 1, 1] w",
        "float[N, 4, 3, 3] x => float[N, 4, 3, 3] y",
        "has groups",
    ),
    "stacked weight": (
        "y = MatMul(x, w)",
        "float[2, 5, 4] w",
        "float[2, N, 5] x => float[2, N, 4] y",
        "is no matrix",
    ),
    "scaled input": (
        "y = Gemm<alpha = 0.5>(x, w)",
        "float[5, 4] w",
        "float[N, 5] x => float[N, 4] y",
        "scales its input",
    ),
    "scaled bias": (
        "y = Gemm<beta = 0.5>(x, w, b)",
        "float[5, 4] w, float[4] b",
        "float[N, 5] x => float[N, 4] y",
        "scales its bias",
    ),
    "bias of a matrix": (
        "y = Gemm(x, w, b)",
        "float[5, 4] w, float[2, 4] b",
        "float[2, 5] x => float[2, 4] y",
        "no constant vector",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_layer_says_why(name):
    body, weights, signature, reason = REFUSED[name]
    inputs, outputs = signature.split("=>")
    declared = f"<{weights}>" if weights else ""
    model = network(f"g ({inputs}) => ({outputs}) {declared} {{ {body} }}")
    assert reason in layer_of(next(iter(model.graph)))


def test_a_sum_that_is_returned_or_used_twice_has_no_place_for_a_bias():
    text = """g (float[N, 5] x) => (float[N, 4] y, float[N, 4] h) <float[5, 4] w, float[4] b>
              { h = MatMul(x, w)
                y = Add(h, b) }"""
    assert layer_of(next(iter(network(text).graph))).bias_node is None


def test_a_shared_bias_gets_a_copy():
    text = """g (float[N, 5] x) => (float[N, 5] y)
              <float[5, 5] w, float[5] b, float[5, 5] v>
              { h = Gemm(x, w, b)
                y = Gemm(h, v, b) }"""
    model = network(text)
    first, second = model.graph
    layer = layer_of(first)
    rewriter = Context().rewriter(model, PruneChannels())
    rewriter.apply("set", first, lambda edit: layer.set(edit, layer.weight(), np.ones(5)))
    assert isinstance(model, ir.Model)
    assert second.inputs[2].name == "b"
    assert first.inputs[2].const_value.numpy().tolist() == [1] * 5


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_weight_behind_a_transpose_is_read_and_written_as_the_layer_has_it(transposed):
    text = """g (float[4, 3] x) => (float[4, 5] y) <float[5, 3] w>
              { t = Transpose<perm = [1, 0]>(w)
                y = MatMul(x, t) }"""
    if transposed:
        text = """g (float[4, 3] x) => (float[4, 5] y) <float[3, 5] w>
                  { t = Transpose<perm = [1, 0]>(w)
                    y = Gemm<transB = 1>(x, t) }"""
    model = network(text)
    transpose, node = model.graph
    layer = layer_of(node)
    assert layer.weight_node is transpose
    data = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(layer.weight(), data.T if transposed else data)
    assert layer.out_axis == transposed


@pytest.mark.parametrize(
    "more", ["z = Relu(t)", "z = Transpose<perm = [0, 1]>(t)", "z = Identity(t)"]
)
def test_a_transposed_weight_with_another_use_is_no_layer(more):
    text = f"""g (float[4, 3] x) => (float[4, 5] y, float[3, 5] z) <float[5, 3] w>
               {{ t = Transpose<perm = [1, 0]>(w)
                  y = MatMul(x, t)
                  {more} }}"""
    node = list(network(text).graph)[1]
    assert layer_of(node) == "its second input is no floating-point constant"


@pytest.mark.parametrize(("shape", "perm"), [("[3, 5]", "[0, 1]"), ("[2, 5, 3]", "[0, 2, 1]")])
def test_only_a_matrix_that_is_swapped_counts_as_a_weight(shape, perm):
    text = f"""g (float[2, 4, 3] x) => (float[2, 4, 5] y) <float{shape} w>
               {{ t = Transpose<perm = {perm}>(w)
                  y = MatMul(x, t) }}"""
    node = list(network(text).graph)[1]
    assert layer_of(node) == "its second input is no floating-point constant"

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from graphopt.passes.quantize.smooth_quant import SmoothQuant
from quantized import array_of, load_with_weights, set_array, signal_to_noise_db

from graphopt.ledger import Ledger
from graphopt.passbase import Context
from graphopt.samples import Samples

PRODUCT = "g (float[N,M,32] x, float[32,16] W) => (float[N,M,16] y) { y = MatMul(x, W) }"
NORM = """g (float[N,M,32] t, float[32] G, float[32] B, float[32,16] W, float[16,32] V)
             => (float[N,M,16] y, float[N,16] z)
    { x = LayerNormalization(t, G, B) y = MatMul(x, W)
      s = Constant <value_ints = [-1, 32]> () r = Reshape(t, s)
      z = Gemm <transB = 1> (r, V) }"""


def feeds_of(model: ir.Model, outlier: float = 50) -> list[dict[str, np.ndarray]]:
    """Return feeds in which one channel of the first input is much larger than the others."""
    feeds = [graphs.random_feeds(model, seed) for seed in range(6)]
    for feed in feeds:
        next(iter(feed.values()))[..., 3] *= outlier
    return feeds


def smooth(model: ir.Model, context: Context, pass_: SmoothQuant | None = None, **feeds):
    context.samples = Samples.from_feeds(feeds.get("feeds") or feeds_of(model))
    return graphs.apply(model, pass_ or SmoothQuant(), context)


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_mul_in_front_of_a_product(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    weight = array_of(model, "W")
    smooth(model, context)
    assert graphs.text_of(model).endswith(
        "{\n   x_g1 = Mul (x, x_smooth)\n   y = MatMul (x_g1, W)\n}"
    )
    scale = 1 / array_of(model, "x_smooth")
    assert scale[3] > 5 * np.median(scale)
    np.testing.assert_allclose(array_of(model, "W"), weight * scale[:, None], rtol=1e-6)


def test_products_stay_the_same(context: Context) -> None:
    for text, names in ((PRODUCT, "W"), (NORM, "GBWV")):
        model, original = load_with_weights(text, *names), load_with_weights(text, *names)
        smooth(model, context)
        graphs.assert_same_answers(model, original, rtol=2e-6)


def test_eight_bits_are_enough_afterwards(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    feed = feeds_of(model)[0]
    weight = array_of(model, "W").copy()
    weight[3] *= 0.02
    set_array(model, "W", weight)
    real = graphs.run(model, feed)[0]
    plain = load_with_weights(PRODUCT, "W")
    set_array(plain, "W", weight.copy())
    QuantizeDynamic().run(plain, Context())
    smooth(model, context)
    QuantizeDynamic().run(model, Context())
    before = signal_to_noise_db(graphs.run(plain, feed)[0], real)
    after = signal_to_noise_db(graphs.run(model, feed)[0], real)
    assert after > before + 12


def test_norm_takes_the_scale_where_nothing_else_reads_it(context: Context) -> None:
    model = load_with_weights(NORM, *"GBWV")
    gain = array_of(model, "G").copy()
    gain[3] = 40
    set_array(model, "G", gain)
    before = operators(model)
    shift = array_of(model, "B")
    smooth(model, context, SmoothQuant(include=("MatMul",)))
    assert operators(model) == before
    scale = gain / array_of(model, "G")
    np.testing.assert_allclose(array_of(model, "B"), shift / scale, rtol=1e-5)
    assert scale[3] > 5 * np.median(scale)


@pytest.mark.parametrize(
    ("more", "outputs"),
    [
        ("u = Add(x, t)", ", float[N,M,32] u"),  # a residual
        ("u = Mul(t, G)", ", float[N,M,32] u"),  # its weight is used elsewhere
    ],
)
def test_norm_with_another_reader_gets_a_mul(
    more: str, outputs: str, context: Context
) -> None:
    text = f"""g (float[N,M,32] t, float[32] G, float[32] B, float[32,16] W)
                 => (float[N,M,16] y{outputs})
        {{ x = LayerNormalization(t, G, B) y = MatMul(x, W) {more} }}"""
    model, original = load_with_weights(text, *"GBW"), load_with_weights(text, *"GBW")
    for one in (model, original):
        gain = array_of(one, "G").copy()
        gain[3] = 40
        set_array(one, "G", gain)
    smooth(model, context)
    assert operators(model).count("Mul") == operators(original).count("Mul") + 1
    graphs.assert_same_answers(model, original, rtol=2e-6)


def test_operators_that_read_one_activation_share_the_scale(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,M,32] x, float[32,32] Q, float[32,32] K)
            => (float[N,M,32] q, float[N,M,32] k) { q = MatMul(x, Q) k = MatMul(x, K) }""",
        *"QK",
    )
    smooth(model, context)
    assert operators(model) == ["Mul", "MatMul", "MatMul"]
    assert len(context.ledger.applications) == 1


def test_weight_in_a_constant_node(context: Context) -> None:
    values = ", ".join(str(float(i % 5 - 2)) for i in range(16))
    text = f"""g (float[N,4] x) => (float[N,4] y)
        {{ W = Constant <value = float[4,4] {{{values}}}> () y = MatMul(x, W) }}"""
    model, original = graphs.load(text), graphs.load(text)
    smooth(model, context)
    assert operators(model) == ["Mul", "MatMul"]
    graphs.assert_same_answers(model, original, rtol=2e-6)


def test_weight_used_by_another_operator_is_left_alone(context: Context) -> None:
    model = load_with_weights(
        """g (float[N,M,32] x, float[32,32] W) => (float[N,M,32] z)
        { y = MatMul(x, W) z = MatMul(y, W) }""",
        "W",
    )
    assert not smooth(model, context).modified
    assert reasons(context) == ["another operator uses the weight 'W'"] * 2


@pytest.mark.parametrize("value", [0.0, 1e38])
def test_activation_without_a_scale_is_left_alone(value: float, context: Context) -> None:
    model = load_with_weights(
        """g (float[N,M,32] x, float[32,16] W) => (float[N,M,16] y)
        { a = Mul(x, x) y = MatMul(a, W) }""",
        "W",
    )
    feeds = [{"x": np.full((1, 2, 32), value, np.float32)}]
    assert not smooth(model, context, feeds=feeds).modified
    assert reasons(context) == ["its activation is not finite, or nothing but 0"]


def test_little_gain_is_not_worth_a_mul(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    pass_ = SmoothQuant(min_gain_db=3)
    assert not smooth(model, context, pass_, feeds=feeds_of(model, outlier=1)).modified
    assert "smoothing would gain" in reasons(context)[0]


def test_dead_channels_keep_their_scale(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    weight = array_of(model, "W").copy()
    weight[5] = 0
    set_array(model, "W", weight)
    feeds = feeds_of(model)
    for feed in feeds:
        feed["x"][..., 7] = 0
    smooth(model, context, feeds=feeds)
    assert array_of(model, "x_smooth")[[5, 7]].tolist() == [1, 1]


def test_excluded_and_inside_subgraphs_are_left_alone(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    assert not smooth(model, context, SmoothQuant(exclude=("MatMul",))).modified
    assert reasons(context) == ["excluded by 'MatMul'"]
    inner = load_with_weights(
        """g (bool c, float[N,32] x, float[32,32] W) => (float[N,32] y) { y = If (c) <
            then_branch = t () => (float[N,32] u) { u = MatMul(x, W) },
            else_branch = e () => (float[N,32] v) { v = Neg(x) }> }""",
        "W",
    )
    assert not smooth(inner, context, feeds=[graphs.random_feeds(inner)]).modified


def test_limit_and_second_run(context: Context, runtime) -> None:
    limited = Context(ledger=Ledger(limit=0))
    limited.share(runtime)
    assert not smooth(load_with_weights(PRODUCT, "W"), limited).modified
    model = load_with_weights(PRODUCT, "W")
    smooth(model, context)
    assert not smooth(model, context).modified

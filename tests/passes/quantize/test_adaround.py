from __future__ import annotations

import itertools

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize import adaround as module
from graphopt.passes.quantize.adaround import AdaRound
from graphopt.passes.quantize.adaround_rounding import adaround
from graphopt.passes.quantize.patch_gram import Geometry, Moments, PatchGram, patches
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from quantized import array_of, load_with_weights, set_array, signal_to_noise_db

from graphopt.calibration.qparams import channel_absmax, symmetric
from graphopt.ledger import Ledger
from graphopt.passbase import Context
from graphopt.samples import Samples

CONV = """g (float[N,4,8,8] x, float[6,4,3,3] W, float[6] B) => (float[N,6,4,4] y)
    { y = Conv <strides = [2,2], pads = [1,1,1,1]> (x, W, B) }"""
GROUPS = """g (float[N,4,8,8] x, float[6,2,3,3] W) => (float[N,6,4,4] y)
    { y = Conv <group = 2, dilations = [2,2]> (x, W) }"""
DEPTHWISE = """g (float[N,4,8,8] x, float[4,1,3,3] W) => (float[N,4,6,6] y)
    { y = Conv <group = 4> (x, W) }"""
LINE = "g (float[N,4,8] x, float[6,4,3] W) => (float[N,6,6] y) { y = Conv(x, W) }"
PRODUCT = "g (float[N,M,16] x, float[16,8] W) => (float[N,M,8] y) { y = MatMul(x, W) }"
GEMM = """g (float[N,16] x, float[8,16] W, float[8] B) => (float[N,8] y)
    { y = Gemm <transB = 1> (x, W, B) }"""
FORMS = {
    "conv": (CONV, "WB"),
    "groups": (GROUPS, "W"),
    "depthwise": (DEPTHWISE, "W"),
    "line": (LINE, "W"),
    "product": (PRODUCT, "W"),
    "gemm": (GEMM, "WB"),
}


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return positive float32 numbers that change slowly along all axes but the first."""
    x = np.random.default_rng(seed).standard_normal(shape)
    for axis in range(1, len(shape)):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return (x + 1).astype(np.float32)


def feeds_of(model: ir.Model, start: int = 0) -> list[dict[str, np.ndarray]]:
    shape = [size if isinstance(size, int) else 8 for size in model.graph.inputs[0].shape]
    return [{"x": smooth(tuple(shape), seed)} for seed in range(start, start + 6)]


def round_weights(
    model: ir.Model, context: Context, pass_: AdaRound | None = None, feeds=None
):
    context.samples = Samples.from_feeds(feeds_of(model) if feeds is None else feeds)
    return graphs.apply(model, pass_ or AdaRound(), context)


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


def test_gets_most_of_what_the_best_of_all_roundings_gains() -> None:
    rng = np.random.default_rng(0)
    found = best = plain = 0.0
    for _ in range(20):
        x = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 8))
        gram, weight = x.T @ x, rng.standard_normal((8, 1))

        def error(q: np.ndarray, gram=gram, weight=weight) -> float:
            off = (q / 4 - weight)[:, 0]
            return float(off @ gram @ off)

        ways = itertools.product((0, 1), repeat=8)
        best += min(error(np.floor(weight * 4) + np.array(way)[:, None]) for way in ways)
        found += error(adaround(weight, gram, np.array([0.25])))
        plain += error(np.rint(weight * 4))
    assert best <= found < best + (plain - best) / 50


def test_products_lose_much_less_than_by_plain_rounding() -> None:
    x, held_out = smooth((500, 32), 0), smooth((500, 32), 1)
    weight = np.random.default_rng(2).standard_normal((32, 16)).astype(np.float32)
    qparams = symmetric(channel_absmax(weight, 1), 1, limit=7)
    q = adaround(weight, x.T @ x, qparams.scale, limit=7)
    assert np.abs(q).max() <= 7
    assert np.abs(q - weight / qparams.scale).max() < 1 + 1e-5
    plain = np.linalg.norm(held_out @ (qparams.round_trip(weight) - weight))
    assert np.linalg.norm(held_out @ (qparams.dequantize(q) - weight)) < plain / 1.4


def test_independent_inputs_are_rounded_plainly() -> None:
    weight = np.random.default_rng(2).standard_normal((40, 8)).astype(np.float32)
    qparams = symmetric(channel_absmax(weight, 1), 1)
    q = adaround(weight, np.diag(np.arange(1.0, 41)), qparams.scale)
    np.testing.assert_array_equal(q, qparams.quantize(weight))


@pytest.mark.parametrize("name", FORMS)
def test_answers_of_the_layer_change_less(name: str, context: Context) -> None:
    text, weights = FORMS[name]
    model, original = load_with_weights(text, *weights), load_with_weights(text, *weights)
    plain = load_with_weights(text, *weights)
    axis = 1 if name == "product" else 0
    qparams = symmetric(channel_absmax(array_of(plain, "W"), axis), axis)
    set_array(plain, "W", qparams.round_trip(array_of(plain, "W")))
    round_weights(model, context)
    (entry,) = context.ledger.applications
    assert "the error of its answers falls by" in entry.note
    np.testing.assert_array_equal(
        qparams.round_trip(array_of(model, "W")), array_of(model, "W")
    )
    feeds = feeds_of(original, 60)
    real, rounded, plainly = (
        np.stack([graphs.run(one, feed)[0] for feed in feeds])
        for one in (original, model, plain)
    )
    gain = signal_to_noise_db(rounded, real) - signal_to_noise_db(plainly, real)
    assert gain > 2


@pytest.mark.parametrize("name", FORMS)
def test_static_quantization_takes_just_these_integers(name: str, context: Context) -> None:
    text, weights = FORMS[name]
    model = load_with_weights(text, *weights)
    round_weights(model, context)
    rounded = array_of(model, "W").copy()
    QuantizeStatic().run(model, context)
    scale = array_of(model, "W_scale")
    shape = [1] * rounded.ndim
    shape[1 if name == "product" else 0] = -1
    found = array_of(model, "W_quantized").astype(np.float32) * scale.reshape(shape)
    np.testing.assert_array_equal(found, rounded)


@pytest.mark.parametrize("name", ["conv", "groups", "depthwise", "line"])
def test_moments_are_those_of_the_patches(name: str) -> None:
    model = load_with_weights(FORMS[name][0], *FORMS[name][1])
    geometries = {
        "conv": Geometry((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
        "groups": Geometry((3, 3), (1, 1), (2, 2), (0, 0, 0, 0), 2),
        "depthwise": Geometry((3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 4),
        "line": Geometry((3,), (1,), (1,), (0, 0)),
    }
    feed, weight = feeds_of(model)[0], array_of(model, "W")
    gram = PatchGram(geometries[name])
    gram.update(feed["x"])
    rows = weight.reshape(len(gram.matrix), -1, gram.matrix.shape[-1])
    energy = np.einsum("gnk,gkl,gnl->gn", rows, gram.matrix, rows).reshape(-1)
    bias = array_of(model, "B") if name == "conv" else np.zeros(len(weight))
    y = graphs.run(model, feed)[0] - bias.reshape((1, -1) + (1,) * (feed["x"].ndim - 2))
    expected = np.square(np.moveaxis(y, 1, 0).reshape(len(weight), -1)).sum(axis=1)
    np.testing.assert_allclose(energy, expected, rtol=1e-4)


def test_patches_are_spread_where_there_are_many() -> None:
    x = np.arange(400, dtype=np.float32).reshape(1, 1, 20, 20)
    some = patches(x, Geometry((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)), max_rows=50)
    assert some.reshape(-1).tolist() == [float(i * 8) for i in range(50)]
    none = patches(x, Geometry((30, 1), (1, 1), (1, 1), (0, 0, 0, 0)))
    assert none.shape == (0, 1, 30, 1)


def test_moments_of_parts_add_up() -> None:
    x, whole, one, two = smooth((6, 4, 8, 8), 0), Moments(), Moments(), Moments()
    geometry = Geometry((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    for moments in (whole, one, two):
        moments.want(geometry)
        moments.want(None)
    whole.update(x, 0)
    one.update(x[:2], 0)
    two.update(x[2:], 1)
    one.merge(two)
    for key in (geometry, None):
        np.testing.assert_allclose(one.parts[key].matrix, whole.parts[key].matrix, atol=0.01)


@pytest.mark.parametrize(
    ("text", "weights", "pass_", "reason"),
    [
        (CONV, "WB", AdaRound(exclude=("Conv",)), "excluded by 'Conv'"),
        (CONV, "B", AdaRound(), "its weight is not constant"),
        (
            CONV.replace("pads = [1,1,1,1]", 'auto_pad = "SAME_UPPER"'),
            "WB",
            AdaRound(),
            "auto_pad",
        ),
        (CONV, "WB", AdaRound(max_inputs=35), "sums of 36 products"),
        (
            PRODUCT.replace("float[N,M,8] y)", "float[N,M,8] y, float[16,8] W)"),
            "W",
            AdaRound(),
            "another operator uses its weight",
        ),
    ],
)
def test_left_alone_with_a_reason(
    text: str, weights: str, pass_: AdaRound, reason: str, context: Context
) -> None:
    model = load_with_weights(text, *weights)
    feeds = [graphs.random_feeds(model, seed) for seed in range(2)]
    assert not round_weights(model, context, pass_, feeds).modified
    assert reason in reasons(context)[0]


@pytest.mark.parametrize("value", [0.0, 1e38])
def test_activation_without_a_scale_is_left_alone(value: float, context: Context) -> None:
    text = PRODUCT.replace("y = MatMul(x, W)", "a = Mul(x, x) y = MatMul(a, W)")
    model = load_with_weights(text, "W")
    feeds = [{"x": np.full((1, 2, 16), value, np.float32)}]
    assert not round_weights(model, context, feeds=feeds).modified
    assert reasons(context) == ["its activation is not finite, or nothing but 0"]


def test_weight_on_the_grid_stays(context: Context) -> None:
    model = load_with_weights(CONV, *"WB")
    round_weights(model, context)
    assert not round_weights(model, context).modified
    assert reasons(context) == ["plain rounding loses no more"]


def test_layers_are_taken_in_portions(context: Context, monkeypatch) -> None:
    text = """g (float[N,4,8,8] x, float[4,4,3,3] W, float[4,4,1,1] V)
        => (float[N,4,6,6] y, float[N,4,8,8] z) { y = Conv(x, W) z = Conv(x, V) }"""
    found = []
    for size in (1 << 29, 1):
        monkeypatch.setattr(module, "MEMORY_BYTES", size)
        model = load_with_weights(text, *"WV")
        round_weights(model, context)
        found.append([array_of(model, name) for name in "WV"])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_limit(runtime) -> None:
    context = Context(ledger=Ledger(limit=0))
    context.share(runtime)
    assert not round_weights(load_with_weights(CONV, *"WB"), context).modified


@pytest.mark.parametrize("most", [0, 128])
def test_groups_and_blocks_give_what_each_product_alone_gives(most: int, monkeypatch) -> None:
    monkeypatch.setattr("graphopt.passes.quantize.adaround_rounding.MOST_KEPT", most)
    rng = np.random.default_rng(3)
    x = [smooth((300, 20), seed) for seed in range(3)]
    gram = np.stack([one.T @ one for one in x]).astype(np.float64)
    gram[2] = 0  # a group whose inputs are always 0
    weight = rng.standard_normal((3, 20, 7))
    scale = np.abs(weight).max(axis=1, keepdims=True) / 7
    whole = adaround(weight, gram, scale, limit=7)
    monkeypatch.setattr("graphopt.passes.quantize.in_turn.BLOCK", 3)
    monkeypatch.setattr("graphopt.passes.quantize.adaround_rounding.BLOCK", 3)
    for group in range(3):
        alone = adaround(weight[group], gram[group], scale[group], limit=7)
        np.testing.assert_array_equal(whole[group], alone)


@pytest.mark.parametrize("most", [0, 128])
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_units_of_the_samples_do_not_matter(factor: float, most: int, monkeypatch) -> None:
    monkeypatch.setattr("graphopt.passes.quantize.adaround_rounding.MOST_KEPT", most)
    x = smooth((300, 20), 0)
    gram, weight = x.T @ x, np.random.default_rng(3).standard_normal((20, 7))
    scale = np.abs(weight).max(axis=0) / 7
    np.testing.assert_array_equal(
        adaround(weight, gram * factor, scale), adaround(weight, gram, scale)
    )

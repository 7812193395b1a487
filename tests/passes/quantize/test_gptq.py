from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.gptq import Gptq
from graphopt.passes.quantize.gptq_rounding import gptq_round, output_error
from graphopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from quantized import array_of, load_with_weights, set_array, signal_to_noise_db

from graphopt.calibration.qparams import channel_absmax, symmetric
from graphopt.ledger import Ledger
from graphopt.passbase import Context
from graphopt.samples import Samples

PRODUCT = "g (float[N,M,32] x, float[32,16] W) => (float[N,M,16] y) { y = MatMul(x, W) }"
GEMM = """g (float[N,32] x, float[16,32] W, float[16] B) => (float[N,16] y)
    { y = Gemm <transB = 1> (x, W, B) }"""


def correlated(rows: int, seed: int = 0) -> np.ndarray:
    """Return float32 [rows, 32] of channels that go along with each other."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((6, 32))
    x = rng.standard_normal((rows, 6)) @ mix + 0.1 * rng.standard_normal((rows, 32))
    return x.astype(np.float32)


def feeds_of(model: ir.Model) -> list[dict[str, np.ndarray]]:
    shape = (8, 4, 32) if len(model.graph.inputs[0].shape) == 3 else (32, 32)
    return [{"x": correlated(32, seed).reshape(shape)} for seed in range(8)]


def round_weights(
    model: ir.Model, context: Context, pass_: Gptq | None = None, feeds: list | None = None
):
    context.samples = Samples.from_feeds(feeds_of(model) if feeds is None else feeds)
    return graphs.apply(model, pass_ or Gptq(), context)


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


def test_products_lose_much_less_than_by_plain_rounding() -> None:
    x, held_out = correlated(500), correlated(500, seed=1)
    weight = np.random.default_rng(2).standard_normal((32, 16)).astype(np.float32)
    qparams = symmetric(channel_absmax(weight, 1), 1, limit=7)
    gram = (x.T @ x).astype(np.float64)
    q = gptq_round(weight, gram, qparams.scale, limit=7)
    assert np.abs(q).max() <= 7
    plain = np.linalg.norm(held_out @ (qparams.round_trip(weight) - weight))
    assert np.linalg.norm(held_out @ (qparams.dequantize(q) - weight)) < plain / 3


def test_independent_inputs_are_rounded_plainly() -> None:
    weight = np.random.default_rng(2).standard_normal((40, 8)).astype(np.float32)
    qparams = symmetric(channel_absmax(weight, 1), 1)
    q = gptq_round(weight, np.diag(np.arange(40.0)), qparams.scale)
    np.testing.assert_array_equal(q, qparams.quantize(weight))


def test_blocks_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(200)
    weight = np.random.default_rng(2).standard_normal((32, 16)).astype(np.float32)
    qparams = symmetric(channel_absmax(weight, 1), 1)
    gram = (x.T @ x).astype(np.float64)
    whole = gptq_round(weight, gram, qparams.scale)
    monkeypatch.setattr("graphopt.passes.quantize.in_turn.BLOCK", 5)
    np.testing.assert_array_equal(gptq_round(weight, gram, qparams.scale), whole)


def test_output_error_is_that_of_the_product() -> None:
    x = correlated(50)
    error = np.random.default_rng(0).standard_normal((32, 4))
    expected = np.linalg.norm(x.astype(np.float64) @ error) ** 2
    found = output_error(error, x.astype(np.float64).T @ x.astype(np.float64))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("text", "names", "axis"), [(PRODUCT, "W", 1), (GEMM, "WB", 0)])
def test_weight_is_on_the_grid_and_in_the_note(
    text: str, names: str, axis: int, context: Context
) -> None:
    model = load_with_weights(text, *names)
    weight = array_of(model, "W").copy()
    round_weights(model, context)
    scale = np.abs(weight).max(axis=1 - axis, keepdims=True) / np.float32(127)
    steps = array_of(model, "W") / scale
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert np.abs(steps).max() < 127.5
    (entry,) = context.ledger.applications
    assert "the error of its products falls by" in entry.note


@pytest.mark.parametrize("quantizer", [QuantizeDynamic, QuantizeStatic])
@pytest.mark.parametrize(("text", "names"), [(PRODUCT, "W"), (GEMM, "WB")])
def test_quantizer_takes_just_these_integers(
    quantizer, text: str, names: str, context: Context
) -> None:
    model = load_with_weights(text, *names)
    round_weights(model, context)
    rounded = array_of(model, "W").copy()
    quantizer().run(model, context)
    scale = array_of(model, "W_scale")
    found = array_of(model, "W_quantized")
    if found.shape == rounded.shape[::-1] and found.shape != rounded.shape:
        found = found.T
    column = scale if scale.shape == (rounded.shape[1],) else scale[:, None]
    np.testing.assert_array_equal(found.astype(np.float32) * column, rounded)


@pytest.mark.parametrize("quantizer", [QuantizeDynamic, QuantizeStatic])
def test_half_counts_what_rounding_has_cost_already(quantizer, context: Context) -> None:
    model = load_with_weights(
        """g (float[b,32] x, float[32,32] A, float[32,32] B) => (float[b,32] z)
        { y = MatMul(x, A) z = MatMul(y, B) }""",
        *"AB",
    )
    # One outlier a column leaves few steps for the rest; rounded, it loses nothing any more.
    array = array_of(model, "A").copy()
    array[0] *= 100
    set_array(model, "A", array)
    round_weights(model, context)
    quantizer(scope="half").run(model, context)
    assert "A" in model.graph.initializers
    assert "B_quantized" in model.graph.initializers


def test_quantized_model_is_closer_than_without(context: Context, runtime) -> None:
    held_out = {"x": correlated(64, seed=99).reshape(16, 4, 32)}
    real = graphs.run(load_with_weights(PRODUCT, "W"), held_out)[0]
    plain, rounded = load_with_weights(PRODUCT, "W"), load_with_weights(PRODUCT, "W")
    round_weights(rounded, context)
    x = held_out["x"].reshape(-1, 32)

    # Of the weights alone: that of the activations is the same for both.
    def noise(model: ir.Model) -> float:
        QuantizeDynamic().run(model, context)
        weight = array_of(model, "W_quantized") * array_of(model, "W_scale")
        return signal_to_noise_db((x @ weight).reshape(real.shape), real)

    assert noise(rounded) > noise(plain) + 6


def test_scales_of_a_weight_that_has_changed_since_are_not_used(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    round_weights(model, context)
    changed = array_of(model, "W") * np.float32(1.3)
    set_array(model, "W", changed)
    QuantizeDynamic().run(model, context)
    np.testing.assert_allclose(
        array_of(model, "W_scale"), np.abs(changed).max(axis=0) / 127, rtol=1e-6
    )


def test_weight_that_plain_rounding_suits_is_left_alone(context: Context) -> None:
    model = load_with_weights(PRODUCT, "W")
    set_array(model, "W", np.full((32, 16), 127, np.float32))
    assert not round_weights(model, context).modified
    assert reasons(context) == ["plain rounding loses no more"]


def test_activation_that_is_not_finite_is_left_alone(context: Context) -> None:
    text = """g (float[N,32] x, float[32,16] W) => (float[N,16] y)
        { a = Exp(x) y = MatMul(a, W) }"""
    model = load_with_weights(text, "W")
    feeds = [{"x": np.full((2, 32), 100, np.float32)}]
    assert not round_weights(model, context, feeds=feeds).modified
    assert reasons(context) == ["its activation is not finite, or nothing but 0"]


def test_samples_are_run_again_where_memory_is_short(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """g (float[N,32] x, float[32,32] A, float[32,32] B) => (float[N,32] z)
        { y = MatMul(x, A) z = MatMul(y, B) }"""
    found = []
    for limit in (1 << 30, 1):
        monkeypatch.setattr("graphopt.passes.quantize.gptq.MEMORY_BYTES", limit)
        model = load_with_weights(text, *"AB")
        feeds = [{"x": correlated(32, seed)} for seed in range(4)]
        round_weights(model, context, feeds=feeds)
        found.append(array_of(model, "A"))
    np.testing.assert_array_equal(found[0], found[1])


def test_weight_used_elsewhere_and_limit(context: Context, runtime) -> None:
    model = load_with_weights(
        """g (float[N,32] x, float[32,32] W) => (float[N,32] z)
        { y = MatMul(x, W) z = MatMul(y, W) }""",
        "W",
    )
    assert not round_weights(model, context).modified
    assert reasons(context) == ["another operator uses the weight 'W'"] * 2
    limited = Context(ledger=Ledger(limit=0))
    limited.share(runtime)
    assert not round_weights(load_with_weights(PRODUCT, "W"), limited).modified


@pytest.mark.parametrize("damping", [0, -1, 2])
def test_damping_that_makes_no_sense_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match="damping"):
        Gptq(damping=damping)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_inputs_that_are_always_0_change_nothing_whatever_the_units(factor: float) -> None:
    x = correlated(200)
    weight = np.random.default_rng(2).standard_normal((32, 16)).astype(np.float32)
    qparams = symmetric(channel_absmax(weight, 1), 1, limit=7)
    gram = (x.T @ x).astype(np.float64)
    alone = gptq_round(weight, gram, qparams.scale, limit=7)
    padded = np.zeros((64, 64))
    padded[:32, :32] = gram * factor
    both = gptq_round(np.concatenate([weight, weight]), padded, qparams.scale, limit=7)
    np.testing.assert_array_equal(both[:32], alone)

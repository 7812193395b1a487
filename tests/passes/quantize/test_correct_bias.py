from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.bias_layers import ChannelMeans
from graphopt.passes.quantize.correct_bias import CorrectBias
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from quantized import array_of, load_with_weights, run_optimized, set_array, signal_to_noise_db

from graphopt.passbase import Context
from graphopt.samples import Samples

MOBILE = """g (float[N,4,8,8] x, float[16,4,1,1] W, float[16] B, float[16,1,3,3] D,
               float[16] C, float[4,16,1,1] V, float[4] E) => (float[N,4,6,6] y)
    { a = Conv(x, W, B) b = Relu(a) c = Conv <group = 16> (b, D, C) d = Relu(c)
      y = Conv(d, V, E) }"""
NO_BIAS = """g (float[N,4,8,8] x, float[16,4,1,1] W, float[4,16,1,1] V) => (float[N,4,8,8] y)
    { a = Conv(x, W) b = Relu(a) y = Conv(b, V) }"""
MLP = """g (float[N,16] x, float[16,24] W, float[24] B, float[24,8] V, float[8] C)
             => (float[N,8] y)
    { a = Gemm(x, W, B) b = Relu(a) y = Gemm(b, V, C) }"""
TOKENS = """g (float[N,M,16] x, float[16,24] W, float[24] B, float[24,8] V, float[8] C)
             => (float[N,M,8] y)
    { a = MatMul(x, W) b = Add(a, B) c = Relu(b) d = MatMul(c, V) y = Add(d, C) }"""
FORMS = {
    "mobile": (MOBILE, "WBDCVE"),
    "no bias": (NO_BIAS, "WV"),
    "gemms": (MLP, "WBVC"),
    "tokens": (TOKENS, "WBVC"),
}
COARSE = QuantizeStatic(per_channel=False)


def coarse_model(name: str) -> ir.Model:
    """Return a model with one channel so large that the other weights get few integers."""
    text, weights = FORMS[name]
    model = load_with_weights(text, *weights)
    for weight in set(weights) & set("WD"):
        data = array_of(model, weight).copy()
        first = data[0] if data.ndim == 4 else data[:, 0]
        first *= 12
        set_array(model, weight, data)
    return model


def feeds_of(model: ir.Model, start: int = 0) -> list[dict[str, np.ndarray]]:
    feeds = [graphs.random_feeds(model, seed) for seed in range(start, start + 8)]
    # A mean much larger than the spread: what rounding does to a weight adds up.
    return [
        {n: np.float32(1) + np.float32(0.1) * v for n, v in feed.items()} for feed in feeds
    ]


def quantize(model: ir.Model, context: Context, pass_: QuantizeStatic = COARSE) -> None:
    context.samples = Samples.from_feeds(feeds_of(model))
    pass_.run(model, context)


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips if skip.pass_name == "correct-bias"]


@pytest.mark.parametrize("name", FORMS)
def test_outputs_are_closer_on_other_samples(name: str, context: Context) -> None:
    original, model = coarse_model(name), coarse_model(name)
    quantize(model, context)
    held_out = feeds_of(original, start=50)
    real = np.stack([graphs.run(original, feed)[0] for feed in held_out])
    before = np.stack([run_optimized(model, feed)[0] for feed in held_out])
    operators = [node.op_type for node in model.graph]
    result = graphs.apply(model, CorrectBias(), context)
    assert "dB closer" in result.summary
    after = np.stack([run_optimized(model, feed)[0] for feed in held_out])
    assert signal_to_noise_db(after, real) > signal_to_noise_db(before, real) + 1
    found = [node.op_type for node in model.graph]
    extra = 2 if name == "no bias" else 0  # a DequantizeLinear for each new bias
    assert len(found) == len(operators) + extra


def test_means_of_the_channels_are_those_of_the_float_model(context: Context) -> None:
    original, model = coarse_model("mobile"), coarse_model("mobile")
    quantize(model, context)
    before, after = (
        _mean_error(original, model),
        _mean_error(original, _corrected(model, context)),
    )
    assert after < before / 50


def _corrected(model: ir.Model, context: Context) -> ir.Model:
    graphs.apply(model, CorrectBias(), context)
    return model


def _mean_error(original: ir.Model, model: ir.Model) -> float:
    """Return the largest shift of the mean of an output channel, before the output's Q."""
    feeds = feeds_of(original)
    real = np.stack([graphs.run(original, feed)[0] for feed in feeds])
    last = model.clone()
    (conv,) = [node for node in last.graph if node.op_type == "Conv"][-1:]
    last.graph.outputs[0] = conv.outputs[0]
    found = np.stack([graphs.run(last, feed)[0] for feed in feeds])
    shift = (found - real).mean(axis=(0, 1, 3, 4)) if found.ndim == 5 else None
    assert shift is not None
    return float(np.abs(shift).max())


def test_only_biases_change(context: Context) -> None:
    model = coarse_model("gemms")
    quantize(model, context)
    before = {name: array_of(model, name).copy() for name in model.graph.initializers}
    graphs.apply(model, CorrectBias(), context)
    changed = {n for n, data in before.items() if not np.array_equal(array_of(model, n), data)}
    assert changed == {"B_quantized", "C_quantized"}
    assert list(model.graph.initializers) == list(before)


def test_shared_bias_is_not_changed_for_others(context: Context) -> None:
    text = """g (float[N,16] x, float[16,16] W, float[16] B, float[16,16] V)
        => (float[N,16] y) { a = Gemm(x, W, B) b = Relu(a) y = Gemm(b, V, B) }"""
    model = load_with_weights(text, *"WBV")
    for name in "WV":
        data = array_of(model, name).copy()
        data[:, 0] *= 12
        set_array(model, name, data)
    original = model.clone()
    quantize(model, context)
    graphs.apply(model, CorrectBias(), context)
    feed = feeds_of(original, 50)[0]
    assert (
        signal_to_noise_db(run_optimized(model, feed)[0], graphs.run(original, feed)[0]) > 20
    )


def test_without_quantization_before_it_there_is_nothing_to_do(context: Context) -> None:
    model = coarse_model("gemms")
    context.samples = Samples.from_feeds(feeds_of(model))
    result = graphs.apply(model, CorrectBias(), context)
    assert result.summary == "nothing was quantized statically"
    # What another run has quantized has no float model to compare with.
    quantize(model, context)
    context.artifacts.clear()
    assert not graphs.apply(model, CorrectBias(), context).modified


def test_left_alone_with_a_reason(context: Context) -> None:
    text = "g (float[N,M,16] x, float[16,24] W) => (float[N,M,24] y) { y = MatMul(x, W) }"
    model = load_with_weights(text, "W")
    quantize(model, context)
    assert not graphs.apply(model, CorrectBias(), context).modified
    assert reasons(context) == ["it has no bias"]


def test_bias_with_numbers_for_every_position_is_left_alone(context: Context) -> None:
    text = """g (float[N,4,16] x, float[16,24] W, float[4,24] P) => (float[N,4,24] y)
        { h = MatMul(x, W) y = Add(h, P) }"""
    model = load_with_weights(text, "W", "P")
    quantize(model, context, QuantizeStatic(exclude=("Add",)))
    assert not graphs.apply(model, CorrectBias(), context).modified
    assert reasons(context) == ["its bias is not one number a channel"]


def test_excluded(context: Context) -> None:
    model = coarse_model("gemms")
    quantize(model, context)
    assert not graphs.apply(model, CorrectBias(exclude=("Gemm",)), context).modified
    assert reasons(context) == ["excluded by 'Gemm'"] * 2


def test_outputs_that_come_no_closer_change_nothing(context: Context) -> None:
    # Weights that are integers already: nothing is shifted but by the rounding of the input.
    text = """g (float[N,2] x) => (float[N,2] y)
        <float[2,2] W = {127.0, 0.0, 0.0, 127.0}, float[2] B = {0.0, 0.0}>
        { y = Gemm(x, W, B) }"""
    model = graphs.load(text)
    grid = np.array([[0.0, 1.0], [1.0, 255.0]], np.float32)
    context.samples = Samples.from_feeds([{"x": grid}])
    QuantizeStatic().run(model, context)
    assert not graphs.apply(model, CorrectBias(), context).modified
    assert reasons(context) == ["the outputs come no closer"]


def test_second_run_changes_nothing(context: Context) -> None:
    model = coarse_model("mobile")
    quantize(model, context)
    graphs.apply(model, CorrectBias(), context)
    assert not graphs.apply(model, CorrectBias(), context).modified


def test_guard_that_objects_leaves_the_bias(context: Context) -> None:
    model = coarse_model("gemms")
    quantize(model, context)
    bias = array_of(model, "B_quantized").copy()
    context.guards.append(lambda _, entry: "no" if len(entry.weights_added) else "")
    assert not graphs.apply(model, CorrectBias(), context).modified
    np.testing.assert_array_equal(array_of(model, "B_quantized"), bias)


def test_means_stream() -> None:
    data = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
    whole, one, two = (ChannelMeans(1) for _ in range(3))
    whole.update(data)
    one.update(data[:2])
    two.update(data[2:])
    one.merge(two)
    one.merge(ChannelMeans(1))
    np.testing.assert_allclose(one.mean(), data.mean(axis=(0, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(one.mean(), whole.mean(), atol=1e-12)


def test_number_of_samples_must_make_sense() -> None:
    with pytest.raises(ValueError, match="samples must be 1"):
        CorrectBias(samples=0)

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.patch_gram import Geometry, patches
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from graphopt.passes.quantize.saturation import SAFE_LIMIT, PairSums, saturating_product
from quantized import array_of, load_with_weights, set_array, signal_to_noise_db

from graphopt.calibration.qparams import QParams
from graphopt.passbase import Context
from graphopt.samples import Samples

MLP = """g (float[N,32] x, float[32,32] A, float[32] B, float[16,32] C, float[16] D)
         => (float[N,16] y)
    { a = Gemm(x, A, B) b = Relu(a) y = Gemm <transB = 1> (b, C, D) }"""
CONVS = """g (float[N,4,8,8] x, float[6,4,3,3] W, float[6,1,3,3] D, float[6,3,1,1] V)
             => (float[N,6,6,6] y)
    { a = Conv <pads = [1,1,1,1]> (x, W) b = Relu(a) c = Conv <group = 6> (b, D)
      y = Conv <group = 2> (c, V) }"""
UNIT = QParams(np.array(1, np.float32), np.array(0, np.uint8))


def pmaddubsw(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Multiply one row with one column as the instruction is documented, lane by lane."""
    total = 0
    for k in range(0, len(x), 2):
        pair = sum(int(a) * int(b) for a, b in zip(x[k : k + 2], w[k : k + 2], strict=True))
        total += min(max(pair, -32768), 32767)
    return np.int32(total)


def test_product_is_that_of_the_instruction() -> None:
    rng = np.random.default_rng(0)
    for inner in (1, 2, 7, 8):
        x = rng.integers(0, 256, (5, inner)).astype(np.uint8)
        w = rng.integers(-128, 128, (inner, 4)).astype(np.int8)
        expected = [[pmaddubsw(row, column) for column in w.T] for row in x]
        np.testing.assert_array_equal(saturating_product(x, w), expected)


def test_product_does_not_saturate_with_seven_bits() -> None:
    x = np.full((1, 8), 255, np.uint8)
    for sign in (1, -1):
        w = np.full((8, 1), sign * SAFE_LIMIT, np.int8)
        assert saturating_product(x, w) == 255 * SAFE_LIMIT * 8 * sign
        # One more would.
        assert saturating_product(x, w + np.int8(sign)) != 255 * (SAFE_LIMIT + 1) * 8 * sign


def test_what_is_not_predicted_does_not_saturate() -> None:
    rng = np.random.default_rng(1)
    predicted = 0
    for seed in range(60):
        x = rng.integers(0, 60 + 4 * seed, (20, 9)).clip(0, 255).astype(np.uint8)
        w = rng.integers(-127, 128, (9, 5)).astype(np.int8)
        sums = PairSums(w[None], UNIT, None)
        sums.update(x.astype(np.float32))
        exact = np.array_equal(saturating_product(x, w), x.astype(np.int32) @ w)
        predicted += not exact
        assert exact or sums.saturated
    assert 0 < predicted < 60


def test_pairs_of_a_convolution_are_neighbouring_channels() -> None:
    x = np.zeros((1, 2, 1, 2), np.float32)
    w = np.zeros((1, 2, 1, 2), np.int8)  # [outputs, channels, kernel]
    x[0, :, 0, 1], w[0, :, 0, 1] = 255, 127
    geometry = Geometry((1, 2), (1, 1), (1, 1), (0, 0, 0, 0))
    for order, near in ((w.transpose(0, 2, 3, 1), 1), (w, 0)):
        sums = PairSums(order.reshape(1, -1, 1), UNIT, geometry)
        sums.update(x)
        assert sums.saturated == near


def test_counts_add_up() -> None:
    x = np.full((4, 4), 255, np.float32)
    w = np.full((1, 4, 3), 127, np.int8)
    whole, one, two = (PairSums(w, UNIT, None) for _ in range(3))
    whole.update(x)
    one.update(x[:1])
    two.update(x[1:])
    one.merge(two)
    assert one.saturated == whole.saturated == 4 * 2 * 3


def sure_model(text: str, weights: str, *saturating: str) -> ir.Model:
    """Return a model in which the neighbours of the weights named have one sign and size.

    Those of the other weights have opposite signs: their products cancel.
    """
    model = load_with_weights(text, *weights)
    for name in weights:
        data = np.abs(array_of(model, name))
        if name in saturating:
            data = np.ones_like(data)
        elif data.ndim > 1:
            axis = 0 if name == "A" else 1
            shape = [1] * data.ndim
            shape[axis] = -1
            data = data * (-1.0) ** np.arange(data.shape[axis]).reshape(shape)
        set_array(model, name, data.astype(np.float32))
    return model


def quantize(model: ir.Model, context: Context, pass_: QuantizeStatic):
    feeds = [graphs.random_feeds(model, seed) for seed in range(6)]
    context.samples = Samples.from_feeds([{k: np.abs(v) for k, v in f.items()} for f in feeds])
    return graphs.apply(model, pass_, context)


@pytest.mark.parametrize(
    ("text", "weights", "saturating"),
    [(MLP, "ABCD", "A"), (MLP, "ABCD", "C"), (CONVS, "WDV", "W"), (CONVS, "WDV", "V")],
)
def test_only_layers_that_saturate_get_seven_bits(
    text: str, weights: str, saturating: str, context: Context
) -> None:
    model = sure_model(text, weights, saturating)
    result = quantize(model, context, QuantizeStatic(portable=True))
    assert result.summary.endswith(", 1 with 7 bits")
    (count,) = result.details["saturating"].values()
    assert count > 0
    largest = {
        name: np.abs(array_of(model, f"{name}_quantized").astype(int)).max()
        for name in weights
        if array_of(model, f"{name}_quantized").dtype == np.int8
    }
    assert largest.pop(saturating) == SAFE_LIMIT
    assert set(largest.values()) == {127}


def test_protected_model_is_the_same_on_a_cpu_without_vnni(context: Context) -> None:
    text = "g (float[N,32] x, float[32,16] A) => (float[N,16] y) { y = MatMul(x, A) }"
    exact = {}
    for portable in (False, True):
        model = sure_model(text, "A", "A")
        original = sure_model(text, "A", "A")
        quantize(model, context, QuantizeStatic(portable=portable))
        feed = {"x": np.abs(graphs.random_feeds(model, 0)["x"])}
        scale, zero = array_of(model, "x_scale"), array_of(model, "x_zero_point")
        x = QParams(scale, zero).quantize(feed["x"])
        w = array_of(model, "A_quantized")
        exact[portable] = np.array_equal(
            saturating_product(x, w), x.astype(np.int32) @ w.astype(np.int32)
        )
        assert (
            signal_to_noise_db(graphs.run(model, feed)[0], graphs.run(original, feed)[0]) > 30
        )
    assert exact == {False: False, True: True}


def test_nothing_to_protect(context: Context) -> None:
    model = sure_model(MLP, "ABCD")
    result = quantize(model, context, QuantizeStatic(portable=True))
    assert result.details["saturating"] == {}
    plain = sure_model(MLP, "ABCD")
    quantize(plain, context, QuantizeStatic())
    assert graphs.text_of(model) == graphs.text_of(plain)


def test_scale_of_what_moves_integers_is_found(context: Context) -> None:
    text = """g (float[N,4,8,8] x, float[6,4,1,1] W, float[6,6,1,1] V) => (float[N,6,4,4] y)
        { a = Conv(x, W) b = Relu(a)
          c = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b) y = Conv(c, V) }"""
    model = sure_model(text, "WV", "V")
    result = quantize(model, context, QuantizeStatic(portable=True))
    assert result.summary.endswith(", 1 with 7 bits")


def test_pads_that_depend_on_the_size_are_left_out(context: Context) -> None:
    text = """g (float[N,4,8,8] x, float[6,4,3,3] W) => (float[N,6,8,8] y)
        { y = Conv <auto_pad = "SAME_UPPER"> (x, W) }"""
    model = sure_model(text, "W", "W")
    result = quantize(model, context, QuantizeStatic(portable=True))
    assert result.summary.endswith(", 1 with 7 bits")


def test_patches_in_the_order_of_the_kernel() -> None:
    x = np.arange(2 * 3 * 3, dtype=np.float32).reshape(1, 2, 3, 3)
    found = patches(x, Geometry((2, 2), (1, 1), (1, 1), (0, 0, 0, 0)))
    assert np.moveaxis(found, 1, -1)[0].reshape(-1).tolist() == [0, 9, 1, 10, 3, 12, 4, 13]

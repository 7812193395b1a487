from __future__ import annotations

import pathlib

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from graphopt.passes.quantize.read_qdq import ReadQdq
from graphopt.passes.quantize.trained import trained
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from quantized import array_of, load_with_weights, run_optimized
from quantized import signal_to_noise_db as snr

from graphopt.calibration.qparams import IntType
from graphopt.passbase import Context
from graphopt.runtime.fusion_check import check_fusion
from graphopt.samples import Samples

NET = """g (float[N,8,6,6] x, float[8,8,3,3] W, float[8] B, float[8,8,1,1] V, float[8,8,1,1] U,
            float[4,8] F, float[4] C) => (float[N,4] y)
    { a = Conv <pads = [1,1,1,1]> (x, W, B) b = Relu(a) c = Conv(b, V) d = Add(c, b)
      e = Relu(d) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (e) f = Conv(p, U)
      g = GlobalAveragePool(f) h = Flatten(g) y = Gemm <transB = 1> (h, F, C) }"""
TOKENS = """g (float[N,M,16] x, float[16,24] W, float[24] B, float[24,8] V) => (float[N,M,8] y)
    { a = MatMul(x, W) b = Add(a, B) c = Tanh(b) y = MatMul(c, V) }"""
NETS = {"net": (NET, "WBVUFC"), "tokens": (TOKENS, "WBV")}


class Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def feeds_of(model: ir.Model) -> list[dict[str, np.ndarray]]:
    return [graphs.random_feeds(model, seed) for seed in range(6)]


def strays(model: ir.Model, context: Context) -> int:
    report = check_fusion(context.runtime.optimized_nodes(model))
    return len(report.stranded) + len(report.unfused)


def apply(model: ir.Model, context: Context, *passes) -> ir.Model:
    for pass_ in passes:
        model = graphs.apply(model, pass_, context).model
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


SETTINGS = {
    "u8s8": {},
    "per channel": {"per_channel": True},
    "s8s8": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8},
    "u8u8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "symmetric": {
        "activation_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True},
    },
    "pairs of their own": {"extra_options": {"DedicatedQDQPair": True}},
    "rounded constants": {"extra_options": {"AddQDQPairToWeight": True}},
    "7 bits": {"reduce_range": True},
}


def foreign(
    name: str, folder: pathlib.Path, **settings
) -> tuple[ir.Model, ir.Model, list[dict[str, np.ndarray]]]:
    """Return a float model, the same quantized by onnxruntime, and the samples."""
    text, weights = NETS[name]
    original = load_with_weights(text, *weights, opset=17)
    feeds = feeds_of(original)
    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(ir.to_proto(original), source)
    defaults = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(
        source, target, Reader(feeds), quant_format=QuantFormat.QDQ, **(defaults | settings)
    )
    return original, ir.from_proto(onnx.load(target)), feeds


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of onnxruntime's own tools
def test_model_of_onnxruntime_is_placed_anew(
    name: str, setting: str, context: Context, tmp_path: pathlib.Path
) -> None:
    original, model, feeds = foreign(name, tmp_path, **SETTINGS[setting])
    context.samples = Samples.from_feeds(feeds)
    theirs = [graphs.run(model, feed)[0] for feed in feeds]
    apply(model, context, ReadQdq())
    # onnxruntime's tools let a Q take the place of a Relu.
    assert [op.replace("Clip", "Relu") for op in operators(model)] == operators(original)
    # Rounded weights, and activations as they are.
    real = np.stack([graphs.run(original, feed)[0] for feed in feeds])
    assert snr(np.stack([graphs.run(model, feed)[0] for feed in feeds]), real) > 28
    apply(model, context, QuantizeStatic())
    assert strays(model, context) == 0
    ours = np.stack([run_optimized(model, feed)[0] for feed in feeds])
    assert snr(ours, real) > snr(np.stack(theirs), real) - 1


def test_trained_scales_are_kept(context: Context) -> None:
    model = qat_model()
    before = [graphs.run(model, feed)[0] for feed in feeds_of(model)]
    weight, bias = array_of(model, "W8"), array_of(model, "B32")
    context.samples = Samples.from_feeds(feeds_of(model))
    apply(model, context, ReadQdq(), QuantizeStatic())
    np.testing.assert_array_equal(array_of(model, "w_quantized"), weight)
    np.testing.assert_array_equal(array_of(model, "c_quantized"), bias)
    assert array_of(model, "x_scale") == np.float32(0.03)
    assert array_of(model, "x_zero_point") == np.uint8(128 + 5)
    after = [graphs.run(model, feed)[0] for feed in feeds_of(model)]
    np.testing.assert_array_equal(np.stack(after), np.stack(before))


def qat_model(text: str = "") -> ir.Model:
    """Return a Conv with fake quantization as QAT exports it: int8, one scale a channel."""
    text = text or (
        """g (float[N,4,6,6] x) => (float[N,3,6,6] y)
        <float s = {0.03}, int8 z = {5}, float[3] t = {0.01, 0.02, 0.03}, int8[3] u = {0,0,0},
         float v = {0.1}, int8 o = {-7}, float[3] st = {0.0003, 0.0006, 0.0009}>
        { q = QuantizeLinear(x, s, z) xd = DequantizeLinear(q, s, z)
          w = DequantizeLinear <axis = 0> (W8, t, u) c = DequantizeLinear <axis = 0> (B32, st)
          a = Conv(xd, w, c) r = QuantizeLinear(a, v, o) y = DequantizeLinear(r, v, o) }"""
    )
    rng = np.random.default_rng(0)
    integers = rng.integers(-127, 128, (3, 4, 1, 1)).astype(np.int8)
    head = '<ir_version: 10, opset_import: ["" : 21]>\n'
    text = text.replace(
        "(float[N,4,6,6] x)", "(float[N,4,6,6] x, int8[3,4,1,1] W8, int32[3] B32)"
    )
    model = ir.from_proto(onnx.parser.parse_model(head + text))
    for name, data in (("W8", integers), ("B32", np.array([100, -200, 300], np.int32))):
        (value,) = [value for value in model.graph.inputs if value.name == name]
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(data, name=name)
        model.graph.register_initializer(value)
    graphs.check(model)
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    return ir.from_proto(proto)


RELU = """g (float[N,4,6,6] x) => (float[N,3,6,6] y)
    <float s = {0.03}, int8 z = {5}, float t = {0.01}, int8 u = {0}, float v = {0.1},
     float st = {0.0003}, float o = {0.05}>
    { q = QuantizeLinear(x, s, z) xd = DequantizeLinear(q, s, z)
      w = DequantizeLinear(W8, t, u) c = DequantizeLinear(B32, st) a = Conv(xd, w, c)
      aq = QuantizeLinear(a, v, u) ad = DequantizeLinear(aq, v, u) b = Relu(ad)
      r = QuantizeLinear(b, o, u) y = DequantizeLinear(r, o, u) }"""


def test_relu_between_pairs_is_absorbed(context: Context) -> None:
    model = qat_model(RELU)
    feeds = feeds_of(model)
    before = np.stack([graphs.run(model, feed)[0] for feed in feeds])
    context.samples = Samples.from_feeds(feeds)
    apply(model, context, ReadQdq())
    assert operators(model) == ["Conv", "Relu"]
    apply(model, context, QuantizeStatic())
    assert strays(model, context) == 0
    assert array_of(model, "y_zero_point") == 0
    # The positive half of the trained range, now with all the integers.
    assert array_of(model, "y_scale") == pytest.approx(0.05 * 127 / 255)
    after = np.stack([graphs.run(model, feed)[0] for feed in feeds])
    # One step of the Q that is gone, and half a step of the other.
    assert np.abs(after - before).max() <= 0.1 / 2 + 0.05


def test_integers_named_by_the_attribute_are_two_sided_and_stand_for_no_relu(
    context: Context,
) -> None:
    text = """g (float[N,4] x) => (float[N,4] y)
        <float[4,4] W = {1,-1,0,0, 0,1,-1,0, 0,0,1,-1, -1,0,0,1}, float s = {0.02}>
        { h = MatMul(x, W) q = QuantizeLinear<output_dtype = 3>(h, s)
          d = DequantizeLinear(q, s) y = Neg(d) }"""
    model = graphs.load(text)
    apply(model, context, ReadQdq())
    assert operators(model) == ["MatMul", "Neg"]
    assert trained(context).activations["h"].kind is IntType.INT8


def test_weight_in_float_may_have_a_q_without_zero_point(context: Context) -> None:
    text = """g (float[N,2] x) => (float[N,2] y) <float[2,2] W = {1, 2, 3, 4}, float s = {0.5}>
        { q = QuantizeLinear(W, s) w = DequantizeLinear(q, s) y = MatMul(x, w) }"""
    model = graphs.load(text)
    apply(model, context, ReadQdq())
    assert operators(model) == ["MatMul"]


def test_what_the_model_has_in_float_stays_in_float(context: Context) -> None:
    text = """g (float[N,4,6,6] x) => (float[N,3,6,6] y)
        <float s = {0.03}, int8 z = {5}, float t = {0.01}, int8 u = {0}, float st = {0.0003},
         float v = {0.1}, float[3,3,1,1] V = {1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,9.0}>
        { q = QuantizeLinear(x, s, z) xd = DequantizeLinear(q, s, z)
          w = DequantizeLinear(W8, t, u) c = DequantizeLinear(B32, st) a = Conv(xd, w, c)
          aq = QuantizeLinear(a, v, u) ad = DequantizeLinear(aq, v, u) y = Conv(ad, V) }"""
    model = qat_model(text)
    context.samples = Samples.from_feeds(feeds_of(model))
    apply(model, context, ReadQdq(), QuantizeStatic())
    assert "y = Conv (a, V)" in graphs.text_of(model).replace("a_dequantized", "a")
    reasons = [skip.reason for skip in context.ledger.skips]
    assert reasons == ["the model, which came quantized, has it in float"]


def test_weights_that_are_only_stored_as_integers_stay_so(context: Context) -> None:
    text = """g (float[N,4,6,6] x) => (float[N,3,6,6] y)
        <float t = {0.01}, int8 u = {0}, float st = {0.0003}>
        { w = DequantizeLinear(W8, t, u) c = DequantizeLinear(B32, st) y = Conv(x, w, c) }"""
    model = qat_model(text)
    assert not graphs.apply(model, ReadQdq(), context).modified


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, t, z)", "another scale"),
        ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, y0)", "another scale"),
        (
            "q = QuantizeLinear(x, s, z) r = Flatten(q) d = DequantizeLinear(r, s, z)",
            "Flatten",
        ),
        ("q = QuantizeLinear(x, e, z) d = DequantizeLinear(q, e, z)", "not constant"),
        ("q = QuantizeLinear(x, s, h) d = DequantizeLinear(q, s, h)", "are int16"),
        ("q = QuantizeLinear<output_dtype = 5>(x, s) d = DequantizeLinear(q, s)", "are int16"),
        (
            "q = QuantizeLinear (x, m, n) d = DequantizeLinear (q, m, n)",
            "more than one scale",
        ),
    ],
)
def test_pair_that_is_none_is_left_alone(nodes: str, reason: str, context: Context) -> None:
    text = f"""g (float[N,2] x, float e) => (float[N,2] y)
        <float s = {{0.1}}, float t = {{0.2}}, int8 z = {{3}}, int8 y0 = {{4}},
         int16 h = {{0}}, float[2] m = {{0.1, 0.2}}, int8[2] n = {{0, 0}}>
        {{ {nodes} y = Neg(d) }}"""
    graphs.assert_unchanged(ReadQdq(), text, context=context, reason=reason)


def test_integers_that_the_model_returns_are_left_alone(context: Context) -> None:
    text = """g (float[N,2] x) => (float[N,2] y, int8[N,2] q) <float s = {0.1}, int8 z = {3}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Neg(d) }"""
    graphs.assert_unchanged(ReadQdq(), text, context=context, reason="result of the model")


def test_second_run_and_a_model_without_integers(context: Context) -> None:
    model = qat_model()
    apply(model, context, ReadQdq())
    assert len(trained(context).activations) == 2
    assert not graphs.apply(model, ReadQdq(), context).modified
    # A second run that finds nothing takes nothing away.
    assert len(trained(context).weights) == 1


def test_guard_that_objects_keeps_a_pair(context: Context) -> None:
    context.guards.append(lambda _, entry: "no")
    assert not graphs.apply(qat_model(), ReadQdq(), context).modified

"""Forms and types of static quantization, on all the forms of operators."""

from __future__ import annotations

import graphs
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from quantized import array_of, load_with_weights, run_optimized
from quantized import signal_to_noise_db as snr
from test_quantize_static import FORMS, ONE_READER, quantize

from graphopt.passbase import Context, Target
from graphopt.runtime.fusion_check import check_fusion

SCHEMES = {
    "u8s8": QuantizeStatic(),
    "u8u8": QuantizeStatic(weights="uint8"),
    "symmetric": QuantizeStatic(symmetric=True),
    "one scale": QuantizeStatic(per_channel=False),
    "one scale, u8u8": QuantizeStatic(weights="uint8", per_channel=False),
}
S8S8 = {
    "s8s8": QuantizeStatic(activations="int8"),
    "s8s8 symmetric": QuantizeStatic(activations="int8", symmetric=True),
}


def strays(model: ir.Model, context: Context) -> tuple[object, ...]:
    report = check_fusion(context.runtime.optimized_nodes(model))
    return report.stranded + report.unfused


def check(name: str, pass_: QuantizeStatic, context: Context) -> ir.Model:
    """Quantize a form, and check that it is right and runs on integers."""
    text, weights, _ = FORMS[name]
    model = load_with_weights(text, *weights)
    feed = graphs.random_feeds(model, seed=3)
    original = graphs.run(model, feed)
    quantize(model, context, pass_)
    assert strays(model, context) == ()
    pairs = zip(graphs.run(model, feed), run_optimized(model, feed), original, strict=True)
    for emulated, fused, real in pairs:
        assert snr(emulated, real) > 20
        assert snr(fused, emulated) > 30
    return model


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(n, s) for n in FORMS for s in SCHEMES] + [(n, s) for n in ONE_READER for s in S8S8],
)
def test_no_operator_is_stranded(name: str, scheme: str, context: Context) -> None:
    model = check(name, (SCHEMES | S8S8)[scheme], context)
    if "u8u8" in scheme:
        kinds = {t.const_value.dtype for t in model.graph.initializers.values()}
        assert ir.DataType.INT8 not in kinds


def test_zero_points(context: Context) -> None:
    text = """g (float[N,8,6,6] x, float[8,8,1,1] W) => (float[N,8,6,6] y)
        { a = Conv(x, W) y = Relu(a) }"""
    found = {}
    for scheme, pass_ in (SCHEMES | S8S8).items():
        model = load_with_weights(text, "W")
        quantize(model, context, pass_)
        found[scheme] = [int(array_of(model, f"{n}_zero_point").flat[0]) for n in "xWy"]
    # Behind a Relu all integers are spent on one side, also where the rest is symmetric.
    assert found["symmetric"] == [128, 0, 0]
    assert found["u8u8"][1:] == [128, 0]
    assert found["s8s8 symmetric"] == [0, 0, -128]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "uint8", "activations": "int8"}, "no kernel"),
        ({"weights": "uint8", "portable": True}, "does not saturate"),
    ],
)
def test_schemes_without_a_sense_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeStatic(**options)


QOPERATORS = {
    "conv": {"QLinearConv": 1},
    "relu6": {"QLinearConv": 1},
    "residual": {"QLinearConv": 3, "QLinearAdd": 1},
    "pooling shares the scale": {"QLinearConv": 2, "MaxPool": 1},
    "classifier": {"QLinearConv": 1, "QLinearGlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    "silu": {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1},
    "branches that join": {"QLinearConv": 3, "QLinearConcat": 1},
    "perceptron": {"QGemm": 1, "Gemm": 1},
    "matmul returns float": {"MatMul": 1},
}


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", QOPERATORS)
def test_integer_operators_of_onnxruntime(
    name: str, activations: str, context: Context
) -> None:
    context.target = Target.ONNXRUNTIME
    text, weights, _ = FORMS[name]
    model, qdq = load_with_weights(text, *weights), load_with_weights(text, *weights)
    feed = graphs.random_feeds(model, seed=3)
    kinds = {"activations": activations}
    quantize(model, context, QuantizeStatic(form="qoperator", **kinds))
    quantize(qdq, context, QuantizeStatic(**kinds))
    found = {node.op_type for node in model.graph}
    found -= {"QuantizeLinear", "DequantizeLinear", "Constant"}
    counts = {op: sum(n.op_type == op for n in model.graph) for op in found}
    assert counts == QOPERATORS[name]
    for one, other in zip(graphs.run(model, feed), graphs.run(qdq, feed), strict=True):
        assert snr(one, other) > 35


@pytest.mark.parametrize("weights", ["int8", "uint8"])
def test_integer_operators_of_the_standard(weights: str, context: Context) -> None:
    text, names, _ = FORMS["residual"]
    model, qdq = load_with_weights(text, *names), load_with_weights(text, *names)
    feed = graphs.random_feeds(model, seed=3)
    quantize(model, context, QuantizeStatic(form="qoperator", weights=weights))
    quantize(qdq, context, QuantizeStatic(weights=weights))
    assert [node.op_type for node in model.graph] == [
        "QuantizeLinear", "QLinearConv", "DequantizeLinear", "QLinearConv", "DequantizeLinear",
        "Add", "QuantizeLinear", "QLinearConv", "DequantizeLinear",
    ]  # fmt: skip
    assert {node.domain for node in model.graph} == {""}
    for one, other in zip(graphs.run(model, feed), graphs.run(qdq, feed), strict=True):
        assert snr(one, other) > 35


def test_product_of_the_standard(context: Context) -> None:
    text = """g (float[N,M,32] x, float[32,32] W, float[32,16] V) => (float[N,M,16] y)
        { a = MatMul(x, W) b = Transpose <perm = [1,0,2]> (a)
          c = Transpose <perm = [1,0,2]> (b) y = MatMul(c, V) }"""
    model, original = load_with_weights(text, *"WV"), load_with_weights(text, *"WV")
    quantize(model, context, QuantizeStatic(form="qoperator"))
    assert [node.op_type for node in model.graph] == [
        "QuantizeLinear", "QLinearMatMul", "Transpose", "Transpose", "DequantizeLinear",
        "DequantizeLinear", "MatMul",
    ]  # fmt: skip
    graphs.check(model)
    feed = graphs.random_feeds(original, 5)
    assert snr(graphs.run(model, feed)[0], graphs.run(original, feed)[0]) > 25


def test_a_guard_may_keep_q_and_dq(context: Context) -> None:
    context.guards.append(lambda _, entry: "no" if "qoperator" in entry.rule else "")
    text, names, _ = FORMS["conv"]
    model = load_with_weights(text, *names)
    quantize(model, context, QuantizeStatic(form="qoperator"))
    assert "QLinearConv" not in {node.op_type for node in model.graph}

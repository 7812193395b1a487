from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.equalize_layers import EqualizeLayers
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from quantized import array_of, load_with_weights, set_array, signal_to_noise_db

from graphopt.ledger import Ledger
from graphopt.passbase import Context
from graphopt.samples import Samples

CONVS = """g (float[N,4,6,6] x, float[8,4,3,3] W, float[8] B, float[4,8,1,1] V)
             => (float[N,4,4,4] y)
    { a = Conv(x, W, B) b = Relu(a) y = Conv(b, V) }"""
MOBILE = """g (float[N,4,8,8] x, float[16,4,1,1] W, float[16] B, float[16,1,3,3] D,
               float[16] C, float[4,16,1,1] V) => (float[N,4,6,6] y)
    { a = Conv(x, W, B) b = Relu(a) c = Conv <group = 16> (b, D, C) d = Relu(c)
      y = Conv(d, V) }"""
MLP = """g (float[N,M,16] x, float[16,24] W, float[24] B, float[24,8] V) => (float[N,M,8] y)
    { a = MatMul(x, W) b = Add(a, B) c = Relu(b) y = MatMul(c, V) }"""
GEMM = """g (float[N,16] x, float[24,16] W, float[24] B, float[24,8] V, float[8] C)
             => (float[N,8] y)
    { a = Gemm <transB = 1> (x, W, B) c = Relu(a) y = Gemm(c, V, C) }"""
HEAD = """g (float[N,4,6,6] x, float[8,4,3,3] W, float[5,8] V) => (float[N,5] y)
    { a = Conv(x, W) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c)
      y = Gemm <transB = 1> (d, V) }"""
GROUPS = """g (float[N,4,6,6] x, float[8,4,1,1] W, float[6,4,3,3] V, float[5,8,1,1] U)
             => (float[N,6,4,4] y, float[N,5,6,6] z)
    { a = Conv(x, W) s = Constant <value_float = 0.25> () b = PRelu(a, s)
      y = Conv <group = 2> (b, V) z = Conv(b, U) }"""
FORMS = {
    "convs": (CONVS, "WBV", 1),
    "depthwise": (MOBILE, "WBDCV", 2),
    "products": (MLP, "WBV", 1),
    "gemms": (GEMM, "WBVC", 1),
    "classifier": (HEAD, "WV", 1),
    "groups and two readers": (GROUPS, "WVU", 1),
}


def spread(model: ir.Model, *names: str, seed: int = 1, decades: float = 2) -> ir.Model:
    """Give the output channels of weights very different sizes."""
    rng = np.random.default_rng(seed)
    for name in names:
        data = array_of(model, name).copy()
        axis = 1 if data.ndim == 2 and name == "W" and data.shape[0] == 16 else 0
        shape = [1] * data.ndim
        shape[axis] = -1
        factors = 10 ** rng.uniform(-decades, 0, data.shape[axis])
        set_array(model, name, (data * factors.reshape(shape)).astype(np.float32))
    return model


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


@pytest.mark.parametrize("name", FORMS)
def test_answers_stay_and_ranges_become_equal(name: str, context: Context) -> None:
    text, weights, pairs = FORMS[name]
    model = spread(load_with_weights(text, *weights), "W")
    original = spread(load_with_weights(text, *weights), "W")
    names = list(model.graph.initializers)
    graphs.apply(model, EqualizeLayers(), context)
    assert len(context.ledger.applications) == pairs
    assert list(model.graph.initializers) == names
    assert [n.op_type for n in model.graph] == [n.op_type for n in original.graph]
    graphs.assert_same_answers(model, original, rtol=4e-6)
    assert not graphs.apply(model, EqualizeLayers(), context).modified


def test_equation_11() -> None:
    model = spread(load_with_weights(CONVS, *"WBV"), "W")
    w, b, v = (array_of(model, name).copy() for name in "WBV")
    r1, r2 = np.abs(w).max(axis=(1, 2, 3)), np.abs(v).max(axis=(0, 2, 3))
    graphs.apply(model, EqualizeLayers())
    s = np.sqrt(r1 * r2) / r2
    np.testing.assert_allclose(array_of(model, "W"), w / s[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(array_of(model, "B"), b / s, rtol=1e-6)
    np.testing.assert_allclose(array_of(model, "V"), v * s[None, :, None, None], rtol=1e-6)
    found = np.abs(array_of(model, "W")).max(axis=(1, 2, 3))
    np.testing.assert_allclose(found, np.sqrt(r1 * r2), rtol=1e-6)


def test_chain_through_a_depthwise_layer_settles() -> None:
    model = spread(load_with_weights(MOBILE, *"WBDCV"), "W", "D")
    graphs.apply(model, EqualizeLayers())
    ranges = [np.abs(array_of(model, name)).max(axis=(1, 2, 3)) for name in "WD"]
    ranges.append(np.abs(array_of(model, "V")).max(axis=(0, 2, 3)))
    np.testing.assert_allclose(ranges[0], ranges[1], rtol=0.01)
    np.testing.assert_allclose(ranges[1], ranges[2], rtol=0.01)


@pytest.mark.parametrize(("per_channel", "gain"), [(False, 10), (True, 3)])
def test_eight_bits_lose_less_afterwards(
    per_channel: bool, gain: float, context: Context
) -> None:
    found = []
    for equalize in (False, True):
        model = spread(load_with_weights(MOBILE, *"WBDCV"), "W", "D")
        for name in "BC":
            set_array(model, name, array_of(model, name) * np.float32(1e-3))
        feed = graphs.random_feeds(model, 99)
        real = graphs.run(model, feed)[0]
        if equalize:
            graphs.apply(model, EqualizeLayers())
        feeds = [graphs.random_feeds(model, seed) for seed in range(8)]
        context.samples = Samples.from_feeds(feeds)
        QuantizeStatic(per_channel=per_channel).run(model, context)
        found.append(signal_to_noise_db(graphs.run(model, feed)[0], real))
    assert found[1] > found[0] + gain


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        (CONVS, "BV", "not constant"),
        (
            CONVS.replace("=> (float[N,4,4,4] y)", "=> (float[N,4,4,4] y, float[8,4,3,3] W)"),
            "WBV",
            "another operator uses its weight",
        ),
        (
            CONVS.replace("=> (float[N,4,4,4] y)", "=> (float[N,4,4,4] y, float[4,8,1,1] V)"),
            "WBV",
            "another operator uses the weight of a layer behind it",
        ),
        (CONVS.replace("[N,4,4,4] y", "[N,4,4,4] y, float[N,8,4,4] b"), "WBV", "graph output"),
        (CONVS.replace("Relu", "Tanh"), "WBV", "Tanh behind it does not commute"),
        (CONVS.replace("Relu(a)", "Clip(a)"), "WBV", "a Clip behind it has bounds"),
        (
            CONVS.replace("[N,4,4,4] y", "[N,4,4,4] y, float[N,8,4,4] z").replace(
                "y = C", "z = Neg(b) y = C"
            ),
            "WBV",
            "used by several operators",
        ),
        (CONVS.replace("Relu(a)", "Mul(B0, a)"), "WBV", "Mul reads its result"),
        (
            """g (float[N,4,4,4] x, float[4,4,1,1] W, float[4,4] V) => (float[N,4,4,4] y)
            { a = Conv(x, W) y = MatMul(a, V) }""",
            "WV",
            "does not read its channels as channels",
        ),
        (
            """g (float[N,4,4,4] x, float[8,4,3,3] W, float[5,32] V) => (float[N,5] y)
            { a = Conv(x, W) d = Flatten(a) y = Gemm <transB = 1> (d, V) }""",
            "WV",
            "Flatten behind it does not commute",
        ),
    ],
)
def test_left_alone_with_a_reason(
    text: str, weights: str, reason: str, context: Context
) -> None:
    if "B0" in text:
        text = text.replace("B0", "c").replace(
            "a = Conv", "c = Constant <value_float = 2.0> () a = Conv"
        )
    model = spread(load_with_weights(text, *weights), *("W" * ("W" in weights)))
    assert not graphs.apply(model, EqualizeLayers(), context).modified
    assert any(reason in found for found in reasons(context)), reasons(context)


def test_excluded_and_equal_already(context: Context) -> None:
    model = spread(load_with_weights(CONVS, *"WBV"), "W")
    assert not graphs.apply(model, EqualizeLayers(exclude=("Conv",)), context).modified
    assert reasons(context)[0] == "excluded by 'Conv'"
    huge = EqualizeLayers(min_factor=1e6)
    assert not graphs.apply(model, huge, context).modified
    assert "its channels are equal already" in reasons(context)
    with pytest.raises(ValueError, match="min-factor"):
        EqualizeLayers(min_factor=1)


def test_channels_of_zeros_keep_their_scale(context: Context) -> None:
    model = spread(load_with_weights(CONVS, *"WBV"), "W")
    weight = array_of(model, "W").copy()
    weight[3] = 0
    set_array(model, "W", weight)
    bias = array_of(model, "B")[3]
    graphs.apply(model, EqualizeLayers(), context)
    assert array_of(model, "B")[3] == bias


def test_shared_bias_is_not_changed_for_others(context: Context) -> None:
    text = """g (float[N,4,6,6] x, float[8,4,1,1] W, float[8] B, float[8,8,1,1] V)
        => (float[N,8,6,6] y) { a = Conv(x, W, B) b = Relu(a) y = Conv(b, V, B) }"""
    model = spread(load_with_weights(text, *"WBV"), "W")
    original = spread(load_with_weights(text, *"WBV"), "W")
    graphs.apply(model, EqualizeLayers(), context)
    graphs.assert_same_answers(model, original, rtol=4e-6)
    np.testing.assert_array_equal(array_of(model, "B"), array_of(original, "B"))


def test_weights_in_constant_nodes(context: Context) -> None:
    def numbers(count: int) -> str:
        return ", ".join(
            str(float((7 * i) % 11 - 5) * (1 + 9 * (i < 16))) for i in range(count)
        )

    text = f"""g (float[N,4] x) => (float[N,4] y)
        {{ W = Constant <value = float[8,4] {{{numbers(32)}}}> ()
           V = Constant <value = float[8,8] {{{numbers(64)}}}> ()
           U = Constant <value = float[8,4] {{{numbers(32)}}}> ()
           a = Gemm <transB = 1> (x, W) b = Relu(a) c = Gemm(b, V) d = Relu(c)
           y = Gemm(d, U) }}"""
    model, original = graphs.load(text), graphs.load(text)
    graphs.apply(model, EqualizeLayers(), context)
    assert len(context.ledger.applications) == 2
    graphs.assert_same_answers(model, original, rtol=4e-6)


def test_any_number_of_applications_gives_the_same_answers() -> None:
    original = spread(load_with_weights(MOBILE, *"WBDCV"), "W", "D")
    for limit in (0, 1):
        model = spread(load_with_weights(MOBILE, *"WBDCV"), "W", "D")
        graphs.apply(model, EqualizeLayers(), Context(ledger=Ledger(limit=limit)))
        graphs.assert_same_answers(model, original, rtol=4e-6)

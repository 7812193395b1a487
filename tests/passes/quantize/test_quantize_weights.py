from __future__ import annotations

import pathlib

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.quantize_weights import QuantizeWeights
from quantized import (
    array_of,
    load_with_weights,
    optimized_operators,
    run_optimized,
    set_array,
    signal_to_noise_db,
)

from graphopt.ledger import Ledger
from graphopt.passbase import Context, Target

PRODUCT = "g (float[N,M,64] x, float[64,16] W) => (float[N,M,16] y) { y = MatMul(x, W) }"
ORT = Target.ONNXRUNTIME


def quantize(model: ir.Model, pass_: QuantizeWeights | None = None, **context) -> Context:
    made = Context(**context)
    (pass_ or QuantizeWeights()).run(model, made)
    if made.target is Target.STANDARD:
        graphs.check(model)
    return made


def reasons(context: Context) -> list[str]:
    return [skip.reason for skip in context.ledger.skips]


def expected(weight: np.ndarray, block: int, limit: int) -> np.ndarray:
    """Return the weight as it comes back from integers, block by block."""
    out = np.empty_like(weight)
    for start in range(0, len(weight), block):
        part = weight[start : start + block]
        scale = np.abs(part).max(axis=0) / limit
        out[start : start + block] = np.rint(part / scale) * scale
    return out


@pytest.mark.parametrize(("bits", "limit", "decibels"), [(8, 127, 40), (4, 7, 18)])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_blocks_in_standard_operators(
    bits: int, limit: int, decibels: float, block: int, tmp_path: pathlib.Path
) -> None:
    model = load_with_weights(PRODUCT, "W")
    weight = array_of(model, "W")
    feed = graphs.random_feeds(model)
    real = graphs.run(model, feed)[0]
    quantize(model, QuantizeWeights(bits=bits, block_size=block))
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul"]
    assert "W" not in model.graph.initializers
    assert array_of(model, "W_scale").shape == (64 // block, 16)
    assert str(model.graph.initializers["W_quantized"].dtype) == f"INT{bits}"
    found = graphs.run(model, feed)[0]
    np.testing.assert_allclose(found, feed["x"] @ expected(weight, block, limit), atol=1e-4)
    assert optimized_operators(model, tmp_path) == {"MatMulNBits": 1}
    assert signal_to_noise_db(run_optimized(model, feed)[0], real) > decibels


@pytest.mark.parametrize("bits", [8, 4])
def test_operator_of_onnxruntime(bits: int, tmp_path: pathlib.Path) -> None:
    standard, special = load_with_weights(PRODUCT, "W"), load_with_weights(PRODUCT, "W")
    feed = graphs.random_feeds(standard)
    quantize(standard, QuantizeWeights(bits=bits))
    quantize(special, QuantizeWeights(bits=bits), target=ORT)
    assert [node.op_type for node in special.graph] == ["MatMulNBits"]
    assert special.opset_imports["com.microsoft"] == 1
    one, other = run_optimized(standard, feed)[0], run_optimized(special, feed)[0]
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_before_blocks_a_column_has_one_scale(tmp_path: pathlib.Path) -> None:
    model = load_with_weights(PRODUCT, "W", opset=20)
    weight = array_of(model, "W")
    quantize(model)
    assert array_of(model, "W_scale").shape == (16,)
    feed = graphs.random_feeds(model)
    found = graphs.run(model, feed)[0]
    np.testing.assert_allclose(found, feed["x"] @ expected(weight, 64, 127), atol=1e-4)
    assert optimized_operators(model, tmp_path) == {"MatMulNBits": 1}


def test_gemm_and_transposed_weights(tmp_path: pathlib.Path) -> None:
    text = """g (float[N,64] x, float[16,64] A, float[16] B, float[32,16] C) => (float[N,32] z)
        { y = Gemm <transB = 1> (x, A, B) c = Transpose(C) z = MatMul(y, c) }"""
    model = load_with_weights(text, *"ABC")
    feed = graphs.random_feeds(model)
    real = graphs.run(model, feed)[0]
    quantize(model, QuantizeWeights(block_size=16))
    assert sorted(model.graph.initializers) == [
        "A_quantized", "A_scale", "B", "C_quantized", "C_scale",
    ]  # fmt: skip
    assert "Transpose" not in [node.op_type for node in model.graph]
    assert signal_to_noise_db(graphs.run(model, feed)[0], real) > 40
    assert optimized_operators(model, tmp_path)["MatMulNBits"] == 2


def test_block_of_zeros() -> None:
    model = load_with_weights(PRODUCT, "W")
    weight = array_of(model, "W").copy()
    weight[:32] = 0
    set_array(model, "W", weight)
    quantize(model)
    assert np.all(array_of(model, "W_scale")[0] == 1)
    assert np.all(array_of(model, "W_quantized")[:32] == 0)


def test_weight_inside_a_branch() -> None:
    model = load_with_weights(
        """g (bool c, float[N,32] x, float[32,32] W) => (float[N,32] y) { y = If (c) <
            then_branch = t () => (float[N,32] u) { u = MatMul(x, W) },
            else_branch = e () => (float[N,32] v) { v = Neg(x) }> }""",
        "W",
    )
    context = quantize(model)
    assert len(context.ledger.applications) == 1
    assert "W" not in model.graph.initializers


@pytest.mark.parametrize(
    ("text", "options", "more", "reason"),
    [
        (PRODUCT, {"exclude": ("MatMul",)}, {}, "excluded by"),
        (PRODUCT, {"block_size": 128}, {}, "64 rows are no multiple of 128"),
        (
            "g (float[N,64] x, float[64,16] W) => (float[N,16] y)"
            "{ y = Gemm <alpha = 2.0> (x, W) }",
            {},
            {},
            "its alpha is 2",
        ),
        (
            "g (float[N,64] x, float[64,16] W) => (float[N,16] y) { y = Gemm(x, W) }",
            {},
            {"target": ORT},
            "neither alpha nor beta",
        ),
        (
            "g (float[N,32] x, float[32,32] W) => (float[N,32] z)"
            "{ y = MatMul(x, W) z = MatMul(y, W) }",
            {},
            {},
            "another operator uses",
        ),
        (
            "g (float[N,32] x, float[32] W) => (float[N] y) { y = MatMul(x, W) }",
            {},
            {},
            "its weight has 1 axes",
        ),
    ],
)
def test_left_alone_with_a_reason(text: str, options, more, reason: str) -> None:
    model = load_with_weights(text, "W")
    before = graphs.text_of(model)
    context = quantize(model, QuantizeWeights(**options), **more)
    assert graphs.text_of(model) == before
    assert all(reason in found for found in reasons(context))
    assert reasons(context)


@pytest.mark.parametrize(("bits", "opset"), [(8, 12), (4, 20)])
def test_old_opset_is_left_alone(bits: int, opset: int) -> None:
    model = load_with_weights(PRODUCT, "W", opset=opset)
    context = quantize(model, QuantizeWeights(bits=bits))
    assert f"int{bits} weights need opset" in reasons(context)[0]
    assert "W" in model.graph.initializers


@pytest.mark.parametrize("size", [0, 8, 33])
def test_block_size_that_no_kernel_takes_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="power of two from 16"):
        QuantizeWeights(block_size=size)


def test_limit_and_second_run() -> None:
    model = load_with_weights(PRODUCT, "W")
    assert not QuantizeWeights().run(model, Context(ledger=Ledger(limit=0))).modified
    assert QuantizeWeights().run(model, Context()).modified
    assert not QuantizeWeights().run(model, Context()).modified

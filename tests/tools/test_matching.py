"""Which tensors of the original are still the same tensors in the result."""

import networks
import onnx_ir as ir
import pytest

from graphopt import pipeline
from graphopt.debug.layers import match_names
from graphopt.manager import PassManager
from graphopt.passbase import Context

DISTANT = """g (float[2, 6, 8] x) => (float[2, 2, 6, 4] y)
    <float[8, 8] w, float[8] b, int64[4] shape = {2, 6, 2, 4}, float[1] half = {0.5}>
    { m = MatMul(x, w)
      a = Add(m, b)
      r = Reshape(a, shape)
      t = Transpose<perm = [0, 2, 1, 3]>(r)
      s = Mul(t, half)
      y = Relu(s) }"""
NEAR = """g (float[2, 8] x) => (float[2, 8] y) <float[8, 8] w, float[1] half = {0.5}>
    { i = Relu(x)
      k = Identity(i)
      m = MatMul(k, w)
      s = Mul(m, half)
      y = Relu(s) }"""


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        # The factor is in all that comes after the layer: m, a, r and t are other tensors now.
        (DISTANT, {"s": "t", "y": "y"}),
        (NEAR, {"i": "i", "k": "i", "s": "s", "y": "y"}),
    ],
    ids=["distant", "near"],
)
def test_a_tensor_that_holds_other_data_is_not_matched(text: str, matched: dict) -> None:
    original = networks.network(text)
    context = Context()
    passes = pipeline.parse("infer-shapes,[fuse-scale,eliminate-identity]")

    with context.closing():
        result, _ = PassManager(passes).run(original.clone(), context)

    assert "Mul" not in {node.op_type for node in result.graph}
    assert match_names(original, result, context.ledger) == matched
    assert isinstance(result, ir.Model)

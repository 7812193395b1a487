"""FuseAttention and FuseRotaryEmbedding of float16."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from attention_graphs import Spelling
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.passes.fuse.fuse_rotary_embedding import FuseRotaryEmbedding
from graphopt.passes.simplify.eliminate_dead_code import EliminateDeadCode
from graphs import apply, load, random_feeds, run
from onnx import numpy_helper

from graphopt.passbase import Context, Target
from graphopt.rewrite import Fixpoint

RTOL = 5e-3
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def half(text: str, opset: int = 23) -> ir.Model:
    """Return the model of a graph in ONNX text, float16 for float32 throughout."""
    proto = ir.to_proto(load(text, opset))
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = HALF
    for node in proto.graph.node:
        for attr in node.attribute:
            if node.op_type == "Cast" and attr.i == FLOAT:
                attr.i = HALF
    for tensor in proto.graph.initializer:
        data = numpy_helper.to_array(tensor)
        if tensor.data_type == FLOAT:
            finite = np.clip(data, -65504, 65504)
            narrow = np.where(np.isfinite(data), finite, data).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, True, True))


def fuse(text: str, emit: Target) -> tuple[list[str], list[str]]:
    """Return operators and refusals, after holding the answers to the original's."""
    model, original = half(text), half(text)
    context = Context()
    apply(model, Fixpoint((FuseAttention(emit), EliminateDeadCode())), context)
    feeds = random_feeds(original)
    for blind in (False, True):
        if "m" in feeds:
            feeds["m"][..., :1, :] = blind
        for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
            assert one.dtype == np.float16
            scale = np.nanmax(np.abs(other))
            np.testing.assert_allclose(one, other, rtol=0, atol=RTOL * scale)
    return [node.op_type for node in model.graph], [s.reason for s in context.ledger.skips]


@pytest.mark.parametrize(
    ("emit", "operator"),
    [(Target.STANDARD, "Attention"), (Target.ONNXRUNTIME, "MultiHeadAttention")],
)
@pytest.mark.parametrize("split", ["plain", "packed_split", "packed_gather"])
def test_without_a_mask(split: str, emit: Target, operator: str) -> None:
    operators, _ = fuse(Spelling("mul", split=split).text(), emit)
    assert operators[-1] == operator
    assert "Softmax" not in operators


@pytest.mark.parametrize("mask", ["guarded", "guarded_by_mask", "where_kept"])
def test_rows_without_a_key_that_get_0(mask: str) -> None:
    operators, _ = fuse(Spelling("div", mask).text(), Target.STANDARD)
    assert operators[-2:] == ["Where", "Attention"]


def test_shared_keys() -> None:
    operators, _ = fuse(Spelling("queries", group=2).text(), Target.STANDARD)
    assert operators == ["Attention"]


@pytest.mark.parametrize("mask", ["padding", "causal"])
def test_low_masks_need_the_operator_that_adds_in_float32(mask: str) -> None:
    text = Spelling("mul", mask).text()
    operators, reasons = fuse(text, Target.STANDARD)
    assert "Softmax" in operators
    assert any("keeps nothing" in reason for reason in reasons)
    operators, _ = fuse(text, Target.ONNXRUNTIME)
    assert "MultiHeadAttention" in operators


def test_a_mask_by_which_each_query_sees_a_key() -> None:
    text = Spelling("mul", "table").text()
    numbers = text.partition("table = {")[2].partition("}")[0].split(", ")
    numbers = ["-1e9" if i % 4 == 1 else one for i, one in enumerate(numbers)]
    old = text.partition("table = {")[2].partition("}")[0]
    operators, _ = fuse(text.replace(old, ", ".join(numbers)), Target.STANDARD)
    assert operators[-1] == "Attention"


@pytest.mark.parametrize("low", ["-inf", "-1e9", "-5e3"])
def test_a_mask_that_was_made_in_another_type(low: str) -> None:
    # onnxruntime computes with -1e9, which float16 cannot hold, without the Cast.
    text = Spelling("mul", "guarded").text()
    text = text.replace("bool never = {0}", f"double low = {{{low}}}, double nil = {{0}}")
    wide = "wide = Where(m, nil, low) f = Cast <to = 1> (wide)"
    operators, _ = fuse(text.replace("f = Where(m, zero, infinite)", wide), Target.STANDARD)
    assert (operators[-1] == "Attention") == (low == "-inf")


def test_scores_that_are_replaced_by_the_lowest_number() -> None:
    # In float16 it is no number beyond all others.
    for emit in Target:
        operators, reasons = fuse(Spelling("mul", "where").text(), emit)
        assert "Softmax" in operators
        assert any("not beyond all others" in reason for reason in reasons)


def test_rotation() -> None:
    text = """g (float[B, 3, S, 4] x, float[1, S, 2] c, float[1, S, 2] s)
        => (float[B, 3, S, 4] z) <int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2},
        int64[1] i3 = {3}, int64[1] i4 = {4}>
        { low = Slice(x, i0, i2, i3) high = Slice(x, i2, i4, i3)
          cos = Unsqueeze(c, i1) sin = Unsqueeze(s, i1)
          a = Mul(low, cos) b = Mul(high, sin) d = Mul(low, sin) e = Mul(high, cos)
          f = Sub(a, b) h = Add(d, e) z = Concat <axis = -1> (f, h) }"""
    model, original = half(text), half(text)
    apply(model, Fixpoint((FuseRotaryEmbedding(), EliminateDeadCode())))
    assert "RotaryEmbedding" in [node.op_type for node in model.graph]
    feeds = random_feeds(original)
    np.testing.assert_allclose(run(model, feeds)[0], run(original, feeds)[0], atol=RTOL)

import numpy as np
import onnx_ir as ir
import pytest
from generated import generate
from graphopt.passes.prune.compact_dead_channels import CompactDeadChannels
from graphs import apply, random_feeds, run, text_of
from networks import groups_of, network

from graphopt.ledger import Ledger
from graphopt.passbase import Context

CONV = """g (float[N, 3, 6, 6] x) => (float[N, 4, P, Q] y)
    <float[8, 3, 3, 3] w, float[8] b, float[8] s, float[8] o, float[8] m, float[8] var,
     float[4, 8, 1, 1] v, float[4] c>
    { h = Conv(x, w, b)
      n = BatchNormalization(h, s, o, m, var)
      r = Relu(n)
      y = Conv(r, v, c) }"""
DENSE = """g (float[N, 5] x) => (float[N, 3] y) <float[5, 8] w, float[8] b, float[8, 3] v>
    { h = MatMul(x, w)
      a = Add(h, b)
      t = Tanh(a)
      y = MatMul(t, v) }"""
GEMM = """g (float[N, 5] x) => (float[N, 3] y)
    <float[8, 5] w, float[8] b, float[3, 8] v, float[3] c>
    { h = Gemm<transB = 1>(x, w, b)
      s = Sigmoid(h)
      y = Gemm<transB = 1, alpha = 0.5>(s, v, c) }"""


def edited(text, opset=21, **slices):
    """Return the network with parts of weights replaced: name -> (index, values)."""
    model = network(text, opset)
    for name, changes in slices.items():
        value = model.graph.initializers[name]
        data = value.const_value.numpy().copy()
        for where, what in changes:
            data[where] = what
        value.const_value = ir.tensor(data, name=name)
    return model


def copy_of(model):
    return ir.from_proto(ir.to_proto(model))


def assert_removes(model, shapes, context, rtol=2e-6, **options):
    """Assert the answers stay and weights have these shapes; return the model."""
    original = copy_of(model)
    result = apply(model, CompactDeadChannels(**options), context)
    assert result.modified
    found = {v.name: tuple(v.shape.numpy()) for v in model.graph.initializers.values()}
    assert {name: found[name] for name in shapes} == shapes
    feeds = random_feeds(original)
    for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(other).max())
    assert not apply(model, CompactDeadChannels(**options), context).modified
    return model


def assert_keeps(model, context, **options):
    before = text_of(model)
    assert not apply(model, CompactDeadChannels(**options), context).modified
    assert text_of(model) == before


def test_channels_that_no_weight_reads_go(context):
    model = edited(CONV, v=[(np.s_[:, [1, 6]], 0)])
    assert_removes(model, {"w": (6, 3, 3, 3), "var": (6,), "v": (4, 6, 1, 1)}, context)


def test_channels_that_are_not_used_go(context):
    text = """g (float[N, 5] x) => (float[N, 3] y) <float[5, 8] w, int64[2] parts = {5, 3},
                float[5, 3] v>
              { h = MatMul(x, w)
                a, b = Split<axis = 1>(h, parts)
                y = MatMul(a, v) }"""
    model = network(text)
    result = apply(model, CompactDeadChannels(), context)
    assert result.modified
    # One of them stays: an axis is not cut to nothing.
    assert tuple(model.graph.initializers["w"].shape.numpy()) == (5, 6)
    feeds = random_feeds(model)
    np.testing.assert_allclose(run(model, feeds)[0], run(network(text), feeds)[0], rtol=1e-5)


def test_channels_that_are_zero_go_through_any_padding(context):
    text = CONV.replace("Conv(r, v, c)", "Conv<pads = [1, 1, 1, 1]>(r, v, c)").replace(
        "float[4, 8, 1, 1]", "float[4, 8, 3, 3]"
    )
    model = edited(text, w=[(2, 0)], b=[(2, 0)], o=[(2, 0)], m=[(2, 0)])
    assert_removes(model, {"w": (7, 3, 3, 3), "v": (4, 7, 3, 3)}, context)


def test_a_constant_channel_goes_into_the_bias_of_conv(context):
    model = edited(CONV, w=[(2, 0)], b=[(2, 0.7)], o=[(2, 5)])
    assert_removes(model, {"w": (7, 3, 3, 3), "v": (4, 7, 1, 1), "c_g1": (4,)}, context)


def test_a_constant_channel_stays_at_a_padded_conv(context):
    text = CONV.replace("Conv(r, v, c)", "Conv<pads = [1, 1, 1, 1]>(r, v, c)")
    assert_keeps(edited(text, w=[(2, 0)], b=[(2, 0.7)], o=[(2, 5)]), context)
    same = CONV.replace("Conv(r, v, c)", 'Conv<auto_pad = "SAME_UPPER">(r, v, c)')
    assert_keeps(edited(same, w=[(2, 0)], b=[(2, 0.7)], o=[(2, 5)]), context)


def test_a_constant_channel_becomes_the_bias_of_a_conv_without(context):
    text = CONV.replace("Conv(r, v, c)", "Conv(r, v)").replace(", float[4] c", "")
    model = edited(text, w=[([2, 3], 0)], b=[([2, 3], 0.7)], o=[([2, 3], 5)])
    model = assert_removes(model, {"w": (6, 3, 3, 3)}, context)
    assert len(list(model.graph)[-1].inputs) == 3


def test_a_constant_channel_is_added_behind_matmul(context):
    model = edited(DENSE, w=[(np.s_[:, 3], 0)], b=[(3, 0.4)])
    model = assert_removes(model, {"w": (5, 7), "v": (7, 3)}, context)
    assert [node.op_type for node in model.graph] == ["MatMul", "Add", "Tanh", "MatMul", "Add"]
    assert model.graph.outputs[0].name == "y"


def test_a_constant_channel_goes_into_the_bias_of_gemm(context):
    model = edited(GEMM, w=[(3, 0)])
    assert_removes(model, {"w": (7, 5), "v": (3, 7)}, context)


def test_gemm_with_a_factor_on_its_bias_is_left_alone(context):
    text = GEMM.replace("alpha = 0.5", "alpha = 0.5, beta = 2.0")
    assert_keeps(edited(text, w=[(3, 0)]), context)


def test_a_gate_of_zero_makes_zero(context):
    text = """g (float[N, 5] x) => (float[N, 3] y)
              <float[5, 8] w, float[5, 8] u, float[8, 3] v>
              { h = MatMul(x, w)
                k = MatMul(x, u)
                g = Relu(k)
                m = Mul(h, g)
                y = MatMul(m, v) }"""
    model = edited(text, u=[(np.s_[:, 2], 0)])
    assert_removes(model, {"w": (5, 7), "u": (5, 7), "v": (7, 3)}, context)


def test_a_constant_goes_through_pools_and_flatten(context):
    text = """g (float[N, 3, 4, 4] x) => (float[N, 2] y)
              <float[6, 3, 1, 1] w, float[6] b, float[2, 24] v, float[2] c>
              { h = Conv(x, w, b)
                p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(h)
                f = Flatten(p)
                y = Gemm<transB = 1>(f, v, c) }"""
    model = edited(text, w=[(4, 0)])
    assert_removes(model, {"w": (5, 3, 1, 1), "v": (2, 20)}, context)


def test_a_constant_is_not_followed_through_padding(context):
    text = """g (float[N, 3, 4, 4] x) => (float[N, 2, P, Q] y)
              <float[6, 3, 1, 1] w, float[6] b, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1},
               float[2, 6, 1, 1] v>
              { h = Conv(x, w, b)
                p = Pad(h, pads)
                y = Conv(p, v) }"""
    assert_keeps(edited(text, w=[(4, 0)]), context)


def test_copies_are_read_by_the_weights_of_all(context):
    model = edited(DENSE)
    data = {n: model.graph.initializers[n].const_value.numpy().copy() for n in "wb"}
    for first, second in ((1, 4), (1, 6), (0, 7)):
        data["w"][:, second], data["b"][second] = data["w"][:, first], data["b"][first]
    for name in "wb":
        model.graph.initializers[name].const_value = ir.tensor(data[name], name=name)
    keeps = copy_of(model)

    assert_removes(model, {"w": (5, 5), "b": (5,), "v": (5, 3)}, context)
    assert_keeps(keeps, context, copies=False)


def test_channels_that_differ_in_one_scale_are_no_copies(context):
    model = edited(CONV)
    for name in ("w", "b", "o", "m", "var"):
        data = model.graph.initializers[name].const_value.numpy().copy()
        data[5] = data[2]
        model.graph.initializers[name].const_value = ir.tensor(data, name=name)
    assert_keeps(model, context)


def test_one_channel_stays_when_all_are_dead(context):
    model = edited(DENSE, v=[(np.s_[:], 0)])
    assert_removes(model, {"w": (5, 1), "v": (1, 3)}, context, rtol=0)


def test_what_dies_with_a_removed_channel_goes_in_the_next_round(context):
    text = """g (float[N, 5] x) => (float[N, 3] y)
              <float[5, 8] w, float[8, 7] u, float[7, 3] v>
              { h = MatMul(x, w)
                k = MatMul(h, u)
                y = MatMul(k, v) }"""
    # Channel 2 of h is read by channel 6 of k alone, which nothing reads.
    model = edited(text, u=[(np.s_[2, :6], 0)], v=[(6, 0)])
    assert_removes(model, {"w": (5, 7), "u": (7, 6), "v": (6, 3)}, context)


def test_a_tied_matrix_is_not_changed(context):
    text = """g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w, float[4, 4] u>
              { h = MatMul(x, u)
                k = MatMul(h, w)
                y = MatMul(k, w) }"""
    model = edited(text, w=[(2, 0)])
    assert_keeps(model, context)


@pytest.mark.parametrize(
    "text",
    [
        """g (float[N, L, 12] x) => (float[N, 5] y)
           <float[1, 15, 12] w, float[1, 15, 5] r, int64[1] z = {0}, float[5, 5] v>
           { t = Transpose<perm = [1, 0, 2]>(x)
             a, h = GRU<hidden_size = 5>(t, w, r)
             q = Squeeze(h, z)
             y = MatMul(q, v) }""",
        """g (float[N, L, 12] x) => (float[N, L, 5] y)
           <float[12, 12] wq, float[12, 12] wk, float[12, 12] wv, int64[4] s = {0, 0, 3, 4},
            int64[3] t = {0, 0, 12}, float[12, 5] v>
           { q = MatMul(x, wq)  k = MatMul(x, wk)  u = MatMul(x, wv)
             q4 = Reshape(q, s)  k4 = Reshape(k, s)  u4 = Reshape(u, s)
             qh = Transpose<perm = [0, 2, 1, 3]>(q4)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
             uh = Transpose<perm = [0, 2, 1, 3]>(u4)
             scores = MatMul(qh, kh)  p = Softmax(scores)  o = MatMul(p, uh)
             ot = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(ot, t)  y = MatMul(f, v) }""",
    ],
    ids=["recurrent_units", "heads"],
)
def test_what_is_combined_is_left_alone(text, context):
    # Everything but the input layer is zero.
    model = edited(text, v=[(np.s_[:], 0)])
    assert_keeps(model, context)


def test_statistics_need_all_channels(context):
    text = """g (float[N, 5] x) => (float[N, 3] y)
              <float[5, 8] w, float[8] s, float[8, 3] v>
              { h = MatMul(x, w)
                n = LayerNormalization(h, s)
                y = MatMul(n, v) }"""
    assert_keeps(edited(text, v=[(2, 0)]), context)


def test_a_living_network_is_left_alone(context):
    for text in (CONV, DENSE, GEMM):
        assert_keeps(network(text), context)


def test_the_limit_is_respected(runtime):
    model = edited(DENSE, w=[(np.s_[:, 3], 0)], b=[(3, 0.4)])
    before = text_of(model)
    context = Context(ledger=Ledger(limit=0))
    context.share(runtime)
    CompactDeadChannels().run(model, context)
    assert text_of(model) == before


@pytest.mark.parametrize("chunk", range(8))
def test_generated_networks_keep_their_answers(chunk, context):
    changed = 0
    for seed in range(20 * chunk, 20 * chunk + 20):
        model = generate(seed)
        rng = np.random.default_rng(seed)
        for group in groups_of(model).groups:
            # Zero some weights, and copy some indices over others.
            for member in group.members:
                value = model.graph.initializers[member.site.name]
                data = value.const_value.numpy().copy()
                rows = np.moveaxis(data, member.axis, 0)
                kind = rng.integers(4)
                if kind == 0:
                    rows[member.index == 0] = 0
                value.const_value = ir.tensor(data, name=value.name)
            if group.size > 2 and rng.random() < 0.5:
                for member in group.members:
                    value = model.graph.initializers[member.site.name]
                    data = value.const_value.numpy().copy()
                    rows = np.moveaxis(data, member.axis, 0)
                    one, two = (np.nonzero(member.index == i)[0] for i in (1, 2))
                    if len(one) == len(two):
                        rows[two] = rows[one]
                    value.const_value = ir.tensor(data, name=value.name)
        original = copy_of(model)
        changed += apply(model, CompactDeadChannels(), context).modified
        feeds = random_feeds(original, seed)
        for a, b in zip(run(model, feeds), run(original, feeds), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(np.abs(b).max(), 1e-30))
    assert changed > 4

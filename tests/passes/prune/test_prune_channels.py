import json

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.prune.plan import Plan
from graphopt.passes.prune.prune_channels import PruneChannels
from graphs import apply, assert_same_bits, random_feeds, run, text_of
from networks import assert_masked_equals_cut, groups_of, masked, network, sizes

from graphopt.errors import PipelineError
from graphopt.ledger import Ledger
from graphopt.passbase import Context

NET = """g (float[N, 1, 6, 6] x) => (float[N, 10] y)
    <float[32, 1, 3, 3] w1, float[32] b1, float[64, 32, 3, 3] w2, float[64] b2,
     int64[2] s = {-1, 2304}, float[128, 2304] w3, float[128] b3,
     float[10, 128] w4, float[10] b4>
    { c1 = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
      c2 = Conv<pads = [1, 1, 1, 1]>(c1, w2, b2)
      r = Reshape(c2, s)
      l1 = Gemm<transB = 1>(r, w3, b3)
      y = Gemm<transB = 1>(l1, w4, b4) }"""
"""Conv -> Conv -> view -> Linear -> Linear, as the older exporter of PyTorch writes it."""

NET_SHAPES = """g (float[N, 1, 6, 6] x) => (float[N, 10] y)
    <float[8, 1, 3, 3] w1, float[8] b1, float[16, 8, 3, 3] w2, float[16] b2,
     int64[1] minus = {-1}, int64[1] width = {576}, int64[1] zero = {0}, int64[1] one = {1},
     int64[1] four = {4}, float[32, 576] w3, float[32] b3, float[10, 32] w4, float[10] b4>
    { c1 = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
      r1 = Relu(c1)
      c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2, b2)
      shape = Shape(c2)
      batch = Slice(shape, zero, one)
      rest = Slice(shape, one, four)
      flat = ReduceProd<axes = [0]>(rest)
      s = Concat<axis = 0>(batch, flat)
      r = Reshape(c2, s)
      l1 = Gemm<transB = 1>(r, w3, b3)
      y = Gemm<transB = 1>(l1, w4, b4) }"""
"""The same with a target that is computed from the shape, as ``flatten`` is written."""


def shapes(model):
    return {v.name: tuple(v.shape.numpy()) for v in model.graph.initializers.values()}


def test_the_whole_network_is_cut_through_the_reshape():
    model = network(NET)

    result = apply(model, PruneChannels(ratio=0.5))

    found = shapes(model)
    assert found["w1"] == (16, 1, 3, 3)
    assert found["w2"] == (32, 16, 3, 3)
    assert found["w3"] == (64, 1152)
    assert found["w4"] == (10, 64)
    assert found["b4"] == (10,)
    (reshape,) = [node for node in model.graph if node.op_type == "Reshape"]
    assert reshape.inputs[1].const_value.numpy().tolist() == [-1, 1152]
    assert run(model, random_feeds(model))[0].shape == (2, 10)
    assert "cut 3 of 4 groups" in result.summary
    assert result.details["parameters_after"] < 0.26 * result.details["parameters"]


def test_a_target_computed_from_the_shape_needs_no_edit():
    model = network(NET_SHAPES, opset=13)

    apply(model, PruneChannels(ratio=0.5))

    assert shapes(model)["w3"] == (16, 288)
    (reshape,) = [node for node in model.graph if node.op_type == "Reshape"]
    assert reshape.inputs[1].name == "s"
    assert run(model, random_feeds(model))[0].shape == (2, 10)


@pytest.mark.parametrize("text", [NET, NET_SHAPES], ids=["constant", "computed"])
def test_cut_equals_masked(text):
    def make():
        return network(text, opset=13)

    available = sizes(groups_of(make()))
    assert set(available) == {"w1:0", "w2:0", "w3:0"}
    rng = np.random.default_rng(0)
    removed = {
        name: sorted(rng.choice(size, size // 3, replace=False).tolist())
        for name, size in available.items()
    }
    assert_masked_equals_cut(make, removed)


def test_what_goes_is_least_important():
    text = """g (float[N, 3] x) => (float[N, 2] y) <float[3, 8] w, float[8, 2] v>
              { h = MatMul(x, w)
                r = Relu(h)
                y = MatMul(r, v) }"""
    model = network(text)
    small = [1, 4, 6]
    for name, axis in (("w", 1), ("v", 0)):
        data = model.graph.initializers[name].const_value.numpy().copy()
        np.moveaxis(data, axis, 0)[small] *= 1e-3
        model.graph.initializers[name].const_value = ir.tensor(data, name=name)

    for criterion in ("l1", "l2", "batchnorm"):
        plan = apply(ir.from_proto(ir.to_proto(model)), PruneChannels(0.375, criterion))
        (entry,) = [g for g in plan.details["plan"]["groups"] if g["removed"]]
        assert list(entry["removed"]) == small


def test_geometric_median_removes_what_others_can_stand_in_for():
    text = """g (float[N, 3] x) => (float[N, 2] y) <float[3, 8] w, float[8, 2] v>
              { h = MatMul(x, w)
                y = MatMul(h, v) }"""
    model = network(text)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 8)).astype(np.float32) * 5
    v = rng.standard_normal((8, 2)).astype(np.float32) * 5
    # Three of the same in the middle of the others.
    w[:, [2, 5, 7]], v[[2, 5, 7]] = w.mean(axis=1, keepdims=True), v.mean(axis=0)
    model.graph.initializers["w"].const_value = ir.tensor(w, name="w")
    model.graph.initializers["v"].const_value = ir.tensor(v, name="v")

    result = apply(model, PruneChannels(ratio=0.375, criterion="geometric-median"))

    (entry,) = [g for g in result.details["plan"]["groups"] if g["removed"]]
    assert list(entry["removed"]) == [2, 5, 7]


def test_batchnorm_scale_decides():
    text = """g (float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] y)
              <float[8, 2, 1, 1] w, float[8] scale, float[8] b, float[8] mean, float[8] var,
               float[3, 8, 1, 1] v>
              { h = Conv(x, w)
                n = BatchNormalization(h, scale, b, mean, var)
                r = Relu(n)
                y = Conv(r, v) }"""
    model = network(text)
    scale = np.array([1, 2, 0.1, 3, -0.2, 4, 5, 6], np.float32)
    model.graph.initializers["scale"].const_value = ir.tensor(scale, name="scale")

    result = apply(model, PruneChannels(0.25, "batchnorm", multiple_of=2))

    (entry,) = [g for g in result.details["plan"]["groups"] if g["removed"]]
    assert list(entry["removed"]) == [2, 4]
    assert shapes(model)["var"] == (6,)


def test_random_depends_on_the_seed_alone():
    plans = [
        PruneChannels(0.5, "random").run(network(NET), Context(seed=seed)).details["plan"]
        for seed in (1, 1, 2)
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_ratio_zero_keeps_every_byte():
    model = network(NET)
    before = ir.to_proto(model).SerializeToString(deterministic=True)

    assert not apply(model, PruneChannels(ratio=0.0)).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("size", "ratio", "options", "kept"),
    [
        (64, 0.3, {}, 48),
        (32, 0.3, {}, 24),
        (24, 0.5, {}, 12),
        (6, 0.5, {}, 3),
        (64, 0.3, {"multiple_of": 1}, 45),
        (64, 0.9, {"minimum": 20}, 20),
        (64, 0.5, {"multiple_of": 24}, 24),
        (64, 0.9, {"multiple_of": 24}, 24),
        (64, 0.02, {"multiple_of": 40}, 64),
        (8, 0.5, {"multiple_of": 16}, 8),
        (16, 0.9, {"multiple_of": 16}, 16),
        (40, 0.9, {"multiple_of": 8, "minimum": 9}, 16),
    ],
)
def test_counts_of_conv_are_rounded_to_what_the_kernels_like(size, ratio, options, kept):
    text = f"""g (float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] y)
               <float[{size}, 2, 1, 1] w, float[3, {size}, 1, 1] v>
               {{ h = Conv(x, w)
                  y = Conv(h, v) }}"""
    model = network(text)
    apply(model, PruneChannels(ratio=ratio, **options))
    assert shapes(model)["w"][0] == kept


def test_a_group_without_a_multiple_to_keep_says_so():
    text = """g (float[N, 2] x) => (float[N, 3] y) <float[2, 12] w, float[12, 3] v>
              { h = MatMul(x, w)
                y = MatMul(h, v) }"""
    plan = (
        PruneChannels(ratio=0.5, multiple_of=16).run(network(text), Context()).details["plan"]
    )
    (group,) = [one for one in plan["groups"] if one["name"] == "w:1"]
    assert group["reason"] == "its 12 indices leave no multiple of 16 to keep"


def test_matmul_counts_are_not_rounded():
    text = """g (float[N, 2] x) => (float[N, 3] y) <float[2, 50] w, float[50, 3] v>
              { h = MatMul(x, w)
                y = MatMul(h, v) }"""
    model = network(text)
    apply(model, PruneChannels(ratio=0.3))
    assert shapes(model)["w"] == (2, 35)


@pytest.mark.parametrize(
    ("options", "cut"),
    [
        ({"include": ("Gemm*",)}, {"w2:0", "w3:0"}),
        ({"include": ("Gemm",), "exclude": ("Conv",)}, {"w3:0"}),
        ({"exclude": ("w2",)}, {"w3:0"}),
        ({"minimum": 32}, {"w2:0", "w3:0"}),
    ],
)
def test_patterns_and_the_minimum_choose_groups(options, cut):
    model, context = network(NET), Context()

    apply(model, PruneChannels(ratio=0.5, **options), context)

    assert {entry.anchor for entry in context.ledger.applied()} == cut
    left = {skip.anchor for skip in context.ledger.skips}
    assert left == {"w1:0", "w2:0", "w3:0", "w4:0"} - cut
    assert all(skip.reason for skip in context.ledger.skips)


def test_the_reason_names_the_interface():
    context = Context()
    apply(network(NET), PruneChannels(ratio=0.5), context)
    assert [(skip.anchor, skip.reason) for skip in context.ledger.skips] == [
        ("w4:0", "graph output 'y'")
    ]


def test_an_operator_without_a_rule_is_named_and_leaves_its_neighbours_whole():
    text = """g (float[N, 4] x) => (float[N, 3] y) <float[4, 6] w, float[6, 3] v>
              { h = MatMul(x, w)
                s = Det2(h)
                y = MatMul(s, v) }"""
    import onnx

    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "some.domain": 1]>'
        + text.replace("Det2", "some.domain.Det2")
    )
    rng = np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        data = rng.standard_normal(dims).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data, info.name))
    del proto.graph.value_info[:]
    model, context = ir.from_proto(proto), Context()

    assert not PruneChannels(ratio=0.5).run(model, context).modified

    reasons = [skip.reason for skip in context.ledger.skips]
    assert any("Det2" in reason and "no rule" in reason for reason in reasons)


def test_a_limit_makes_the_first_groups_of_an_unlimited_run():
    full, context = network(NET), Context()
    PruneChannels(ratio=0.5).run(full, context)
    limited, few = network(NET), Context(ledger=Ledger(limit=2))
    PruneChannels(ratio=0.5).run(limited, few)

    assert [a.note for a in few.ledger.applications] == [
        a.note for a in context.ledger.applications[:2]
    ]
    assert shapes(limited)["w2"] == shapes(full)["w2"]
    assert shapes(limited)["w3"] == (128, 1152)
    run(limited, random_feeds(limited))


def test_a_guard_that_objects_leaves_that_group_whole():
    model = network(NET)
    before = text_of(model)
    context = Context(guards=[lambda model, entry: "no" if entry.anchor == "w2:0" else ""])

    apply(model, PruneChannels(ratio=0.5), context)

    assert shapes(model)["w2"] == (64, 16, 3, 3)
    assert shapes(model)["w3"] == (64, 2304)
    assert [entry.undone for entry in context.ledger.applications] == ["", "no", ""]
    run(model, random_feeds(model))
    objecting = Context(guards=[lambda model, entry: "no"])
    again = network(NET)
    assert not apply(again, PruneChannels(ratio=0.5), objecting).modified
    assert text_of(again) == before


def test_a_plan_round_trips_and_replays(tmp_path):
    first = network(NET)
    result = PruneChannels(ratio=0.5, criterion="l1").run(first, Context())
    path = tmp_path / "plan.json"
    plan = Plan.from_json(result.details["plan"])
    plan.save(path)

    assert Plan.load(path) == plan
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    second = network(NET)
    PruneChannels(plan=str(path)).run(second, Context())
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


def test_an_edited_plan_is_what_is_done(tmp_path):
    plan = PruneChannels(ratio=0.5).run(network(NET), Context()).details["plan"]
    for group in plan["groups"]:
        group["removed"] = [0, 7] if group["name"] == "w3:0" else []
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    model = network(NET)

    apply(model, PruneChannels(plan=str(path)))

    zeroed = masked(network(NET), {"w3:0": [0, 7]})
    feeds = random_feeds(model)
    np.testing.assert_allclose(run(model, feeds)[0], run(zeroed, feeds)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "w2:1"}, "no group 'w2:1'.*Did you mean 'w2:0'"),
        ({"size": 63}, "has 64 indices in the model and 63 in the plan"),
        ({"removed": [64]}, "0 to 63"),
        ({"removed": list(range(64))}, "all of its indices"),
        ({"removed": "x"}, "not a group"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(tmp_path, change, message):
    plan = PruneChannels(ratio=0.5).run(network(NET), Context()).details["plan"]
    next(group for group in plan["groups"] if group["name"] == "w2:0").update(change)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    model = network(NET)
    before = text_of(model)

    with pytest.raises(PipelineError, match=message):
        PruneChannels(plan=str(path)).run(model, Context())
    assert text_of(model) == before


def test_a_plan_cannot_cut_what_is_needed(tmp_path):
    plan = PruneChannels(ratio=0.5).run(network(NET), Context()).details["plan"]
    next(g for g in plan["groups"] if g["name"] == "w4:0").update(removed=[1])
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    with pytest.raises(PipelineError, match="graph output 'y'"):
        PruneChannels(plan=str(path)).run(network(NET), Context())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "x"}'])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PipelineError, match="plan"):
        PruneChannels(plan=str(path)).run(network(NET), Context())
    with pytest.raises(PipelineError, match="cannot be read"):
        PruneChannels(plan=str(tmp_path / "none.json")).run(network(NET), Context())


def test_an_equal_bias_that_two_layers_share_is_cut_by_each():
    text = """g (float[N, 4] x) => (float[N, 3] y)
              <float[6, 4] w, float[6] b, float[6, 6] u, float[3, 6] v>
              { h = Gemm<transB = 1>(x, w, b)
                i = Gemm<transB = 1>(h, u, b)
                y = Gemm<transB = 1>(i, v) }"""

    def make():
        return network(text)

    assert set(sizes(groups_of(make()))) == {"w:0", "u:0"}
    assert_masked_equals_cut(make, {"w:0": [1, 2], "u:0": [5]})
    smaller = assert_masked_equals_cut(make, {"w:0": [1, 2], "u:0": [1, 2]})
    assert [n for n in smaller.graph.initializers if n.startswith("b")] == ["b", "b_g1"]
    assert set(sizes(groups_of(make(), untie=False))) == {"w:0"}
    assert_masked_equals_cut(make, {"w:0": [1, 2]}, untie=False)


def test_a_shared_matrix_stays_shared():
    text = """g (float[N, 6] x) => (float[N, 3] y)
              <float[6, 6] w, float[6, 3] v, float[6, 6] u>
              { a = MatMul(x, u)
                h = MatMul(a, w)
                i = MatMul(h, w)
                y = MatMul(i, v) }"""

    def make():
        return network(text)

    smaller = assert_masked_equals_cut(make, {"u:1": [0, 5]})
    assert shapes(smaller)["w"] == (4, 4)


def test_a_residual_connection_couples_its_branches():
    text = """g (float[N, 3, 5, 5] x) => (float[N, 4] y)
              <float[16, 3, 3, 3] w1, float[16, 16, 3, 3] w2, float[16] s, float[16] b,
               float[16] m, float[16] var, float[16, 16, 1, 1] w3, float[4, 16] v>
              { a = Conv<pads = [1, 1, 1, 1]>(x, w1)
                c = Conv<pads = [1, 1, 1, 1]>(a, w2)
                n = BatchNormalization(c, s, b, m, var)
                d = Relu(n)
                e = Conv(d, w3)
                f = Add(e, a)
                p = GlobalAveragePool(f)
                q = Flatten(p)
                y = Gemm<transB = 1>(q, v) }"""

    def make():
        return network(text)

    assert sizes(groups_of(make())) == {"w1:0": 16, "w2:0": 16}
    smaller = assert_masked_equals_cut(make, {"w1:0": [0, 3, 9], "w2:0": [1, 2]})
    assert shapes(smaller)["w3"] == (13, 14, 1, 1)
    assert shapes(smaller)["v"] == (4, 13)


def test_weights_of_constant_nodes_are_cut():
    text = """g (float[N, 2] x) => (float[N, 2] y)
              { w = Constant<value = float[2, 3] {1.0, 4.0, 3.0, 2.0, 5.0, 6.0}>()
                v = Constant<value = float[3, 2] {1.0, 4.0, 3.0, 2.0, 5.0, 6.0}>()
                h = MatMul(x, w)
                y = MatMul(h, v) }"""
    smaller = assert_masked_equals_cut(lambda: network(text), {"w:1": [1]})
    assert [node.op_type for node in smaller.graph] == ["MatMul", "MatMul"]


def test_the_interface_stays():
    model, original = network(NET), network(NET)
    apply(model, PruneChannels(ratio=0.5))
    for ours, theirs in (
        (model.graph.inputs, original.graph.inputs),
        (model.graph.outputs, original.graph.outputs),
    ):
        assert [(v.name, v.shape, v.type) for v in ours] == [
            (v.name, v.shape, v.type) for v in theirs
        ]


def test_the_same_model_gives_the_same_bytes():
    results = []
    for _ in range(2):
        model = network(NET)
        PruneChannels(ratio=0.5).run(model, Context())
        results.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert results[0] == results[1]


def test_recorded_shapes_follow():
    model = network(NET)
    c2 = next(node for node in model.graph if node.name == "Conv_1").outputs[0]
    c2.type, c2.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", 64, 6, 6])
    apply(model, PruneChannels(ratio=0.5))
    assert list(c2.shape) == [ir.SymbolicDim("N"), 32, 6, 6]


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"minimum": 0}, {"multiple_of": -1}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="must be at least"):
        PruneChannels(**options)


def test_a_second_run_with_ratio_zero_is_identical():
    model = network(NET)
    apply(model, PruneChannels(ratio=0.5))
    feeds = random_feeds(model)
    before = run(model, feeds)
    assert not apply(model, PruneChannels(ratio=0.0)).modified
    assert_same_bits(run(model, feeds), before)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(option):
    model = network(NET)
    before = text_of(model)
    with pytest.raises(PipelineError, match=f"{option} 'w22' matches no.* Nearest: 'w2'"):
        PruneChannels(ratio=0.5, **{option: ("w1", "w22")}).run(model, Context())
    assert text_of(model) == before

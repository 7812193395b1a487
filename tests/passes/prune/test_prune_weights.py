import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphopt.passes.prune.prune_weights import PruneWeights
from graphs import apply, random_feeds, run
from networks import network

from graphopt import model_io
from graphopt.errors import PipelineError
from graphopt.model_io.tensors import SparseTensor
from graphopt.passbase import Context
from graphopt.samples import Samples

TWO = """g (float[N, 8] x) => (float[N, 6] y)
         <float[8, 12] w, float[12] b, float[6, 12] v>
         { h = MatMul(x, w)
           i = Add(h, b)
           j = Relu(i)
           y = Gemm<transB = 1>(j, v) }"""


def weights(model):
    return {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}


def zeros(array):
    return float((array == 0).mean())


def test_the_smallest_elements_of_every_layer_become_zero():
    model, original = network(TWO), weights(network(TWO))

    result = apply(model, PruneWeights(sparsity=0.5))

    after = weights(model)
    for name in ("w", "v"):
        removed = after[name] == 0
        assert removed.mean() == 0.5
        assert np.abs(original[name][removed]).max() < np.abs(original[name][~removed]).min()
        np.testing.assert_array_equal(after[name][~removed], original[name][~removed])
    np.testing.assert_array_equal(after["b"], original["b"])
    assert "latency does not change" in result.summary
    assert not apply(model, PruneWeights(sparsity=0.5)).modified


def test_zero_sparsity_changes_nothing():
    assert not apply(network(TWO), PruneWeights(sparsity=0.0)).modified


def test_global_scope_shares_one_threshold():
    model = network(TWO)
    model.graph.initializers["v"].const_value = ir.tensor(weights(model)["v"] * 100, name="v")

    apply(model, PruneWeights(sparsity=0.5, scope="global"))

    after = weights(model)
    assert zeros(after["v"]) < 0.1
    total = after["w"].size + after["v"].size
    assert (after["w"] == 0).sum() + (after["v"] == 0).sum() == total // 2


@pytest.mark.parametrize(
    ("name", "transposed"), [("w", True), ("v", False)], ids=["MatMul", "Gemm_transB"]
)
def test_two_of_four_along_the_inputs(name, transposed):
    model = network(TWO)

    apply(model, PruneWeights(pattern="2:4"))

    data = weights(model)[name]
    rows = data.T if transposed else data
    groups = (rows != 0).reshape(rows.shape[0], -1, 4).sum(axis=2)
    assert (groups == 2).all()


def test_blocks_of_outputs_by_inputs():
    model = network(TWO)

    apply(model, PruneWeights(pattern="2x4", sparsity=0.5))

    blocks = (weights(model)["w"].T != 0).reshape(6, 2, 2, 4).sum(axis=(1, 3))
    assert sorted(np.unique(blocks)) == [0, 8]
    assert (blocks == 0).mean() == 0.5


@pytest.mark.parametrize(
    ("options", "pruned"),
    [
        ({"include": ("MatMul*",)}, {"w"}),
        ({"include": ("v",)}, {"v"}),
        ({"exclude": ("Gemm",)}, {"w"}),
        ({"exclude": ("*",)}, set()),
    ],
)
def test_patterns_choose_by_node_operator_or_weight(options, pruned):
    model = network(TWO)
    context = Context()

    apply(model, PruneWeights(**options), context)

    assert {name for name, data in weights(model).items() if zeros(data) > 0.4} == pruned
    assert len(context.ledger.skips) == 2 - len(pruned)


def test_a_weight_with_nan_is_left_alone():
    model = network(TWO)
    broken = weights(model)["w"].copy()
    broken[0, 0] = np.nan
    model.graph.initializers["w"].const_value = ir.tensor(broken, name="w")
    context = Context()

    PruneWeights().run(model, context)

    assert zeros(weights(model)["w"]) == 0
    assert [skip.reason for skip in context.ledger.skips] == [
        "it has elements that are not finite"
    ]


def test_an_overridable_weight_is_not_a_constant():
    text = """g (float[N, 4] x, float[4, 4] w) => (float[N, 4] y)
              <float[4, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>
              { y = MatMul(x, w) }"""
    assert not apply(network(text), PruneWeights()).modified


def test_a_constant_node_is_a_weight_too():
    text = """g (float[N, 2] x) => (float[N, 2] y)
              { w = Constant<value = float[2, 2] {1.0, 4.0, 3.0, 2.0}>()
                y = MatMul(x, w) }"""
    model = network(text)

    assert apply(model, PruneWeights()).modified

    (value,) = model.graph.initializers.values()
    assert value.const_value.numpy().tolist() == [[0, 4], [3, 0]]
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_a_shared_weight_is_pruned_once_for_all_its_uses():
    text = """g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w>
              { h = MatMul(x, w)
                y = MatMul(h, w) }"""
    model, context = network(text), Context()

    apply(model, PruneWeights(), context)

    assert len(context.ledger) == 1
    assert zeros(weights(model)["w"]) == 0.5


def test_sparse_storage_is_smaller_and_gives_the_same_answers(context, tmp_path):
    text = """g (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w>
              { y = MatMul(x, w) }"""
    dense, sparse = network(text), network(text)
    PruneWeights(sparsity=0.9, storage="dense").run(dense, context)
    result = PruneWeights(sparsity=0.9).run(sparse, context)

    assert result.details["stored_sparse"] == 1
    assert isinstance(sparse.graph.initializers["w"].const_value, SparseTensor)
    model_io.save(dense, tmp_path / "dense.onnx")
    model_io.save(sparse, tmp_path / "sparse.onnx")
    proto = onnx.load(tmp_path / "sparse.onnx")
    # The shape inference of a full check knows no sparse constants (onnx 1.23).
    onnx.checker.check_model(proto)
    assert len(proto.graph.sparse_initializer) == 1
    # 12 bytes for each of 10 % of the elements, against 4 for all.
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("sparse", "dense")]
    assert sizes[0] < 0.35 * sizes[1]
    feeds = random_feeds(dense)
    session = ort.InferenceSession(tmp_path / "sparse.onnx")
    np.testing.assert_array_equal(session.run(None, feeds)[0], run(dense, feeds)[0])
    assert not PruneWeights(sparsity=0.9).run(sparse, context).modified


def test_dense_storage_is_kept_where_sparse_is_larger(context):
    model = network(TWO)
    result = PruneWeights(sparsity=0.6).run(model, context)
    assert result.details["stored_sparse"] == 0
    assert result.details["size_bytes"] == result.details["size_bytes_after"]


def test_the_limit_cuts_after_the_first_weight():
    from graphopt.ledger import Ledger

    model = network(TWO)
    PruneWeights().run(model, Context(ledger=Ledger(limit=1)))
    assert [zeros(weights(model)[name]) for name in ("w", "v")] == [0.5, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "below 1"),
        ({"sparsity": -0.1}, "at least 0"),
        ({"pattern": "2-4"}, "neither"),
        ({"pattern": "4:2"}, "nothing or everything"),
        ({"pattern": "0:4"}, "nothing or everything"),
        ({"pattern": "2:4", "scope": "global"}, "by itself"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PruneWeights(**options)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(option):
    with pytest.raises(PipelineError, match=f"{option} 'MatMull' matches no.*'MatMul'"):
        PruneWeights(0.5, **{option: ("MatMull",)}).run(network(TWO), Context())


TRANSPOSED = """g (float[N, 8] x) => (float[N, 6] y) <float[12, 8] w, float[6, 12] v>
                { t = Transpose<perm = [1, 0]>(w)
                  h = MatMul(x, t)
                  i = Relu(h)
                  u = Transpose(v)
                  y = MatMul(i, u) }"""
"""As exporters leave linear layers."""


def plain():
    """The same network, with the weights as the multiplications read them."""
    text = """g (float[N, 8] x) => (float[N, 6] y) <float[8, 12] w, float[12, 6] v>
              { h = MatMul(x, w)
                i = Relu(h)
                y = MatMul(i, v) }"""
    model = network(text)
    for name, data in weights(network(TRANSPOSED)).items():
        model.graph.initializers[name].const_value = ir.tensor(data.T.copy(), name=name)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scope": "global"},
        {"pattern": "2:4"},
        {"pattern": "2x4"},
        {"method": "wanda"},
        {"method": "wanda", "pattern": "2:4"},
        {"method": "sparsegpt"},
        {"method": "sparsegpt", "pattern": "2:4"},
        {"storage": "auto", "sparsity": 0.9},
    ],
    ids=str,
)
def test_a_weight_behind_a_transpose_is_pruned_as_if_it_were_not(options, runtime):
    model, other = network(TRANSPOSED), plain()
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(16, 8)).astype(np.float32)} for _ in range(3)]
    samples = Samples.from_feeds(lambda: iter(feeds))
    for each in (model, other):
        context = Context(samples=samples)
        context.share(runtime)
        assert PruneWeights(**options).run(each, context).modified
    for name, data in weights(other).items():
        assert zeros(data) >= 0.4
        np.testing.assert_array_equal(weights(model)[name], data.T)


@pytest.mark.parametrize("pattern", ["head", "MatMul"])
def test_a_pattern_matches_the_node_behind_the_transpose(pattern):
    model = network(TRANSPOSED)
    next(node for node in model.graph if node.op_type == "MatMul").name = "head"
    apply(model, PruneWeights(include=(pattern,)))
    pruned = {name for name, data in weights(model).items() if zeros(data) > 0.4}
    assert pruned == ({"w"} if pattern == "head" else {"w", "v"})


def test_axes_of_a_stack_of_matrices_are_followed_through_the_transpose():
    text = """g (float[3, N, 8] x) => (float[3, N, 4] y) <float[8, 3, 4] w>
              { t = Transpose<perm = [1, 0, 2]>(w)
                y = MatMul(x, t) }"""
    model = network(text)
    apply(model, PruneWeights(pattern="2:4"))
    kept = weights(model)["w"].transpose(1, 2, 0) != 0
    assert (kept.reshape(3, 4, 2, 4).sum(axis=3) == 2).all()


def test_a_constant_outside_of_the_subgraph_that_reads_it_first_stays_outside():
    text = """g (float[2, 2] x, bool c) => (float[2, 2] y)
              { w = Constant<value = float[2, 2] {1.0, 4.0, 3.0, 2.0}>()
                h = If (c) <then_branch = a () => (float[2, 2] p) { p = MatMul(x, w) },
                            else_branch = b () => (float[2, 2] q) { q = Relu(x) }>
                y = MatMul(h, w) }"""
    model = network(text)
    assert apply(model, PruneWeights()).modified
    (value,) = model.graph.initializers.values()
    assert {use.node.graph.name for use in value.uses()} == {"g", "a"}


def test_a_head_that_is_the_embedding_too_is_left_alone():
    text = """g (int64[N] i) => (float[N, 6] y) <float[6, 4] w>
              { x = Gather(w, i)
                t = Transpose<perm = [1, 0]>(w)
                y = MatMul(x, t) }"""
    model, context = network(text), Context()
    assert not PruneWeights().run(model, context).modified
    assert [skip.reason for skip in context.ledger.skips] == ["it is an embedding, too"]

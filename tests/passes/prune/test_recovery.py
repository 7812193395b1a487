import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.prune import recover_layer
from graphopt.passes.prune.least_squares import HELD_OUT
from graphopt.passes.prune.prefix import prefix_of
from graphopt.passes.prune.prune_channels import PruneChannels
from graphs import apply, check, random_feeds, run
from networks import network

from graphopt.errors import SamplesError
from graphopt.ledger import Ledger
from graphopt.passbase import Context
from graphopt.samples import Samples

CONV = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y)
    <float[16, 3, 3, 3] w1, float[16] b1, float[16, 16, 3, 3] w2, float[4, 16, 1, 1] w3>
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
      b = Relu(a)
      c = Conv(b, w2)
      d = Relu(c)
      y = Conv(d, w3) }"""
TOKENS = """g (float[N, L, 12] x) => (float[N, L, 5] y)
    <float[12, 24] w1, float[24] b1, float[24, 12] w2, float[12] b2, float[12, 5] w3>
    { a = MatMul(x, w1)
      b = Add(a, b1)
      c = Relu(b)
      d = MatMul(c, w2)
      e = Add(d, b2)
      f = Add(e, x)
      y = MatMul(f, w3) }"""
GEMM = """g (float[N, 12] x) => (float[N, 5] y)
    <float[24, 12] w1, float[24] b1, float[16, 24] w2, float[16] b2, float[5, 16] w3>
    { a = Gemm<transB = 1>(x, w1, b1)
      b = Relu(a)
      c = Gemm<transB = 1>(b, w2, b2)
      d = Tanh(c)
      y = Gemm<transB = 1>(d, w3) }"""
TRANSPOSED = """g (float[N, L, 12] x) => (float[N, L, 5] y)
    <float[24, 12] w1, float[24] b1, float[12, 24] w2, float[12] b2, float[5, 12] w3>
    { t1 = Transpose<perm = [1, 0]>(w1)
      a = MatMul(x, t1)
      b = Add(a, b1)
      c = Relu(b)
      t2 = Transpose(w2)
      d = MatMul(c, t2)
      e = Add(d, b2)
      f = Add(e, x)
      t3 = Transpose<perm = [1, 0]>(w3)
      y = MatMul(f, t3) }"""
NETWORKS = {"conv": CONV, "tokens": TOKENS, "transposed": TRANSPOSED, "gemm": GEMM}


def redundant(text):
    """Return a network half of whose inner channels follow from the others, nearly."""
    model = network(text)
    rng = np.random.default_rng(3)
    first = model.graph.initializers["w1"]
    data = first.const_value.numpy().copy()
    first_axis = any(op in text for op in ("Conv", "Gemm", "Transpose"))
    rows = np.moveaxis(data, 0 if first_axis else 1, 0)
    half = len(rows) // 2
    rows[half:] = rows[:half] * rng.uniform(0.5, 1.0, (half, *[1] * (rows.ndim - 1)))
    first.const_value = ir.tensor(data, name="w1")
    return model


def samples_of(model, count=24, seed=7):
    feeds = [random_feeds(model, seed + index) for index in range(count)]
    return Samples.from_feeds(feeds)


def error(model, original, seed=99):
    """Return the square error on 40 feeds at once, relative to what should come out."""
    several = [random_feeds(original, seed + index) for index in range(40)]
    feed = {name: np.concatenate([one[name] for one in several]) for name in several[0]}
    (found,), (expected,) = run(model, feed), run(original, feed)
    return float(np.square(found - expected).sum() / np.square(expected).sum())


def context_with(runtime, samples, **more):
    context = Context(samples=samples, **more)
    context.share(runtime)
    return context


@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_becomes_much_smaller(name, runtime):
    original = redundant(NETWORKS[name])
    errors = {}
    for recovery in ("none", "least-squares"):
        model = redundant(NETWORKS[name])
        context = context_with(runtime, samples_of(model))
        result = apply(model, PruneChannels(0.5, recovery=recovery), context)
        errors[recovery] = error(model, original)
    assert errors["least-squares"] < 0.25 * errors["none"]
    assert "recovered" in result.summary
    for one in result.details["recovered"]:
        assert one["error"] <= one["error_before"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_that_lost_inputs_is_one_rewrite(name, runtime):
    model = redundant(NETWORKS[name])
    context = context_with(runtime, samples_of(model))
    PruneChannels(0.5).run(model, context)
    fitted = [e for e in context.ledger.applied() if e.rule == "recover-layer"]
    assert len(fitted) == (2 if name in ("conv", "gemm") else 1)
    assert all("error" in entry.note for entry in fitted)


def test_without_samples_nothing_is_fitted_unless_it_is_asked_for(runtime):
    model = network(GEMM)
    context = context_with(runtime, None)
    result = apply(model, PruneChannels(0.5), context)
    assert "recovered" not in result.details
    with pytest.raises(SamplesError):
        PruneChannels(0.5, recovery="least-squares").run(network(GEMM), context)


def test_nothing_is_fitted_where_nothing_is_cut(runtime):
    model = network(GEMM)
    context = context_with(runtime, samples_of(model))
    assert not apply(model, PruneChannels(0.0), context).modified


def test_the_same_samples_give_the_same_bytes(runtime):
    results = []
    for _ in range(2):
        model = redundant(CONV)
        PruneChannels(0.5).run(model, context_with(runtime, samples_of(model)))
        results.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert results[0] == results[1]


def test_one_sample_is_enough_to_run(runtime):
    model = network(GEMM)
    result = apply(model, PruneChannels(0.5), context_with(runtime, samples_of(model, 1)))
    assert result.modified
    check(model)


def test_activations_that_are_not_finite_leave_the_layer_as_it_was(runtime):
    text = GEMM.replace("d = Tanh(c)", "d = Log(c)")
    model = network(text)
    context = context_with(runtime, samples_of(model))
    PruneChannels(0.5).run(model, context)
    reasons = {skip.anchor: skip.reason for skip in context.ledger.skips}
    assert "not finite" in reasons["Gemm_4"]


def test_the_limit_cuts_before_layers_are_fitted(runtime):
    model = redundant(GEMM)
    context = context_with(runtime, samples_of(model), ledger=Ledger(limit=2))
    PruneChannels(0.5).run(model, context)
    assert [entry.rule for entry in context.ledger.applied()] == ["cut-group", "cut-group"]


def test_a_layer_that_is_none_says_why(runtime):
    text = """g (float[N, 4, 4, 4] x) => (float[N, 6, 4, 4] y)
              <float[8, 4, 1, 1] w1, float[8, 4, 1, 1] k, float[6, 8, 1, 1] w2>
              { a = Conv(x, w1)
                b = Conv<group = 2>(a, k)
                y = Conv(b, w2) }"""
    model = network(text)
    context = context_with(runtime, samples_of(model))
    removed = PruneChannels(0.5, multiple_of=1).run(model, context).details["plan"]["groups"]
    assert any(group["removed"] for group in removed)
    anchors = {skip.anchor for skip in context.ledger.skips if skip.rule == "recover-layer"}
    assert anchors <= {"Conv_1"}


def test_a_layer_whose_sums_do_not_fit_is_left_as_it_was(runtime):
    model = redundant(GEMM)
    context = context_with(runtime, samples_of(model))
    PruneChannels(0.5, memory_limit=1000).run(model, context)
    reasons = {skip.anchor: skip.reason for skip in context.ledger.skips}
    assert reasons["Gemm_2"] == "it needs 0 MB and memory_limit is 0 MB"
    assert not any(entry.rule == "recover-layer" for entry in context.ledger.applied())


def test_single_rows_go_to_both_parts(runtime):
    """A feed of one row each: some are fitted, some are held out."""
    original = redundant(GEMM)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 12)).astype(np.float32)} for _ in range(200)]
    model = redundant(GEMM)
    context = context_with(runtime, Samples.from_feeds(feeds))
    result = apply(model, PruneChannels(0.5), context)
    assert all(one["method"] != "as it was" for one in result.details["recovered"])
    plain = redundant(GEMM)
    apply(plain, PruneChannels(0.5), context_with(runtime, None))
    assert error(model, original) < 0.5 * error(plain, original)


class Measured(Exception):  # noqa: N818  # what comes after is of no interest
    pass


@pytest.mark.parametrize("sizes", [(1, *[4000] * 7), (0, *[4000] * 7), (4000, *[1] * 30)])
def test_no_more_rows_are_held_out_than_memory_is_counted_for(sizes, runtime, monkeypatch):
    """Feeds of different sizes, whichever comes first."""
    counts = []

    def fit(moments, held_out, *rest, **more):
        counts.append(sum(len(x) for x, _ in held_out))
        raise Measured

    monkeypatch.setattr(recover_layer, "fit", fit)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((n, 12)).astype(np.float32)} for n in sizes]
    context = context_with(runtime, Samples.from_feeds(feeds))
    with pytest.raises(Measured):
        PruneChannels(0.5).run(redundant(GEMM), context)
    assert 0 < counts[0] <= HELD_OUT + len(sizes)


def test_a_layer_that_reads_an_initializer_is_left_alone(runtime):
    model = network("""g (float[N, 8] x) => (float[N, 4] y)
        <float[8, 16] w1, float[16, 4] w2, float[16, 4] w3, float[1, 16] table>
        { h = MatMul(x, w1)
          a = Add(h, table)
          r = Relu(a)
          k = MatMul(table, w3)
          z = MatMul(r, w2)
          y = Add(z, k) }""")
    context = Context(samples=samples_of(model))
    context.share(runtime)
    options = {"recovery": "least-squares", "multiple_of": 1, "untie": False}
    result = PruneChannels(0.5, **options).run(model, context)
    assert [one["layer"] for one in result.details["recovered"]] == ["MatMul_4"]
    reasons = {skip.anchor: skip.reason for skip in context.ledger.skips}
    assert reasons["MatMul_3"] == "its first input is an initializer"


def test_a_prefix_is_what_a_value_depends_on():
    model = network(TOKENS)
    part = prefix_of(model, "c")
    assert [node.op_type for node in part.graph] == ["MatMul", "Add", "Relu"]
    assert set(part.graph.initializers) == {"w1", "b1"}
    assert len(list(model.graph)) == 7
    assert part.graph.outputs[0].name == "c"


def test_a_prefix_keeps_what_a_subgraph_reads():
    text = """g (float[N, 8] x, bool c) => (float[N, 3] y) <float[8, 6] w, float[6, 3] v>
              { h = MatMul(x, w)
                z = If(c) <
                  then_branch = one () => (float[N, 6] p) { p = Relu(h) },
                  else_branch = two () => (float[N, 6] q) { q = Neg(h) }>
                y = MatMul(z, v) }"""
    part = prefix_of(network(text), "z")
    assert [node.op_type for node in part.graph] == ["MatMul", "If"]
    assert {value.name for value in part.graph.inputs} == {"x", "c"}

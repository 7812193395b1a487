"""BatchNormalization after pruning: new statistics where they are better on held-out rows."""

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.prune.prune_channels import PruneChannels
from graphopt.passes.prune.statistics import ChannelMoments, Norm, norm_of
from graphs import apply, check, random_feeds, run
from networks import network

from graphopt.errors import SamplesError
from graphopt.passbase import Context
from graphopt.samples import Samples

UP = """g (float[N, 3, H, W] x) => (float[N, 4, H, W] y)
    <float[32, 3, 3, 3] w1, float[32, 32, 3, 3] w2, float[32] s, float[32] b, float[32] mean,
     float[32] var, float[4, 32, 1, 1] w3>
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1)
      c = Relu(a)
      d = ConvTranspose<pads = [1, 1, 1, 1]>(c, w2)
      n = BatchNormalization(d, s, b, mean, var)
      r = Relu(n)
      y = Conv(r, w3) }"""
"""A ConvTranspose is not fitted: the statistics are all that can be mended before w3."""


def trained(seed=0):
    """Return the network with the statistics that its activations have."""
    model = network(UP, seed=seed)
    inner = network(UP, seed=seed)
    (value,) = [v for node in inner.graph for v in node.outputs if v.name == "d"]
    value.shape, value.dtype = ir.Shape(["N", 32, 8, 8]), ir.DataType.FLOAT
    inner.graph.outputs.append(value)
    feeds = {"x": np.random.default_rng(1).standard_normal((256, 3, 8, 8)).astype("f4")}
    found = run(inner, feeds)[1]
    for name, data in (("mean", found.mean((0, 2, 3))), ("var", found.var((0, 2, 3)))):
        model.graph.initializers[name].const_value = ir.tensor(data, name=name)
    return model


def samples_of(model, count=16):
    return Samples.from_feeds([random_feeds(model, 7 + index) for index in range(count)])


def context_with(runtime, samples):
    context = Context(samples=samples)
    context.share(runtime)
    return context


def error(model, original):
    feeds = {"x": np.random.default_rng(9).standard_normal((64, 3, 8, 8)).astype("f4")}
    one, other = run(model, feeds)[0], run(original, feeds)[0]
    return float(np.square(one - other).mean() / np.square(other).mean())


@pytest.mark.parametrize("recovery", ["batchnorm", "least-squares"])
def test_statistics_are_those_of_the_smaller_model(recovery, runtime):
    model = trained()
    context = context_with(runtime, samples_of(model))

    result = apply(model, PruneChannels(0.5, recovery=recovery), context)

    check(model)
    entries = [e for e in context.ledger.applied() if e.rule == "recover-statistics"]
    assert [entry.anchor for entry in entries] == ["BatchNormalization_3"]
    (found,) = [one for one in result.details["recovered"] if one["method"] == "statistics"]
    assert found["error"] < found["error_before"]
    plain = trained()
    apply(plain, PruneChannels(0.5, recovery="none"), context_with(runtime, None))
    assert error(model, trained()) < error(plain, trained())


def test_what_follows_a_fitted_layer_keeps_its_statistics(runtime):
    text = """g (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y)
        <float[16, 3, 1, 1] w1, float[4, 16, 1, 1] w2, float[4] s, float[4] b, float[4] mean,
         float[4] var>
        { a = Conv(x, w1)
          r = Relu(a)
          c = Conv(r, w2)
          y = BatchNormalization(c, s, b, mean, var) }"""
    rules = {}
    for recovery in ("least-squares", "batchnorm"):
        model = network(text)
        context = context_with(runtime, samples_of(model))
        PruneChannels(0.5, recovery=recovery).run(model, context)
        rules[recovery] = {entry.rule for entry in context.ledger.applications}
    assert "recover-statistics" not in rules["least-squares"]
    assert "recover-layer" not in rules["batchnorm"]


def test_worse_statistics_are_not_taken(runtime):
    # What goes has no weights: the old statistics are right, those of a few rows are not.
    model = trained()
    for name, axis in (("w2", 1), ("w3", 1)):
        data = model.graph.initializers[name].const_value.numpy().copy()
        np.moveaxis(data, axis, 0)[[3, 11, 19, 27]] = 0
        model.graph.initializers[name].const_value = ir.tensor(data, name=name)
    feeds = [{"x": feed["x"][:, :, :2, :2]} for feed in samples_of(model, 1).feeds()]
    context = context_with(runtime, Samples.from_feeds(feeds))
    options = {"multiple_of": 1, "include": ("w3",)}

    PruneChannels(0.125, recovery="batchnorm", **options).run(model, context)

    assert [entry.rule for entry in context.ledger.applied()] == ["cut-group"]
    (skip,) = [skip for skip in context.ledger.skips if skip.rule == "recover-statistics"]
    assert "held-out" in skip.reason


def test_it_needs_samples(runtime):
    with pytest.raises(SamplesError):
        PruneChannels(0.5, recovery="batchnorm").run(trained(), context_with(runtime, None))


def test_what_has_no_statistics_of_its_own_says_so():
    model = trained()
    node = next(node for node in model.graph if node.op_type == "BatchNormalization")
    assert isinstance(norm_of(node), Norm)
    assert "no BatchNormalization" in norm_of(next(iter(model.graph)))
    node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    assert "training" in norm_of(node)
    del node.attributes["training_mode"]
    node.replace_input_with(3, model.graph.inputs[0])
    assert "not constant" in norm_of(node)


def test_sums_give_the_error_of_any_scale_and_shift():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 500, 3))
    moments = ChannelMoments(3)
    for part in range(0, 500, 100):
        moments.update(x[part : part + 100], y[part : part + 100])
    scale, shift = rng.standard_normal((2, 3))
    expected = np.square(scale * x + shift - y).sum() / np.square(y).sum()
    np.testing.assert_allclose(moments.error(scale, shift), expected, rtol=1e-12)
    assert moments.is_finite
    moments.update(np.full((1, 3), np.nan), y[:1])
    assert not moments.is_finite


def test_rows_are_positions_of_all_samples():
    x = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    node = next(n for n in trained().graph if n.op_type == "BatchNormalization")
    rows = Norm(node).rows(x)
    assert rows.shape == (8, 3)
    assert rows[5].tolist() == x[1, :, 1].tolist()

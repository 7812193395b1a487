import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.prune.prune_weights import PruneWeights
from graphopt.passes.prune.sparse_update import row_mask, sparsegpt
from graphs import apply, random_feeds, run
from networks import network

from graphopt.errors import SamplesError
from graphopt.passbase import Context
from graphopt.samples import Samples

TEXT = """g (float[N, 16] x) => (float[N, 8] y)
    <float[16, 32] w, float[32] b, float[32, 8] v>
    { h = MatMul(x, w)
      a = Add(h, b)
      r = Relu(a)
      y = MatMul(r, v) }"""


def problem(seed=0, outputs=6, inputs=40, rows=600):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs))
    return rng.standard_normal((outputs, inputs)), x.T @ x / rows


def error(weight, other, gram):
    change = weight - other
    return float(np.sum((change @ gram) * change))


def test_every_row_loses_the_same_number():
    scores = np.array([[3, 1, 2, 4], [10, 40, 30, 20]], np.float32)
    assert row_mask(scores, 0.5).tolist() == [
        [False, True, True, False],
        [True, False, False, True],
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_rest_makes_up_for_what_goes(seed):
    weight, gram = problem(seed, outputs=64)
    result = sparsegpt(weight, gram, 0.5)
    smallest = weight * (np.abs(weight) >= np.median(np.abs(weight)))
    assert (result == 0).mean() == 0.5
    assert error(weight, result, gram) < 0.7 * error(weight, smallest, gram)


def test_one_zero_costs_what_least_squares_says():
    weight, gram = problem(outputs=1, inputs=5)
    result = sparsegpt(weight, gram, 0.2)
    (k,) = np.nonzero(result[0] == 0)[0]
    damped = gram + 1e-2 * np.diag(gram).mean() * np.eye(5)
    # Only what follows is changed, and by what is best for it.
    after = list(range(k + 1, 5))
    np.testing.assert_array_equal(result[0, :k], weight[0, :k])
    if after:
        expected = weight[0, after] + np.linalg.solve(
            damped[np.ix_(after, after)], damped[after, k] * weight[0, k]
        )
        np.testing.assert_allclose(result[0, after], expected, rtol=1e-6)


def test_blocks_of_columns_see_each_other():
    weight, gram = problem(inputs=300, rows=900)
    result = sparsegpt(weight, gram, 0.5)
    for start in range(0, 288, 16):
        assert (result[:, start : start + 16] == 0).mean() == 0.5
    smallest = weight * (np.abs(weight) >= np.median(np.abs(weight)))
    assert error(weight, result, gram) < 0.6 * error(weight, smallest, gram)


def test_two_of_four():
    weight, gram = problem()
    result = sparsegpt(weight, gram, 0.5, (2, 4))
    assert ((result != 0).reshape(6, -1, 4).sum(axis=2) == 2).all()


def test_an_input_that_is_always_zero_loses_its_weights():
    weight, gram = problem()
    gram[3], gram[:, 3] = 0, 0
    assert (sparsegpt(weight, gram, 0.1)[:, 3] == 0).all()


def context_for(runtime, model, count=32):
    feeds = [random_feeds(model, seed) for seed in range(count)]
    for feed in feeds:
        # Inputs of very different sizes.
        feed["x"] *= np.geomspace(0.05, 3, 16, dtype=np.float32)
    context = Context(samples=Samples.from_feeds(feeds))
    context.share(runtime)
    return context


def test_what_is_read_decides(runtime):
    errors = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        model, original = network(TEXT), network(TEXT)
        context = context_for(runtime, model)
        result = apply(model, PruneWeights(0.5, method), context)
        assert result.details["zeros"] == pytest.approx(0.5 * result.details["elements"])
        feed = next(iter(context.samples.feeds()))
        (y,), (wanted,) = run(model, feed), run(original, feed)
        errors[method] = float(np.square(y - wanted).mean())
    assert errors["sparsegpt"] < errors["wanda"] < errors["magnitude"]


def test_wanda_keeps_the_bits_of_what_is_left(runtime):
    model = network(TEXT)
    before = model.graph.initializers["w"].const_value.numpy().copy()
    apply(model, PruneWeights(0.5, "wanda"), context_for(runtime, model))
    after = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(after[after != 0], before[after != 0])
    # The same number of zeros for every output.
    assert (np.count_nonzero(after == 0, axis=0) == 8).all()


def test_wanda_takes_patterns(runtime):
    model = network(TEXT)
    apply(model, PruneWeights(0.5, "wanda", pattern="2:4"), context_for(runtime, model))
    data = model.graph.initializers["w"].const_value.numpy().T
    assert ((data != 0).reshape(32, -1, 4).sum(axis=2) == 2).all()


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_what_is_not_a_layer_is_pruned_by_magnitude(method, runtime):
    text = """g (float[N, 16] x) => (float[N, 16] y) <float[16, 16] w>
        { h = MatMul(x, w)
          y = MatMul(h, w) }"""
    model, other = network(text), network(text)
    apply(model, PruneWeights(0.5, method), context_for(runtime, model))
    apply(other, PruneWeights(0.5))
    np.testing.assert_array_equal(
        model.graph.initializers["w"].const_value.numpy(),
        other.graph.initializers["w"].const_value.numpy(),
    )


def test_little_memory_gives_the_same_weights(runtime):
    results = []
    for limit in (1, 1 << 28):
        model = network(TEXT)
        pass_ = PruneWeights(0.5, "sparsegpt", memory_limit=limit)
        apply(model, pass_, context_for(runtime, model))
        results.append(model.graph.initializers["w"].const_value.numpy())
    # Every row is looked at: there are fewer than would be picked from.
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


def test_half_precision_stays(runtime):
    text = TEXT.replace("float[", "float16[")
    model = network(text)
    feeds = [random_feeds(model, seed) for seed in range(8)]
    context = Context(samples=Samples.from_feeds(feeds))
    context.share(runtime)
    apply(model, PruneWeights(0.5, "sparsegpt"), context)
    assert model.graph.initializers["w"].const_value.dtype == ir.DataType.FLOAT16


def test_samples_are_required(runtime):
    context = Context()
    context.share(runtime)
    with pytest.raises(SamplesError):
        PruneWeights(0.5, "wanda").run(network(TEXT), context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "wanda", "scope": "global"}, "by itself"),
        ({"method": "sparsegpt", "pattern": "4x1"}, "not blocks"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PruneWeights(**options)

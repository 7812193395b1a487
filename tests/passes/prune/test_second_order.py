import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.prune.prune_channels import PruneChannels
from graphopt.passes.prune.ranking import _batches
from graphopt.passes.prune.second_order import (
    consumers_of,
    diagonals,
    grams,
    obs_order,
    wanda,
)
from graphs import apply, random_feeds, run
from networks import groups_of, network

from graphopt.errors import SamplesError
from graphopt.passbase import Context
from graphopt.samples import Samples

DENSE = """g (float[N, 6] x) => (float[N, 3] y, float[N, 4] z)
    <float[6, 8] w, float[8, 3] v, float[8, 4] u>
    { h = MatMul(x, w)
      r = Relu(h)
      y = MatMul(r, v)
      z = MatMul(r, u) }"""
CONV = """g (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y)
    <float[6, 3, 1, 1] w, float[4, 6, 3, 3] v>
    { h = Conv(x, w)
      r = Relu(h)
      y = Conv(r, v) }"""


def context_for(runtime, model, count=12):
    feeds = [random_feeds(model, seed) for seed in range(count)]
    context = Context(samples=Samples.from_feeds(feeds))
    context.share(runtime)
    return context


def set_weight(model, name, where, what):
    value = model.graph.initializers[name]
    data = value.const_value.numpy().copy()
    data[where] = what
    value.const_value = ir.tensor(data, name=name)


def group_and_readers(model, name="w:1"):
    dimensions = groups_of(model)
    (group,) = [group for group in dimensions.groups if group.name == name]
    return group, consumers_of(dimensions, group)


def test_the_layers_that_read_a_group_are_found():
    _, readers = group_and_readers(network(DENSE))
    assert [one.layer.node.name for one in readers] == ["MatMul_2", "MatMul_3"]
    assert all(one.index.tolist() == list(range(8)) for one in readers)
    conv, (reader,) = group_and_readers(network(CONV), "w:0")
    assert reader.index.tolist() == np.repeat(np.arange(6), 9).tolist()
    assert conv.size == 6


def test_moments_are_those_of_what_goes_in(runtime):
    model = network(DENSE)
    context = context_for(runtime, model)
    _, readers = group_and_readers(model)
    layers = [one.layer for one in readers]
    found = grams(model, layers, context.samples, context)
    sizes = diagonals(model, layers, context.samples, context)

    weight = model.graph.initializers["w"].const_value.numpy()
    rows = np.concatenate([feed["x"] @ weight for feed in context.samples.feeds()])
    rows = np.maximum(rows, 0)
    for layer in layers:
        expected = rows.T @ rows / len(rows)
        np.testing.assert_allclose(found[layer.node], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sizes[layer.node], np.diag(expected), rtol=1e-4)


def test_wanda_removes_what_is_never_active_whatever_its_weights(runtime):
    model = network(DENSE)
    # Channels 2 and 5 are never positive, and read by large weights.
    for name in ("v", "u"):
        set_weight(model, name, [2, 5], 9.0)
    set_weight(model, "w", np.s_[:, [2, 5]], 0.0)
    result = apply(
        model,
        PruneChannels(0.25, "wanda", recovery="none"),
        context_for(runtime, model),
    )
    (entry,) = [g for g in result.details["plan"]["groups"] if g["removed"]]
    assert list(entry["removed"]) == [2, 5]


def test_obs_removes_what_the_others_can_make_up_for(runtime):
    model = network(DENSE)
    weight = model.graph.initializers["w"].const_value.numpy()
    # 6 is twice 1, and 3 half of 0: large weights, and nothing is lost without them.
    set_weight(model, "w", np.s_[:, 6], 2 * weight[:, 1])
    set_weight(model, "w", np.s_[:, 3], 0.5 * weight[:, 0])
    original = ir.from_proto(ir.to_proto(model))
    context = context_for(runtime, model, 40)
    result = apply(model, PruneChannels(0.25, "obs"), context)

    (entry,) = [g for g in result.details["plan"]["groups"] if g["removed"]]
    first, second = entry["removed"]
    assert {first, second} <= {0, 1, 3, 6}
    assert len({first, second} & {0, 3}) == 1
    feeds = random_feeds(model, 123)
    for one, other in zip(run(model, feeds), run(original, feeds), strict=True):
        np.testing.assert_allclose(one, other, atol=0.05 * np.abs(other).max())


@pytest.mark.parametrize("seed", range(5))
def test_the_first_to_go_costs_least_of_all(runtime, seed):
    model = network(DENSE, seed=seed)
    context = context_for(runtime, model)
    group, readers = group_and_readers(model)
    sums = grams(model, [one.layer for one in readers], context.samples, context)

    order, errors = obs_order(group, readers, sums, 1)
    (chosen,) = order.tolist()

    def cost(index):
        total = 0.0
        for one in readers:
            gram, weight = sums[one.layer.node], one.layer.weight()
            damped = gram + 1e-2 * np.diag(gram).mean() * np.eye(8)
            left = [k for k in range(8) if k != index]
            best = np.linalg.solve(damped[np.ix_(left, left)], damped[left] @ weight.T).T
            change = weight.copy()
            change[:, left] -= best
            scale = np.sum((weight @ gram) * weight)
            total += np.sum((change @ damped) * change) / scale
        return total

    costs = [cost(index) for index in range(8)]
    assert chosen == int(np.argmin(costs))
    assert errors[1] == pytest.approx(min(costs) / len(readers), rel=1e-6)


def test_slabs_of_a_convolution_go_as_wholes(runtime):
    model = network(CONV)
    set_weight(model, "w", 4, 0.0)
    context = context_for(runtime, model)
    group, readers = group_and_readers(model, "w:0")
    sums = grams(model, [one.layer for one in readers], context.samples, context)
    assert obs_order(group, readers, sums, 1)[0].tolist() == [4]
    sizes = diagonals(model, [one.layer for one in readers], context.samples, context)
    assert int(np.argmin(wanda(group, readers, sizes))) == 4


def test_heads_are_ranked_by_what_reads_them(runtime):
    text = """g (float[N, L, 12] x) => (float[N, L, 5] y)
        <float[12, 12] wq, float[12, 12] wk, float[12, 12] wv, int64[4] s = {0, 0, 3, 4},
         int64[3] t = {0, 0, 12}, float[12, 5] v>
        { q = MatMul(x, wq)  k = MatMul(x, wk)  u = MatMul(x, wv)
          q4 = Reshape(q, s)  k4 = Reshape(k, s)  u4 = Reshape(u, s)
          qh = Transpose<perm = [0, 2, 1, 3]>(q4)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
          uh = Transpose<perm = [0, 2, 1, 3]>(u4)
          scores = MatMul(qh, kh)  p = Softmax(scores)  o = MatMul(p, uh)
          ot = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(ot, t)  y = MatMul(f, v) }"""
    for criterion in ("wanda", "obs"):
        model = network(text)
        set_weight(model, "v", np.s_[4:8], 1e-4)
        context = context_for(runtime, model)
        result = apply(model, PruneChannels(0.3, criterion), context)
        heads = next(g for g in result.details["plan"]["groups"] if g["removed"])
        assert list(heads["removed"]) == [1]


def test_nothing_measured_falls_back_to_the_weights(runtime):
    # The reader has groups: it cannot be fitted, so what it reads is not measured.
    text = """g (float[N, 3, 4, 4] x) => (float[N, 4, 4, 4] y)
              <float[8, 3, 1, 1] w, float[4, 4, 1, 1] v>
              { h = Conv(x, w)
                y = Conv<group = 2>(h, v) }"""
    model = network(text)
    context = context_for(runtime, model)
    for criterion in ("wanda", "obs"):
        result = PruneChannels(0.5, criterion, multiple_of=1).run(network(text), context)
        assert result.modified


def test_samples_are_required(runtime):
    context = Context()
    context.share(runtime)
    for criterion in ("wanda", "obs"):
        with pytest.raises(SamplesError):
            PruneChannels(0.5, criterion).run(network(DENSE), context)


def test_groups_are_measured_in_parts_that_fit():
    dimensions = groups_of(network(DENSE))
    group, readers = group_and_readers(network(DENSE))
    wanted = [(group, 1)] * 4
    by_name = {group.name: readers}
    each = sum(8 * 9**2 for _ in readers)
    assert [len(p) for p in _batches(wanted, by_name, 2 * each)] == [2, 2]
    assert [len(p) for p in _batches(wanted, by_name, 1)] == [1, 1, 1, 1]
    assert [len(p) for p in _batches(wanted, by_name, 10 * each)] == [4]
    assert dimensions.groups

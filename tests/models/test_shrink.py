"""A plan applied to the PyTorch network gives what it gives applied to the exported model."""

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphopt.models.errors import TrainingError
from graphopt.models.exporters import EXPORTERS, Interface, export
from graphopt.models.shrink import _resize, adopt, plan_of, shrink
from graphopt.passes.prune.prune_channels import PruneChannels
from graphs import run
from torch import nn
from torch_networks import NETWORKS, exported, inputs_of, module_of

from graphopt import model_io
from graphopt.errors import PipelineError
from graphopt.passbase import Context
from graphopt.samples import Samples

DAILY = [(name, "torchscript") for name in ("unet", "shuffle", "resnext", "lstm", "gru")]
SLOWLY = [
    pytest.param(name, exporter, marks=pytest.mark.slow)
    for name in NETWORKS
    for exporter in EXPORTERS
    if (name, exporter) not in DAILY
]


class Tokens(nn.Module):
    """Normalized token states beside a parameter of no layer, and a tied table."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 12)
        self.offset = nn.Parameter(torch.randn(12))
        self.norm = nn.LayerNorm(12)
        self.wide = nn.Linear(12, 24)
        self.narrow = nn.Linear(24, 12, bias=False)

    def forward(self, x):
        y = self.norm(self.table(x) + self.offset)
        y = y + self.narrow(torch.relu(self.wide(y)))
        return y @ self.table.weight.T


class Normalized(nn.Module):
    """A normalization that keeps a size of its own, between two layers."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 32, 3, padding=1), norm
        self.last = nn.Conv2d(32, 4, 1)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


def pruned(path, **options):
    """Return the exported model, the smaller one and the plan."""
    model = model_io.load(path)
    result = PruneChannels(**{"ratio": 0.5, **options}).run(model, Context())
    return model_io.load(path), model, json.loads(json.dumps(result.details["plan"]))


def parameters(module):
    return sum(one.numel() for one in module.parameters())


@pytest.mark.parametrize(("name", "exporter"), [*DAILY, *SLOWLY])
def test_the_pruned_network_computes_what_the_pruned_model_does(name, exporter, tmp_path):
    module = module_of(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    original, model, plan = pruned(exported(name, exporter, tmp_path))

    small = shrink(module, original, plan)

    x = inputs_of(name, 4, seed=3)
    with torch.no_grad():
        found = small(x).numpy()
    expected = run(model, {"x": x.numpy()})[0]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert parameters(small) <= 0.6 * parameters(module)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), "the network that was given is not changed"


def test_the_pruned_network_exports_as_the_pruned_model(tmp_path, monkeypatch):
    original, model, plan = pruned(exported("shuffle", "torchscript", tmp_path))
    small = shrink(module_of("shuffle"), original, plan)
    monkeypatch.setattr("torch_networks.module_of", lambda *_: small)
    again = model_io.load(exported("shuffle", "torchscript", tmp_path))
    feeds = {"x": inputs_of("shuffle", 4).numpy()}
    np.testing.assert_allclose(
        run(again, feeds)[0], run(model, feeds)[0], rtol=1e-5, atol=1e-6
    )
    shapes = [
        sorted(
            v.const_value.shape.numpy()
            for v in m.graph.initializers.values()
            if v.const_value.dtype == ir.DataType.FLOAT
        )
        for m in (again, model)
    ]
    assert shapes[0] == shapes[1]


def test_layers_know_their_new_sizes(tmp_path):
    original, _, plan = pruned(exported("resnext", "torchscript", tmp_path))
    small = shrink(module_of("resnext"), original, plan)
    grouped = small.blocks[0][1][0]
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (16, 16, 4)
    assert small.blocks[0][1][1].num_features == 16
    assert small.classes.in_features == 32
    original, _, plan = pruned(exported("gru", "torchscript", tmp_path))
    small = shrink(module_of("gru"), original, plan)
    assert (small.layers.input_size, small.layers.hidden_size) == (8, 8)
    assert (small.table.num_embeddings, small.table.embedding_dim) == (50, 8)
    small.train()(inputs_of("gru", 2)).sum().backward()
    assert all(one.grad is not None for one in small.parameters())


def test_tables_norms_and_plain_parameters(tmp_path):
    torch.manual_seed(0)
    module = Tokens().eval()
    path = tmp_path / "tokens.onnx"
    x = torch.randint(20, (2, 5))
    interface = Interface(("x",), ("y",), {})
    export(module, [x], interface, path, "torchscript", optimize=False)
    original, model, plan = pruned(path, statistics=True)
    small = shrink(module, original, plan)
    assert small.norm.normalized_shape == (6,)
    assert small.offset.shape == (6,)
    assert small.wide.weight.shape == (12, 6)
    np.testing.assert_allclose(
        small(x).detach().numpy(), run(model, {"x": x.numpy()})[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.GroupNorm(8, 32),
        lambda: nn.InstanceNorm2d(32, affine=True),
    ],
    ids=["group", "instance"],
)
def test_norms_know_their_new_sizes(make, tmp_path):
    torch.manual_seed(0)
    module = Normalized(make()).eval()
    path, x = tmp_path / "m.onnx", torch.randn(4, 3, 6, 6)
    export(module, [x], Interface(("x",), ("y",), {}), path, "torchscript", optimize=False)
    original, model, plan = pruned(path)
    small = shrink(module, original, plan)
    assert small.norm.weight.shape == (16,)
    np.testing.assert_allclose(
        small(x).detach().numpy(), run(model, {"x": x.numpy()})[0], rtol=1e-4, atol=1e-5
    )


def test_root_mean_square_norms_know_their_new_size():
    # Only the new exporter knows it, which takes long; the rule is that of every other norm.
    norm = nn.RMSNorm(8)
    norm.weight = nn.Parameter(torch.ones(4))
    _resize(norm, 1)
    assert norm(torch.ones(2, 4)).shape == (2, 4)


def test_an_edited_plan_is_checked(tmp_path):
    original, _, plan = pruned(exported("resnext", "torchscript", tmp_path))
    module = module_of("resnext")
    entry = next(one for one in plan["groups"] if one["size"] == 64)
    for removed, message in (
        ([-1], "removes others"),
        ([99], "removes others"),
        (list(range(64)), "or all"),
        (["x"], "not well-formed"),
        (None, "not well-formed"),
    ):
        with pytest.raises(PipelineError, match=message):
            shrink(module, original, {"groups": [{**entry, "removed": removed}]})
    whole = next(one for one in plan["groups"] if one["reason"])
    with pytest.raises(PipelineError, match="cannot be cut"):
        shrink(module, original, {"groups": [{**whole, "removed": [0]}]})


def test_what_recovery_found_is_taken_over(tmp_path):
    original, model, plan = pruned(exported("resnext", "torchscript", tmp_path))
    small = shrink(module_of("resnext"), original, plan)
    # As recovery does: other weights, and a bias where there was none.
    node = next(n for n in model.graph if n.op_type == "Conv")
    weight = node.inputs[1]
    weight.const_value = ir.tensor(weight.const_value.numpy() * 0.9, name=weight.name)
    bias = ir.Value(name="added", const_value=ir.tensor(np.full(32, 0.1, np.float32)))
    bias.const_value.name = "added"
    model.graph.register_initializer(bias)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)

    count = adopt(small, model)

    x = inputs_of("resnext", 3)
    expected = run(model, {"x": x.numpy()})[0]
    np.testing.assert_allclose(small(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert count >= 20


def test_a_bias_that_was_stored_once_for_two_layers_is_that_of_the_layer(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(4))).eval()
    for part in module:
        nn.init.zeros_(part.bias)
    path, x = tmp_path / "m.onnx", torch.randn(8, 8, 8, 8)
    export(module, [x], Interface(("x",), ("y",), {}), path, "torchscript", optimize=False)
    model = model_io.load(path)
    context = Context(samples=Samples.from_feeds([{"x": x.numpy() + 1}]))
    options = {"recovery": "least-squares", "multiple_of": 1}
    with context.closing():
        plan = PruneChannels(0.5, **options).run(model, context).details["plan"]
    small = shrink(module, path, plan)
    adopt(small, model)
    expected = run(model, {"x": x.numpy()})[0]
    np.testing.assert_allclose(small(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_named(tmp_path):
    path = exported("resnext", "torchscript", tmp_path)
    original, model, plan = pruned(path)
    renamed = model_io.load(path)
    renamed.graph.initializers["stem.0.weight"].name = "other"
    with pytest.raises(TrainingError, match=r"'stem.0.weight' is no initializer"):
        shrink(module_of("resnext"), renamed, {"groups": []})
    with pytest.raises(
        TrainingError, match=r"'stem.0.weight' is \[64, 3, 3, 3\] in the model"
    ):
        shrink(NETWORKS["resnext"].make(16), original, {"groups": []})
    with pytest.raises(PipelineError, match="no group 'x'"):
        shrink(
            module_of("resnext"),
            original,
            {"groups": [{**plan["groups"][0], "name": "x", "removed": [0]}]},
        )
    with pytest.raises(TrainingError, match="in the network"):
        adopt(module_of("resnext"), model)


def test_a_plan_is_read_from_a_file_or_a_report(tmp_path):
    plan = {"groups": [{"name": "w:0", "size": 4, "removed": [1]}]}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    assert plan_of(path) == plan
    path.write_text(json.dumps({"steps": [{"details": {}}, {"details": {"plan": plan}}]}))
    assert plan_of(path) == plan
    path.write_text("{}")
    with pytest.raises(PipelineError, match="holds no plan"):
        plan_of(path)

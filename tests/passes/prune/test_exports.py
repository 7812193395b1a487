"""Half of every dimension of real exports goes: they load, run, and equal what is masked."""

import functools
import itertools
import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphopt.models import zoo
from graphopt.models.exporters import EXPORTERS
from graphopt.passes.prune.allocation import Limits
from graphopt.passes.prune.planning import make_plan
from graphs import check, run
from networks import cut, groups_of, is_weight, masked
from onnx.reference import ReferenceEvaluator
from torch_networks import NETWORKS, exported, inputs_of

import graphopt
from graphopt import model_io
from graphopt.analysis.facts import tensor_of
from graphopt.api import Options

ROOT = pathlib.Path(__file__).resolve().parents[3]
OCR = ROOT / ".cache/models/ocr"
TOLERANCE = 1e-5
DAILY = [(name, "torchscript", False) for name in NETWORKS if name != "unet-deep"]
"""The new exporter takes ten times as long as all the rest."""
EVERY = [(n, e, size) for n in NETWORKS for e in EXPORTERS for size in (False, True)]
SLOWLY = [pytest.param(*case, marks=pytest.mark.slow) for case in EVERY if case not in DAILY]


def removals(model, ratio=0.5):
    """Return what a plan removes by name of the group, and how many parameters there were."""
    dimensions = groups_of(model)
    plan = make_plan(dimensions, ratio, "l2", Limits())
    removed = {entry.name: list(entry.removed) for entry in plan.entries if entry.removed}
    return dimensions, removed


def parameters(model):
    """Return the number of elements of all constants, initializers or not."""
    made = [value for node in model.graph for value in node.outputs]
    tensors = map(tensor_of, [*model.graph.initializers.values(), *made])
    return sum(tensor.size for tensor in tensors if tensor is not None)


def assert_reached(dimensions, share=0.95):
    """Assert that the analysis offers an axis of nearly every weight."""
    offered = {
        member.site
        for group in dimensions.groups
        if not group.reason
        for member in group.members
    }
    weights = [
        site
        for site in dimensions.coupling.sites
        if is_weight(site) and sum(axis.size != 1 for axis in site.axes) > 1
    ]
    assert not dimensions.coupling.refused
    assert sum(site in offered for site in weights) >= share * len(weights) > 0


def assert_half_goes(load, feeds, least=0.4, tolerance=TOLERANCE):
    """Assert that a half is removed, by the oracle and by number; return the smaller model."""
    model = load()
    dimensions, removed = removals(model)
    assert_reached(dimensions)
    smaller = cut(load(), removed)
    check(smaller)
    assert parameters(smaller) <= (1 - least) * parameters(model)
    for one, other in zip(
        run(smaller, feeds), run(masked(load(), removed), feeds), strict=True
    ):
        assert other.std(axis=0).max() > 0.01 * np.abs(other).max(), "it ignores its input"
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()
    return smaller


@pytest.mark.parametrize(("name", "exporter", "large"), [*DAILY, *SLOWLY])
def test_half_of_a_network_goes(name, exporter, large, tmp_path):
    path = exported(name, exporter, tmp_path, large)
    feeds = {"x": inputs_of(name, 3, large).numpy()}
    smaller = assert_half_goes(functools.partial(model_io.load, path), feeds)
    # Another batch than any that was seen.
    assert run(smaller, {"x": inputs_of(name, 5, large).numpy()})[0].shape[0] == 5


def quantized(path, feeds, recovery):
    """Prune and quantize; assert that this validates, and return the result."""
    result = graphopt.optimize(
        path,
        f"upgrade-opset{{to=13}},default,prune-channels{{ratio=0.5,recovery={recovery}}},"
        "quantize-static",
        samples=feeds,
        options=Options(allow_slower=True, measure=False),
    )
    assert result.comparison.passed
    return result.model


def count(model, operator):
    return sum(node.op_type == operator for node in model.graph)


QUICK = ("shuffle", "torchscript")


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        case if case == QUICK else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(NETWORKS, EXPORTERS)
    ],
)
def test_pruned_then_quantized_validates(name, exporter, tmp_path):
    path = exported(name, exporter, tmp_path)
    feeds = [{"x": inputs_of(name, 8, seed=seed).numpy()} for seed in range(4)]
    smaller = quantized(path, feeds, "least-squares")
    assert count(smaller, "QuantizeLinear") or name in ("lstm", "gru")
    assert parameters(smaller) <= 0.6 * parameters(model_io.load(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenetv2", "vit", "bert", "minilm"]
)
def test_a_network_of_the_field_is_pruned_then_quantized(name, kind):
    feeds = [field_feeds(name, seed) for seed in range(2)]
    # Weights that nobody trained are not recovered: that takes minutes and proves nothing.
    smaller = quantized(zoo.build(name, kind), feeds, "none")
    assert count(smaller, "QuantizeLinear") > 10


@pytest.mark.slow
def test_text_recognition_is_pruned_then_quantized():
    path = OCR / "ch_PP-OCRv4_rec_infer.onnx"
    if not path.exists():
        pytest.fail("run `make models` first")
    feeds = [dict(np.load(OCR / f"samples/{i:03}.npz")) for i in range(2)]
    assert count(quantized(path, feeds, "none"), "QuantizeLinear") > 10


def field_feeds(name, seed=0):
    """Return a feed of two samples for a network of the field."""
    rng = np.random.default_rng(seed)
    if name in ("bert", "minilm"):
        return {"in0": rng.integers(1, 900, (2, 16)), "in1": np.ones((2, 16), np.int64)}
    images = rng.standard_normal((2, 3, 224, 224)).astype(np.float32)
    images[1] *= 3  # or the mean of so many pixels is the same for both
    return {"in0": images}


@pytest.mark.slow
@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("resnet18", 0.4),
        ("resnet50", 0.4),
        ("mobilenetv2", 0.4),
        ("vit", 0.4),
        # Their width is that of an output, and of the embeddings, which are a fifth of the
        # parameters of BERT-base and a half of MiniLM's.
        ("bert", 0.38),
        ("minilm", 0.23),
    ],
)
def test_half_of_a_network_of_the_field_goes(name, least, kind):
    path = zoo.build(name, kind)
    feeds = field_feeds(name)
    load = functools.partial(model_io.load, path)
    assert_half_goes(
        functools.partial(loud, load) if name == "mobilenetv2" else load, feeds, least
    )


def loud(load):
    """Return a model whose random weights do not let every signal die away."""
    model = load()
    for node in model.graph:
        if node.op_type == "Conv":
            value = node.inputs[1]
            data = value.const_value.numpy()
            fan = np.prod(data.shape[1:])
            data = data * np.float32(np.sqrt(2 / fan) / data.std())
            value.const_value = ir.tensor(data, name=value.name)
    return model


@pytest.mark.slow
def test_text_recognition_is_equal_but_for_rounding():
    """Its layers amplify rounding, the original's as well; in float64 nothing is left."""
    path = OCR / "ch_PP-OCRv4_rec_infer.onnx"
    if not path.exists():
        pytest.fail("run `make models` first")
    load = functools.partial(model_io.load, path)
    x = np.load(OCR / "samples/000.npz")["x"][:2, :, :, :64]
    smaller = assert_half_goes(load, {"x": x}, tolerance=1e-4)
    _, removed = removals(load())
    exact, expected = (in_float64(one, x) for one in (smaller, masked(load(), removed)))
    assert np.abs(exact - expected).max() <= 1e-12 * np.abs(expected).max()


def in_float64(model, x):
    """Return the output of a model of which all floats have twice the bits."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    attributes = [attribute for node in proto.graph.node for attribute in node.attribute]
    for tensor in (*proto.graph.initializer, *(one.t for one in attributes)):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            data = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(data, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for one in attributes:
        if one.name == "to" and one.i == onnx.TensorProto.FLOAT:
            one.i = onnx.TensorProto.DOUBLE
    found = ReferenceEvaluator(proto).run(None, {"x": x.astype(np.float64)})[0]
    assert found.dtype == np.float64
    return found

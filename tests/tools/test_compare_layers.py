"""Where two models part: matching, measuring, blaming, and the command line."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import pathlib

import faulty
import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.analysis.shapes import infer
from graphopt.debug.layer import LayerMeter
from graphopt.debug.layers import Layer, compare_layers, match_names, worst
from graphopt.debug.ledgers import LedgerError, read_ledger
from graphopt.debug.portions import budget_for
from graphopt.ledger import Ledger
from graphopt.manager import PassManager
from graphopt.metrics import Tolerance
from graphopt.passbase import Context
from graphopt.runtime import Runtime

TEXT = """g (float[N,4] x) => (float[N,4] y) <float[4] w={1,2,3,4}> {
    a = Add(x, w)
    b = Relu(a)
    c = Neg(b)
    d = Sigmoid(b)
    y = Mul(c, d)
}"""


@pytest.fixture(scope="module")
def runtime():
    with contextlib.closing(Runtime(timeout=60)) as one:
        yield one


def compare(
    runtime: Runtime,
    original: ir.Model,
    candidate: ir.Model,
    ledger: Ledger | None = None,
    feeds=None,
    **options,
) -> dict[str, Layer]:
    feeds = feeds or [graphs.random_feeds(original, seed) for seed in (0, 1)]
    names = match_names(original, candidate, ledger)
    layers = compare_layers(
        original,
        candidate,
        names,
        feeds,
        runtime,
        tolerance=Tolerance(),
        graph=original.graph,
        **options,
    )
    return {layer.name: layer for layer in layers}


def test_equal_models_are_equal_everywhere(runtime: Runtime) -> None:
    layers = compare(runtime, graphs.load(TEXT), graphs.load(TEXT))
    assert list(layers) == ["a", "b", "c", "d", "y"]
    for layer in layers.values():
        assert layer.difference.equal == 1
        assert (layer.noise, layer.added_noise) == (0, 0)
        assert layer.range == layer.candidate_range
        assert not layer.exceeds()
    assert [layer.op_type for layer in layers.values()] == [
        *("Add", "Relu", "Neg", "Sigmoid", "Mul")
    ]
    assert worst(list(layers.values()), 5) == []


def test_the_layer_that_differs_is_first_and_to_blame(runtime: Runtime) -> None:
    candidate = graphs.load(TEXT.replace("d = Sigmoid(b)", "d = Tanh(b)"))
    layers = compare(runtime, graphs.load(TEXT), candidate)
    assert [name for name, layer in layers.items() if layer.exceeds()] == ["d", "y"]
    assert worst(list(layers.values()), 1)[0].name == "d"
    assert layers["d"].added_noise == layers["d"].noise
    low, high = layers["d"].candidate_range
    assert 0 <= low < high < 1


@pytest.mark.parametrize("threshold", [None, 30.0])
def test_truth_values_that_differ_are_to_blame(
    runtime: Runtime, threshold: float | None
) -> None:
    text = """g (float[4] x) => (float[4] y) <float[1] zero = {0}, float[1] limit = {0}> {
        p = Abs(x)
        b = Greater(p, limit)
        y = Where(b, x, zero)
    }"""
    original, candidate = graphs.load(text), graphs.load(text.replace("t = {0}", "t = {2}"))
    feeds = [{"x": np.float32([1, 2, 3, -4])}]
    layers = compare(runtime, original, candidate, feeds=feeds)
    assert [name for name, one in layers.items() if one.exceeds(threshold)] == ["b", "y"]
    assert layers["b"].noise == layers["b"].added_noise == pytest.approx(0.5)
    assert worst(list(layers.values()), 1)[0].name == "b"


def test_noise_beyond_what_a_float_holds_is_measured() -> None:
    meter = LayerMeter(Tolerance())
    meter.add(0, np.array([1e-160]), np.array([1e150]))
    layer = meter.layer("a", "a")
    assert layer.noise > 1e299
    assert layer.exceeds()


def test_figures_are_those_of_numpy(runtime: Runtime) -> None:
    original = graphs.load(TEXT)
    feeds = [graphs.random_feeds(original, seed) for seed in range(3)]
    candidate = graphs.load(TEXT.replace("{1,2,3,4}", "{1,2,3,4.5}"))
    layer = compare(runtime, original, candidate, feeds=feeds)["a"]
    x = np.concatenate([feed["x"] for feed in feeds])
    want, got = x + np.float32([1, 2, 3, 4]), x + np.float32([1, 2, 3, 4.5])
    assert layer.difference.max_abs == pytest.approx(0.5, rel=1e-5)
    noise = float(np.sum((got - want) ** 2, dtype=np.float64))
    noise /= float(np.sum(np.square(want, dtype=np.float64)))
    assert layer.noise == pytest.approx(noise, rel=1e-5)
    assert layer.difference.sqnr_db == pytest.approx(-10 * math.log10(noise), rel=1e-5)
    assert layer.range == (float(want.min()), float(want.max()))
    assert layer.candidate_range == (float(got.min()), float(got.max()))


@pytest.mark.parametrize("budget", [1, 40, 100, 1 << 20])
def test_the_size_of_the_portions_changes_nothing(runtime: Runtime, budget: int) -> None:
    candidate = graphs.load(TEXT.replace("d = Sigmoid(b)", "d = Tanh(b)"))
    portions: list[int] = []
    layers = compare(
        runtime,
        graphs.load(TEXT),
        candidate,
        budget_bytes=budget,
        advance=portions.append,
    )
    assert layers == compare(runtime, graphs.load(TEXT), candidate)
    assert sum(portions) == 5
    # A tensor of 2 x 4 floats takes 32 bytes.
    assert max(portions) == {1: 1, 40: 1, 100: 3}.get(budget, 5)


def test_weights_in_constant_nodes_are_compared_and_the_models_left_alone(runtime) -> None:
    model = graphs.load(
        """g (float[N,2000] x) => (float[N,2000] y) {
            k = Constant<value = float[1] {2}>() y = Add(x, k) }"""
    )
    other = model.clone()
    for scale, one in ((1, model), (2, other)):
        data = ir.tensor(np.arange(2000, dtype=np.float32) * scale)
        one.graph[0].attributes["value"] = ir.AttrTensor("value", data)
        one.graph[0].outputs[0].shape = None
    layers = compare(runtime, model, other)
    assert [layer.fault for layer in layers.values()] == ["", ""]
    assert layers["k"].range == (0, 1999)
    assert layers["k"].candidate_range == (0, 3998)
    for one in (model, other):
        assert [node.op_type for node in one.graph] == ["Constant", "Add"]


def test_portions_grow_with_the_weights() -> None:
    model = graphs.load(TEXT)
    assert budget_for(model) == 8 << 20
    wide = ir.Value(name="wide", const_value=ir.tensor(np.zeros(1 << 25, np.float32)))
    model.graph.initializers.add(wide)
    assert budget_for(model) == (1 << 27) // 8 + 2


def test_inferred_shapes_make_fewer_portions(runtime: Runtime) -> None:
    steps = " ".join(f"v{at + 1} = Neg(v{at})" for at in range(39))
    model = graphs.load(f"g (float[N,4] v0) => (float[N,4] y) {{ {steps} y = Neg(v39) }}")
    for node in list(model.graph)[:-1]:
        node.outputs[0].shape = None
    counts = []
    for shapes in ({}, {value: shape for value, (_, shape) in infer(model).items()}):
        portions: list[int] = []
        options = {"advance": portions.append, "shapes": shapes, "budget_bytes": 1 << 16}
        compare(runtime, model, model, **options)
        counts.append(len(portions))
    assert counts == [3, 1]


def test_tensors_are_followed_through_the_ledger(runtime: Runtime) -> None:
    original, candidate = faulty.chain(5), faulty.chain(5)
    context = Context()
    PassManager([faulty.Faulty(at="i3")]).run(candidate, context)
    without = match_names(original, candidate)
    assert without == {"v0": "v0", "y": "y"}
    names = match_names(original, candidate, context.ledger)
    assert names == {
        "v0": "v0", "v1": "v0", "v2": "v0", "v3": "v3_g1", "v4": "v3_g1", "v5": "v3_g1",
        "y": "y",
    }  # fmt: skip
    layers = compare(runtime, original, candidate, context.ledger)
    assert next(name for name, layer in layers.items() if layer.exceeds()) == "v3"
    assert worst(list(layers.values()), 1)[0].name == "v3"


def test_the_last_tensor_that_carries_the_data_is_the_one_compared() -> None:
    original = graphs.load(TEXT)
    candidate = graphs.load(
        TEXT.replace("d = Sigmoid(b)", "b2 = Identity(b) b3 = Relu(b2) d = Sigmoid(b3)")
    )
    ledger = Ledger()
    for old, new in (("b", "b2"), ("b2", "b3"), ("b3", "gone")):
        ledger.open("pass", "rule", old).values_replaced[old] = new
    assert match_names(original, candidate, ledger)["b"] == "b3"
    ledger.applications[1].undone = "it was wrong"
    assert match_names(original, candidate, ledger)["b"] == "b2"


def test_an_output_that_gave_its_name_away_is_found_by_it() -> None:
    original = graphs.load("g (float[4] x) => (float[4] y) {a = Relu(x) y = Identity(a)}")
    candidate = graphs.load("g (float[4] x) => (float[4] y) {y = Relu(x)}")
    ledger = Ledger()
    ledger.open("pass", "rule", "y").values_replaced["a"] = "y"
    assert match_names(original, candidate, ledger) == {"a": "y", "y": "y"}


def test_another_shape_or_type_is_a_fault_of_that_tensor_alone(runtime: Runtime) -> None:
    original = graphs.load(
        """g (float[2,4] x) => (float[2,4] y) {
            a = Relu(x) b = Transpose(x) c = Abs(x) y = Neg(x) }"""
    )
    candidate = graphs.load(
        """g (float[2,4] x) => (float[2,4] y) {
            a = Relu(x) b = Abs(x) c = Cast<to=11>(x) y = Neg(x) }"""
    )
    layers = compare(runtime, original, candidate)
    assert layers["b"].fault == "its shape is [2, 4] and was [4, 2]"
    assert layers["c"].fault == "its type is float64 and was float32"
    assert layers["b"].exceeds()
    assert layers["a"].difference.equal == layers["y"].difference.equal == 1


def test_nan_in_one_model_is_the_worst_there_is(runtime: Runtime) -> None:
    candidate = graphs.load(TEXT.replace("d = Sigmoid(b)", "d = Log(c)"))
    layers = compare(runtime, graphs.load(TEXT), candidate)
    assert layers["d"].exceeds(sqnr_db=-100)
    first = worst(list(layers.values()), 2)
    assert [layer.name for layer in first] == ["d"]
    assert math.isinf(first[0].added_noise)


def network(rng: np.random.Generator, depth: int, damage: dict[int, str]) -> ir.Model:
    """Return a network of which every layer is rounded to 8 bits, and some are damaged."""
    lines, weights = [], []
    for index in range(depth):
        weight = rng.standard_normal((16, 16)) / 4
        scale = np.abs(weight).max(axis=0) / 127
        kind = damage.get(index)
        if kind == "clipped":
            scale = scale / 3
        elif kind == "coarse":
            scale = scale * 24
        rounded = np.clip(np.round(weight / scale), -128, 127) * scale
        if kind == "shifted":
            rounded = rounded + 20 * scale
        elif kind == "one-channel":
            rounded[:, 3] *= -1
        weights.append((f"w{index}", weight if damage.get(-1) else rounded))
        source = f"r{index - 1}" if index else "x"
        lines.append(f"m{index} = MatMul({source}, w{index}) s{index} = Relu(m{index})")
        skip = f"Add(s{index}, {source})" if index % 2 else f"Identity(s{index})"
        lines.append(f"r{index} = {skip}")
    declared = ", ".join(f"float[16,16] {name}" for name, _ in weights)
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,16] x, {declared}) => (float[N,16] r{depth - 1}) {{ {" ".join(lines)} }}"""
    )
    for name, data in weights:
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(data.astype(np.float32), name=name)
        model.graph.initializers.add(value)
    return model


def test_the_bad_layer_of_a_quantized_network_is_first(runtime: Runtime) -> None:
    kinds = ["clipped", "coarse", "shifted", "one-channel"]
    right = 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        bad = int(rng.integers(10))
        feeds = [{"x": rng.standard_normal((8, 16)).astype(np.float32)}]
        original = network(np.random.default_rng(trial), 10, {-1: "exact"})
        candidate = network(np.random.default_rng(trial), 10, {bad: kinds[trial % 4]})
        layers = compare(runtime, original, candidate, feeds=feeds)
        right += worst(list(layers.values()), 1)[0].name == f"m{bad}"
    print(f"the seeded layer is first in {right} of 100")
    assert right >= 95


class TestReadLedger:
    def test_both_kinds_of_file_are_read(self, tmp_path: pathlib.Path) -> None:
        ledger = Ledger()
        ledger.open("pass", "rule", "n").values_replaced["a"] = "b"
        data = ledger.to_json()
        report = {
            "schema": "graphopt/optimize/1",
            "ledger": data["applications"],
            "skipped": data["skips"],
        }
        for name, content in (("ledger", data), ("report", report)):
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(content))
            assert read_ledger(path).applications == ledger.applications

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (None, "missing-file"),
            ("not json", "unreadable"),
            ("[]", "no-ledger"),
            ('{"schema": "graphopt/bisect/1"}', "no-ledger"),
            ('{"schema": "graphopt/ledger/1"}', "no-ledger"),
        ],
    )
    def test_another_file_is_refused(self, tmp_path, text: str | None, code: str) -> None:
        path = tmp_path / "file.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(LedgerError, match=r"file\.json") as caught:
            read_ledger(path)
        assert caught.value.code == f"ledger/{code}"
        assert caught.value.exit_code == 2


class TestCommandLine:
    @pytest.fixture
    def run(self, run_tool, tmp_path: pathlib.Path):
        run_tool("trace_passes", "chain.onnx", "--passes", "faulty{at=i7}", "-o", "out")
        bad = next((tmp_path / "out").glob("01_*.onnx"))
        return functools.partial(run_tool, "compare_layers", "chain.onnx", bad)

    def test_people_read_where_the_models_part(self, run) -> None:
        done = run("--ledger", "out/ledger.json", "--data", "chain.npz")
        assert done.returncode == 1, done.stderr
        assert "first over the threshold: v7 (Identity)" in done.stdout
        assert "1. to blame: v7 (Identity), adds noise of 4 times its signal" in done.stdout
        assert "13 of 13 tensors compared, 7 equal" in done.stdout

    def test_programs_read_json(self, run) -> None:
        done = run("--ledger", "out/ledger.json", "--json", script=True)
        assert done.returncode == 1, done.stderr
        data = json.loads(done.stdout)
        assert data["schema"] == "graphopt/compare-layers/1"
        assert (data["first"], data["worst"][0]) == ("v7", "v7")
        assert (data["compared"], data["tensors"]) == (13, 13)
        first = data["layers"][0]
        assert (first["name"], first["difference"]["sqnr_db"]) == ("v0", None)

    def test_without_a_ledger_equal_names_are_compared(self, run) -> None:
        data = json.loads(run("--json").stdout)
        assert [layer["name"] for layer in data["layers"]] == ["v0", "y"]

    def test_a_threshold_in_db_decides(self, run, run_tool, tmp_path: pathlib.Path) -> None:
        assert run("--sqnr", "-50").returncode == 0
        same = run_tool("compare_layers", "chain.onnx", "chain.onnx")
        assert same.returncode == 0
        assert (
            same.stdout
            == "no tensor is over the threshold\n13 of 13 tensors compared, 13 equal\n"
        )

    def test_bad_input_is_one_line(self, run, run_tool, tmp_path: pathlib.Path) -> None:
        done = run("--ledger", "chain.onnx")
        assert done.returncode == 2
        assert done.stderr.startswith("compare_layers: error [ledger/no-ledger]")
        onnx.save(ir.to_proto(graphs.load(TEXT)), tmp_path / "other.onnx")
        done = run_tool("compare_layers", "missing.onnx", "other.onnx")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_the_first_tensor_that_is_not_finite_is_named(run_tool, tmp_path) -> None:
    model = graphs.load(
        """g (float[4] x) => (float[4] y) <float[4] zero={0,0,0,0}, float[4] one={1,1,1,1}> {
            a = Add(x, one) b = Div(one, zero) c = Mul(a, b) y = Neg(c) }"""
    )
    onnx.save(ir.to_proto(model), tmp_path / "inf.onnx")
    done = run_tool("compare_layers", "inf.onnx", "inf.onnx", "--samples", "1")
    assert done.returncode == 0, done.stderr
    assert "first with NaN or Inf: b (Div), 4 elements, 4 in ORIGINAL\n" in done.stdout
    assert "no tensor is over the threshold\n" in done.stdout


def test_with_json_an_error_is_json_too(run_tool) -> None:
    for arguments in (["missing.onnx", "chain.onnx"], ["chain.onnx"]):
        done = run_tool("compare_layers", *arguments, "--json")
        assert done.returncode == 2
        assert json.loads(done.stdout)["schema"] == "graphopt/error/1"
        assert len(done.stderr.splitlines()) == 1


def test_scaled_tensors_of_a_right_model_point_to_the_ledger(run_tool, tmp_path) -> None:
    text = """g (float[4] x) => (float[4] y) <float[4] w={1, 2, 3, 4}, float[1] s={0.125}> {
        q = Mul(x, w)
        p = Mul(q, s)
        y = Tanh(p)
    }"""
    moved = text.replace("{1, 2, 3, 4}", "{0.125, 0.25, 0.375, 0.5}").replace(
        "s={0.125}", "s={1}"
    )
    onnx.save(ir.to_proto(graphs.load(text)), tmp_path / "plain.onnx")
    onnx.save(ir.to_proto(graphs.load(moved)), tmp_path / "moved.onnx")
    done = run_tool("compare_layers", "plain.onnx", "moved.onnx")
    assert done.returncode == 1
    assert "q (Mul)" in done.stdout
    assert done.stderr.startswith("1 of the tensors over the threshold are multiples")
    assert "--ledger" in done.stderr
    wrong = text.replace("{1, 2, 3, 4}", "{1, 2, 3, 5}")
    onnx.save(ir.to_proto(graphs.load(wrong)), tmp_path / "wrong.onnx")
    done = run_tool("compare_layers", "plain.onnx", "wrong.onnx")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("want", "got", "multiple"),
    [
        ([1, 2, -3], [0.125, 0.25, -0.375], True),
        ([1, 2, -3], [1.01, 2.02, -3.03], True),
        ([1, 2, -3], [1, 2, -3], False),
        ([1, 2, -3], [-1, -2, 3], False),
        ([1, 2, -3], [1, 2, -3.1], False),
        ([1, 2, -3], [0.125, 0.25, math.nan], False),
        ([0, 0, 0], [0, 1, 0], False),
    ],
)
def test_a_multiple_is_told_from_an_error(want, got, multiple) -> None:
    meter = LayerMeter(Tolerance())
    meter.add(0, np.float32(want), np.float32(got))
    assert meter.layer("a", "a").is_multiple is multiple

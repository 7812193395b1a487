"""``optimize`` and ``validate`` from Python: what is kept, refused and left out."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import ClassVar

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt.api import Options
from graphopt.edit import Edit
from graphopt.errors import PassError, SamplesError, ValidationError
from graphopt.passbase import Context, Pass, PassResult, Promise

MODEL = """g (float[N, 64] x) => (float[N, 64] y)
    <float[64] b = {B}>
    { i = Identity(x)
      h = Add(i, b)
      y = Relu(h) }""".replace("{B}", "{" + ", ".join(["0.5"] * 64) + "}")


@dataclasses.dataclass(frozen=True)
class Wrong(Pass):
    """Adds one to every bias, and promises that this changes nothing."""

    name: ClassVar[str] = "wrong"
    promise: ClassVar[Promise] = Promise.CLOSE

    def run(self, model: ir.Model, context: Context) -> PassResult:
        value = model.graph.initializers["b"]
        assert value.const_value is not None
        data = value.const_value.numpy() + 1

        def rewrite(edit: Edit) -> None:
            edit.set_tensor(value, data)

        context.rewriter(model, self).apply("add-one", "b", rewrite)
        return PassResult(model, modified=True)


@dataclasses.dataclass(frozen=True)
class Slow(Pass):
    """Puts work that cancels out in front of the outputs."""

    name: ClassVar[str] = "slow"
    promise: ClassVar[Promise] = Promise.LOSSY

    def run(self, model: ir.Model, context: Context) -> PassResult:
        (node,) = (node for node in model.graph if node.op_type == "Relu")

        def rewrite(edit: Edit) -> None:
            x = node.inputs[0]
            for _ in range(400):
                (x,) = edit.node("Erf", [x], before=node)
            zero = edit.constant(np.zeros((), np.float32), "zero", near=node)
            (x,) = edit.node("Mul", [x, zero], before=node)
            (x,) = edit.node("Add", [x, node.inputs[0]], before=node)
            edit.set_input(node, 0, x)

        context.rewriter(model, self).apply("waste", node, rewrite)
        return PassResult(model, modified=True, summary="wasted time")


@dataclasses.dataclass(frozen=True)
class Raises(Pass):
    """Fails half-way."""

    name: ClassVar[str] = "raises"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> PassResult:
        raise KeyError("no such thing")


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(graphs.load(MODEL)), path)
    return path


def test_a_result_that_differs_is_not_written(model: pathlib.Path) -> None:
    output = model.with_name("out.onnx")
    output.write_bytes(b"precious")

    with pytest.raises(ValidationError, match="does not validate"):
        graphopt.optimize(model, [Wrong()], output=output)

    assert output.read_bytes() == b"precious"
    assert sorted(p.name for p in model.parent.iterdir()) == ["model.onnx", "out.onnx"]


def test_without_output_a_result_that_differs_is_returned_but_not_saved(
    model: pathlib.Path,
) -> None:
    result = graphopt.optimize(model, [Wrong()])

    assert not result.comparison.passed
    assert not result.latency, "what is wrong is not measured"
    with pytest.raises(ValidationError):
        result.save(model.with_name("out.onnx"))


def test_a_pass_that_makes_the_model_slower_is_left_out(model: pathlib.Path) -> None:
    result = graphopt.optimize(model, [Slow()])

    assert list(result.left_out) == ["slow"]
    assert "slower" in result.left_out["slow"]
    assert result.after.nodes == result.before.nodes


def test_a_slower_model_is_kept_when_asked(model: pathlib.Path) -> None:
    result = graphopt.optimize(model, [Slow()], options=Options(allow_slower=True))

    assert not result.left_out
    assert result.after.nodes > 400
    assert result.speedup is not None
    assert result.speedup < 1


def test_a_pass_that_fails_is_named(model: pathlib.Path) -> None:
    with pytest.raises(PassError, match="raises failed with KeyError"):
        graphopt.optimize(model, [Raises()])


def test_a_model_in_memory(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    proto = onnx.load(model)
    before = proto.SerializeToString()

    result = graphopt.optimize(proto, "simplify")

    assert result.comparison.passed
    assert result.after.nodes == 2
    assert proto.SerializeToString() == before, "the caller's model is untouched"
    result.save(tmp_path / "out.onnx")
    assert len(onnx.load(tmp_path / "out.onnx").graph.node) == 2


class Reader:
    """A calibration data reader as onnxruntime defines it."""

    def __init__(self) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(())
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)

    def rewind(self) -> None:
        self._feeds = iter([{"x": np.full((n, 64), n, np.float32)} for n in (1, 2, 3)])


@pytest.mark.parametrize(
    "samples",
    [Reader(), [{"x": np.zeros((1, 64), np.float32)}, {"x": np.ones((2, 64), np.float32)}]],
)
def test_samples_of_several_kinds(model: pathlib.Path, samples: object) -> None:
    assert graphopt.optimize(model, "simplify", samples=samples).comparison.passed


def test_samples_of_no_known_kind(model: pathlib.Path) -> None:
    with pytest.raises(SamplesError, match="not understood"):
        graphopt.optimize(model, "simplify", samples=3)


def test_validate_with_a_target(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = onnx.load(model)
    (bias,) = other.graph.initializer
    values = onnx.numpy_helper.to_array(bias) + np.linspace(0, 0.05, 64, dtype=np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "b"))
    onnx.save(other, tmp_path / "other.onnx")

    def passes(target: float) -> bool:
        options = Options(quality=target, metric="cosine")
        return graphopt.validate(model, tmp_path / "other.onnx", options=options).passed

    assert passes(0.99)
    assert not passes(0.9999999)


def test_a_generator_of_feeds(model: pathlib.Path) -> None:
    feeds = ({"x": np.full((n, 64), n, np.float32)} for n in (1, 2))
    assert graphopt.optimize(model, "simplify", samples=feeds).comparison.samples == 2


def test_target_without_passes_searches_and_without_samples_is_refused(model) -> None:
    samples = [{"x": np.ones((2, 64), np.float32)}] * 4
    options = Options(quality=0.9, measure=False)
    result = graphopt.optimize(model, samples=samples, options=options)
    assert [step.pass_.name for step in result.steps][-1] == "quantize-auto"
    assert [
        step.pass_.name
        for step in graphopt.optimize(model, options=Options(measure=False)).steps
    ][-1] == "infer-shapes"
    with pytest.raises(SamplesError, match="none were given"):
        graphopt.optimize(model, options=options)


@pytest.mark.parametrize(("target", "passes"), [(0.9, True), (0.99, False)])
def test_metric_of_the_users_judges(model, target: float, passes: bool) -> None:
    def always(outputs: dict, reference: dict, feed: dict, index: int) -> float:
        assert outputs["y"].shape == reference["y"].shape == feed["x"].shape
        assert 0 <= index < 4
        return 0.95

    samples = [{"x": np.ones((2, 64), np.float32)}] * 4
    options = Options(quality=target, metric=always, measure=False)
    found = graphopt.validate(model, model, samples=samples, options=options)
    assert found.passed == passes
    assert found.score_text == "always: 0.95"
    assert found.levels[-1].score == pytest.approx(0.95)
    assert found.metric == "always"
    if not passes:
        assert "always is 0.95, and the target is 0.99" in found.reason


def test_journal_of_a_search_outlives_a_run_that_searches_nothing(model, tmp_path) -> None:
    journal = tmp_path / "out.onnx.search.json"
    journal.write_text("{}", encoding="utf-8")
    graphopt.optimize(model, "default", output=tmp_path / "out.onnx")
    assert journal.exists()

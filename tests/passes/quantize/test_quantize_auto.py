from __future__ import annotations

import json
import pathlib

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.auto_bench import AutoBench
from graphopt.passes.quantize.auto_choice import Choice, Evaluation, Speed
from graphopt.passes.quantize.auto_held_out import HeldOut
from graphopt.passes.quantize.quantize_auto import QuantizeAuto
from quantized import array_of, load_with_weights, set_array

from graphopt.errors import ExecutionError, OutputError, PipelineError, SamplesError
from graphopt.passbase import Context
from graphopt.runtime import Runtime
from graphopt.runtime.latency import Latency
from graphopt.samples import Samples

MLP = """g (float[N,32] x, float[32,32] A, float[32,32] B, float[32,16] C) => (float[N,16] z)
    { a = MatMul(x, A) b = Relu(a) c = MatMul(b, B) d = Tanh(c) z = MatMul(d, C) }"""


def network() -> ir.Model:
    """Return a model whose middle product is hard to quantize."""
    model = load_with_weights(MLP, *"ABC")
    hard = array_of(model, "B").copy() * 0.02
    hard[:, ::2] *= 40
    hard[0] *= 500
    set_array(model, "B", hard)
    for node, name in zip(model.graph, ("one", "relu", "two", "tanh", "three"), strict=True):
        node.name = name
    return model


def feeds(count: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((4, 32)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def twice_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an operator in integer save a tenth of the time: small models cannot be timed."""
    monkeypatch.setattr(
        AutoBench,
        "speeds",
        lambda self, choices: [Speed(0.7 + 0.1 * len(c.kept), 1.0) for c in choices],
    )


def choose(model: ir.Model, context: Context, **options):
    context.samples = Samples.from_feeds(feeds())
    options.setdefault("recover", False)
    return graphs.apply(model, QuantizeAuto(**options), context)


def best(result) -> dict:
    return result.details["best"]


@pytest.mark.usefixtures("twice_as_fast")
def test_everything_where_the_target_is_low(context: Context) -> None:
    model = network()
    result = choose(model, context, target=0.5)
    assert best(result)["kept"] == []
    assert {"A_quantized", "B_quantized", "C_quantized"} <= set(model.graph.initializers)
    assert "operators left in float: cosine" in result.summary


@pytest.mark.usefixtures("twice_as_fast")
@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_harmful_operator_stays_in_float_with_its_reason(
    scheme: str, context: Context
) -> None:
    model = network()
    result = choose(model, context, target=0.9995, schemes=(scheme,))
    assert "two" in best(result)["kept"]
    assert best(result)["quality"] >= 0.9995
    assert "B" in model.graph.initializers
    skips = [skip for skip in context.ledger.skips if skip.pass_name == "quantize-auto"]
    reasons = {skip.anchor: skip.reason for skip in skips}
    assert reasons["two"].startswith("in integer the target is missed: cosine would be 0.")


@pytest.mark.usefixtures("twice_as_fast")
def test_result_has_the_quality_that_was_measured(context: Context) -> None:
    model, original = network(), network()
    result = choose(model, context, target=0.995, recover=True)
    held_out = [feed for index, feed in enumerate(feeds()) if index.bit_count() % 2]
    pairs = [(graphs.run(original, f)[0], graphs.run(model, f)[0]) for f in held_out]
    real, found = (np.concatenate(arrays).ravel() for arrays in zip(*pairs, strict=True))
    cosine = real @ found / np.linalg.norm(real) / np.linalg.norm(found)
    assert cosine == pytest.approx(best(result)["quality"], abs=2e-4)


@pytest.mark.usefixtures("twice_as_fast")
def test_range_method_is_chosen_by_what_it_does_to_the_outputs(context: Context) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((24, 64, 32)).astype(np.float32)
    arrays[22, 0, 0] = 300  # minmax leaves a few of the 256 integers to all the others
    context.samples = Samples.from_feeds([{"x": x} for x in arrays])
    model = load_with_weights(MLP, *"ABC")
    result = graphs.apply(
        model, QuantizeAuto(target=0.5, schemes=("static",), recover=False), context
    )
    (note,) = result.details["notes"]
    assert note.startswith("ranges by ")
    assert "than minmax" in note
    assert array_of(model, "x_scale") < 300 / 255


def test_original_is_kept_where_integers_are_slower(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AutoBench, "speeds", lambda self, choices: [Speed(1.2, 1.0)] * len(choices)
    )
    model = network()
    result = choose(model, context, target=0.5)
    assert not result.modified
    assert best(result)["scheme"] == "float"
    assert len(context.ledger) == 0
    reasons = {skip.reason for skip in context.ledger.skips}
    assert reasons == {"integers are not faster here: 0.83x"}


@pytest.mark.usefixtures("twice_as_fast")
def test_target_that_nothing_reaches_keeps_the_original(context: Context) -> None:
    result = choose(network(), context, target=1.0)
    assert not result.modified
    assert "the quality would be 0." in context.ledger.skips[0].reason


def test_reason_tells_what_would_hold_where_that_is_no_faster(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AutoBench, "speeds", lambda self, choices: [Speed(0.99, 1.0)] * len(choices)
    )
    result = choose(network(), context, target=0.9995, schemes=("static",))
    assert not result.modified
    (reason,) = {skip.reason for skip in context.ledger.skips}
    assert reason.startswith("the quality would be 0.9")
    assert reason.endswith("below 0.9995; with 2 operators in float it holds, at 1.01x")


@pytest.fixture
def only_two_is_hard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "two" alone miss a target of 0.99, and "three" seem to do more harm than it does."""

    def quality(self: AutoBench, choice: Choice) -> Evaluation:
        worth = 0.999 if "two" in choice.kept else 0.9
        return Evaluation(choice, worth, worth, 1000)

    harms = {"two": 1.0, "three": 2.0, "one": 0.0}
    monkeypatch.setattr(AutoBench, "harm", lambda self, scheme, name: harms[name])
    monkeypatch.setattr(AutoBench, "quality", quality)


def reasons_of(context: Context) -> dict[str, str]:
    skips = [skip for skip in context.ledger.skips if skip.pass_name == "quantize-auto"]
    return {skip.anchor: skip.reason for skip in skips}


@pytest.mark.usefixtures("only_two_is_hard")
def test_reason_of_what_was_tried_and_is_no_faster(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speeds(self: AutoBench, choices: list[Choice]) -> list[Speed]:
        return [Speed(0.5 if "three" in c.kept else 0.6, 1.0) for c in choices]

    monkeypatch.setattr(AutoBench, "speeds", speeds)
    choose(network(), context, target=0.99, schemes=("static",))
    reasons = reasons_of(context)
    assert reasons["three"] == "the target holds with it in integer, but it is no faster"
    assert reasons["two"].startswith("in integer the target is missed")


@pytest.mark.usefixtures("twice_as_fast", "only_two_is_hard")
def test_reason_of_what_was_not_tried_before_the_end(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = AutoBench.quality

    def quality(self: AutoBench, choice: Choice) -> Evaluation:
        if choice.kept == ("two",):
            raise KeyboardInterrupt
        return measure(self, choice)

    monkeypatch.setattr(AutoBench, "quality", quality)
    result = choose(network(), context, target=0.99, schemes=("static",))
    assert not result.details["is_complete"]
    reasons = reasons_of(context)
    assert reasons["three"].startswith("not tried by itself in integer before the end")
    assert reasons["two"].startswith("in integer the target is missed")


@pytest.mark.usefixtures("twice_as_fast")
@pytest.mark.parametrize(("metric", "target"), [("sqnr", 15.0), ("top1", 0.8)])
def test_other_metrics(metric: str, target: float, context: Context) -> None:
    result = choose(network(), context, metric=metric, target=target)
    assert best(result)["quality"] >= target


@pytest.mark.usefixtures("twice_as_fast")
def test_front_and_counts_are_published(context: Context) -> None:
    result = choose(network(), context, target=0.9995)
    details = context.artifacts["quantize-auto"]
    assert details.to_json() == result.details
    details = result.details
    assert details["is_complete"]
    assert details["front"][-1]["scheme"] == "float"
    assert len(details["candidates"]) == details["evaluations"]
    assert all(entry in details["candidates"] for entry in details["front"])
    speedups = [entry["speedup"] for entry in details["front"]]
    assert speedups == sorted(speedups, reverse=True)
    json.dumps(details, allow_nan=False)


@pytest.mark.usefixtures("twice_as_fast")
def test_journal_goes_on_where_it_ended(
    context: Context, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = str(tmp_path / "journal.json")
    first = choose(network(), context, target=0.9995, journal=journal)
    built = []
    monkeypatch.setattr(AutoBench, "quality", lambda self, choice: built.append(choice))
    fresh = Context()
    fresh.share(context.runtime)
    again = choose(network(), fresh, target=0.9995, journal=journal)
    assert built == []
    assert best(again) == best(first)


@pytest.mark.usefixtures("twice_as_fast")
def test_journal_of_other_ranges_is_refused(
    context: Context, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = str(tmp_path / "journal.json")
    choose(network(), context, journal=journal)
    monkeypatch.setattr(
        AutoBench, "choose_method", lambda self: self._builder.use_method("average")
    )
    with pytest.raises(PipelineError, match="of another model"):
        choose(network(), context, journal=journal)


@pytest.mark.usefixtures("twice_as_fast")
def test_journal_of_other_samples_of_the_same_number_is_refused(
    context: Context, tmp_path: pathlib.Path
) -> None:
    journal = str(tmp_path / "journal.json")
    choose(network(), context, journal=journal)
    context.samples = Samples.from_feeds([{"x": feed["x"] + 1} for feed in feeds()])
    with pytest.raises(PipelineError, match="other samples"):
        graphs.apply(network(), QuantizeAuto(recover=False, journal=journal), context)


@pytest.mark.usefixtures("twice_as_fast")
def test_journal_of_another_original_is_refused(
    context: Context, tmp_path: pathlib.Path
) -> None:
    """The model is the same, what its quality is a share of is not."""
    journal = str(tmp_path / "journal.json")
    choose(network(), context, journal=journal)
    context.original = load_with_weights(MLP, *"ABC")
    with pytest.raises(PipelineError, match="of another model"):
        choose(network(), context, journal=journal)


def test_samples_that_alternate_are_in_both_parts() -> None:
    halves = HeldOut(Samples.from_feeds([{"x": np.full(1, i % 2)} for i in range(32)]))
    calibrating = [float(feed["x"][0]) for feed in halves.calibration.feeds()]
    assert calibrating.count(0) == calibrating.count(1) == 8
    assert [halves.judges(2 * i) + halves.judges(2 * i + 1) for i in range(16)] == [1] * 16
    assert [halves.calibrating(total) for total in (1, 2, 3, 4)] == [1, 1, 1, 2]


@pytest.mark.usefixtures("only_two_is_hard")
def test_reason_of_what_was_not_timed_before_the_end(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speeds(self: AutoBench, choices: list[Choice]) -> list[Speed]:
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoBench, "speeds", speeds)
    choose(network(), context, target=0.85, schemes=("static",))
    assert set(reasons_of(context).values()) == {
        "the target holds with all in integer: how fast that is was not measured"
    }


def deaths(monkeypatch: pytest.MonkeyPatch, alive: int) -> None:
    """Let the process die that times more than this many models; one saves half."""

    def latency(self: Runtime, models: list[ir.Model], feed: object) -> list[Latency]:
        if len(models) > alive:
            raise ExecutionError("crashed", "onnxruntime died of SIGKILL.")
        ratios = [1.0] + [0.5] * (len(models) - 1)
        return [Latency(r, r, (r, r), r, (r, r), 1) for r in ratios]

    monkeypatch.setattr(Runtime, "latency", latency)


@pytest.mark.usefixtures("only_two_is_hard")
def test_models_that_cannot_be_timed_together_are_timed_alone(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths(monkeypatch, alive=2)
    result = choose(network(), context, target=0.85)
    assert [found["speedup"] for found in result.details["candidates"]] == [1.0, 2.0, 2.0]
    assert best(result)["kept"] == []


@pytest.mark.usefixtures("only_two_is_hard")
def test_search_whose_latency_run_dies_keeps_what_it_found(
    context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deaths(monkeypatch, alive=1)
    result = choose(network(), context, target=0.85, schemes=("static",))
    assert not result.modified
    assert result.details["is_complete"]
    assert [found["quality"] for found in result.details["candidates"]][1:] == [0.9]
    assert set(reasons_of(context).values()) == {
        "the target holds with all in integer: how fast that is was not measured"
    }
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said == (
        "quantize-auto: how fast static is with 0 operators in float is not known: "
        "onnxruntime died of SIGKILL."
    )


def test_reason_of_what_does_not_run(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AutoBench, "quality", lambda self, choice: Evaluation(choice, -np.inf, -np.inf, 1)
    )
    monkeypatch.setattr(AutoBench, "harm", lambda self, scheme, name: 1.0)
    monkeypatch.setattr(AutoBench, "speeds", lambda self, choices: [])
    choose(network(), context, schemes=("static",))
    (reason,) = set(reasons_of(context).values())
    assert reason.startswith("in integer it does not run")


@pytest.mark.usefixtures("twice_as_fast")
def test_figure_of_a_choice_that_was_given_up_says_so(context: Context) -> None:
    result = choose(network(), context, target=0.99999, schemes=("static",))
    partial = [found for found in result.details["candidates"] if found["is_partial"]]
    assert partial
    assert not any(found["speedup"] for found in partial)
    full = [f for f in result.details["candidates"] if not f["kept"]]
    assert not any(found["is_partial"] for found in full)


@pytest.mark.usefixtures("twice_as_fast")
def test_journal_of_another_model_is_refused(context: Context, tmp_path: pathlib.Path) -> None:
    journal = str(tmp_path / "journal.json")
    choose(network(), context, journal=journal)
    other = network()
    set_array(other, "A", array_of(other, "A") * 2)
    with pytest.raises(PipelineError, match="of another model"):
        choose(other, context, journal=journal)
    (tmp_path / "journal.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PipelineError, match="is no journal"):
        choose(network(), context, journal=journal)


@pytest.mark.usefixtures("twice_as_fast")
@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"\xff\xfe",
        b'{"version": 3, "key": "of another"}',
        b"[" * 100_000,
        b'{"version": 4, "key": "", "harms": [], "evaluations": '
        b'[{"scheme": "", "kept": [], "quality": 1, "proven": 1, "size_bytes": 1e999}]}',
    ],
)
def test_file_in_the_place_of_the_journal_is_kept(
    content: bytes, context: Context, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    context.journal = tmp_path / "out.onnx.search.json"
    context.journal.write_bytes(content)
    (tmp_path / "out.onnx.search.json.1").write_bytes(b"of yesterday")
    assert choose(network(), context).modified
    assert (tmp_path / "out.onnx.search.json.1").read_bytes() == b"of yesterday"
    assert (tmp_path / "out.onnx.search.json.2").read_bytes() == content
    assert json.loads(context.journal.read_text())["evaluations"]
    assert "It is kept as out.onnx.search.json.2; the search starts anew" in caplog.text


@pytest.mark.usefixtures("twice_as_fast")
def test_file_that_cannot_be_set_aside_stays(
    context: Context,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: pathlib.Path, target: pathlib.Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    context.journal = tmp_path / "out.onnx.search.json"
    context.journal.write_bytes(b"my notes")
    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    assert choose(network(), context).modified
    assert context.journal.read_bytes() == b"my notes"
    assert "It stays (Operation not permitted); the search is not remembered" in caplog.text


@pytest.mark.usefixtures("twice_as_fast")
def test_journal_that_cannot_be_written_is_an_error_only_where_it_was_asked_for(
    context: Context, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "none" / "journal.json"
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        choose(network(), context, journal=str(path))
    context.journal = path
    assert choose(network(), context).modified
    assert caplog.text.count("The search is not remembered") == 1


def test_interrupt_keeps_what_was_found(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self, choice):
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoBench, "quality", interrupt)
    result = choose(network(), context)
    assert not result.modified
    assert not result.details["is_complete"]


@pytest.mark.usefixtures("twice_as_fast")
def test_budget_ends_the_search(context: Context) -> None:
    result = choose(network(), context, budget_s=1e-6)
    assert result.details["evaluations"] == 1  # the original
    assert "the time was up after 0 choices" in result.details["notes"]
    assert not result.details["is_complete"]


def test_real_latency_is_measured(context: Context) -> None:
    result = choose(network(), context, target=0.5)
    assert all(entry["speedup"] > 0 for entry in result.details["front"])


def test_model_without_products_is_left_alone(context: Context) -> None:
    model = graphs.load("g (float[N,32] x) => (float[N,32] y) { y = Tanh(x) }")
    assert not choose(model, context).modified


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "target"),
        ({"target": 1.5, "metric": "top1"}, "target"),
        ({"schemes": ()}, "schemes"),
        ({"schemes": ("magic",)}, "schemes"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeAuto(**options)


def test_without_samples_is_refused() -> None:
    with pytest.raises(SamplesError, match="none were given"):
        QuantizeAuto().run(network(), Context())

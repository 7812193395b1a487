"""What looks on: timing, verification, dumps, statistics, and the safe mode."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.diff import Snapshot, diff
from graphopt.edit import Edit
from graphopt.errors import OutputError, PassError, ValidationError
from graphopt.instruments import (
    DumpChanged,
    Safe,
    Timing,
    VerifyEach,
    statistics,
    structural_fault,
)
from graphopt.ledger import Ledger
from graphopt.manager import PassManager
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Fixpoint, Reason, Rule, RulePass
from graphopt.runtime import Runtime
from graphopt.samples import Samples

TEXT = """g (float[N,4] x) => (float[N,4] y) <float[4] w={1,2,3,4}> {
    a = Identity(x)
    b = Add(a, w)
    c = Relu(b)
    d = Neg(c)
    e = Relu(a)
    y = Sub(e, d)
}"""


@dataclasses.dataclass(frozen=True)
class Turn(RulePass):
    """Turns each node of one operator into another operator; right or wrong."""

    name: ClassVar[str] = "turn"
    promise: ClassVar[Promise] = Promise.EXACT

    old: str = "Relu"
    new: str = "Abs"

    def rules(self, context: Context) -> Sequence[Rule]:
        def match(node: ir.Node, facts):
            if node.name == "keep":
                return Reason("it is to be kept")

            def rewrite(edit: Edit) -> None:
                (value,) = edit.node(self.new, node.inputs, before=node, like=node.outputs)
                edit.replace(node.outputs[0], value)
                edit.remove(node)

            return rewrite

        return [Rule(f"to-{self.new.lower()}", (self.old,), match)]


@dataclasses.dataclass(frozen=True)
class TurnLossy(Turn):
    name: ClassVar[str] = "turn-lossy"
    promise: ClassVar[Promise] = Promise.LOSSY


@dataclasses.dataclass(frozen=True)
class Scale(Pass):
    """Scales the weight ``w``."""

    name: ClassVar[str] = "scale"
    promise: ClassVar[Promise] = Promise.CLOSE

    by: float = 1.0

    def run(self, model: ir.Model, context: Context) -> PassResult:
        w = model.graph.initializers["w"]
        data = (w.const_value.numpy() * self.by).astype(np.float32)
        rewriter = context.rewriter(model, self)
        done = rewriter.apply("scale", "w", lambda edit: edit.set_tensor(w, data))
        return PassResult(model, modified=done is not None, summary=f"scaled by {self.by}")


@dataclasses.dataclass(frozen=True)
class Nothing(Pass):
    name: ClassVar[str] = "nothing"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> PassResult:
        return PassResult(model, modified=False)


@pytest.fixture(scope="module")
def runtime():
    with contextlib.closing(Runtime()) as one:
        yield one


class TestDiff:
    def test_an_unchanged_model_has_no_lines(self) -> None:
        model = graphs.load(TEXT)
        again = graphs.load(TEXT)
        assert str(diff(Snapshot.of(model), Snapshot.of(again))) == ""

    def test_every_kind_of_change_is_one_line(self) -> None:
        before = """g (float[4] x, bool c) => (float[4] y)
        <float[4] w={1,2,3,4}, float[1] v={1}> {
            a = LeakyRelu<alpha=0.5>(x)
            b = Add(a, w)
            k = If (c) <then_branch = t () => (float[4] r) { r = Add(b, v) },
                        else_branch = e () => (float[4] q) { q = Neg(b) }>
            y = Exp(k)
        }"""
        after = """g (float[4] x, bool c) => (float[4] y)
        <float[4] w={1,2,3,5}, float[2] u={1,2}> {
            a = LeakyRelu<alpha=0.25>(x)
            b = Add(a, w)
            k = If (c) <then_branch = t () => (float[4] r) { r = Abs(b) },
                        else_branch = e () => (float[4] q) { q = Neg(b) }>
            z = Sum(u)
            y = Exp(k)
        }"""
        old, new = graphs.load(before), graphs.load(after, opset=22)
        for model in (old, new):
            node_by_output(model, "k").name = "choice"
        lines = str(diff(Snapshot.of(old), Snapshot.of(new))).splitlines()
        assert lines == [
            "- opset ai.onnx 21",
            "+ opset ai.onnx 22",
            "- a = LeakyRelu(x) {alpha=0.5}",
            "+ a = LeakyRelu(x) {alpha=0.25}",
            "- choice.then_branch: r = Add(b, v)",
            "+ choice.then_branch: r = Abs(b)",
            "+ z = Sum(u)",
            "- weight w: float[4] [1.0, 2.0, 3.0, 4.0]",
            "+ weight w: float[4] [1.0, 2.0, 3.0, 5.0]",
            "- weight v: float[1] [1.0]",
            "+ weight u: float[2] [1.0, 2.0]",
        ]

    def test_large_tensors_are_told_apart_by_their_checksum(self) -> None:
        def model_with(data: np.ndarray) -> ir.Model:
            model = graphs.load("g (float[9] x) => (float[9] y) { y = Relu(x) }")
            value = ir.Value(name="w", const_value=ir.tensor(data, name="w"))
            model.graph.initializers["w"] = value
            return model

        old, new = model_with(np.zeros(9, np.float32)), model_with(np.ones(9, np.float32))
        removed, added = str(diff(Snapshot.of(old), Snapshot.of(new))).splitlines()
        assert removed.startswith("- weight w: float[9] crc32=")
        assert added.startswith("+ weight w: float[9] crc32=")
        assert removed[1:] != added[1:]


def node_by_output(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.outputs[0].name == name)


class TestTiming:
    def test_each_pass_has_its_cost_and_what_it_changed(self) -> None:
        timing = Timing()
        passes = [Turn("Neg", "Exp"), Nothing(), Scale(2.0)]
        model, steps = PassManager(passes, [timing]).run(graphs.load(TEXT), Context())
        for one, step in zip(timing.measurements, steps, strict=True):
            assert (one.label, one.wall_s, one.cpu_s) == (step.label, step.wall_s, step.cpu_s)
            assert one.peak_rss_bytes > 10_000_000
        first, second, third = timing.measurements
        assert (first.nodes, first.nodes_delta, first.rewrites) == (6, 0, 1)
        assert (second.nodes, second.nodes_delta, second.rewrites) == (6, 0, 0)
        assert (third.weight_bytes, third.weight_bytes_delta, third.rewrites) == (16, 0, 1)
        del model

    def test_what_a_guard_took_back_does_not_count(self) -> None:
        timing = Timing()
        context = Context(guards=[lambda m, e: "no" if e.anchor == "c" else ""])
        model = graphs.load(TEXT)
        for node in model.graph:
            node.name = node.outputs[0].name
        _, (step,) = PassManager([Turn()], [timing]).run(model, context)
        assert (len(step.rewrites), step.undone, step.standing) == (2, 1, 1)
        assert timing.measurements[0].rewrites == 1

    def test_nodes_of_subgraphs_and_all_weights_are_counted(self) -> None:
        text = """g (float[4] x, bool c) => (float[4] y) <float[4] w={1,2,3,4}> {
            k = Constant<value = float[2] {1, 2}>()
            y = If (c) <then_branch = t () => (float[4] r) <float[4] v={1,2,3,4}> {
                            s = Relu(x) r = Add(s, v) },
                        else_branch = e () => (float[4] q) { q = Neg(w) }> }"""
        timing = Timing()
        PassManager([Turn("Neg", "Exp")], [timing]).run(graphs.load(text), Context())
        (one,) = timing.measurements
        assert (one.nodes, one.weight_bytes) == (5, 16 + 16 + 8)

    def test_other_instruments_do_not_count_as_the_time_of_a_pass(self) -> None:
        timing = Timing()

        def slow(previous, model, next_) -> None:
            sum(range(2_000_000))

        PassManager([Nothing()], [slow, timing, slow]).run(graphs.load(TEXT), Context())
        assert timing.measurements[0].wall_s < 0.01

    def test_the_trace_is_one_that_trace_viewers_read(self, tmp_path: pathlib.Path) -> None:
        timing = Timing()
        PassManager([Turn(), Scale(2.0)], [timing]).run(graphs.load(TEXT), Context())
        timing.write_trace(tmp_path / "trace.json")
        data = json.loads((tmp_path / "trace.json").read_text("utf-8"))
        spans = [event for event in data["traceEvents"] if event["ph"] == "X"]
        assert [span["name"] for span in spans] == ["turn", "scale{by=2.0}"]
        assert spans[0]["ts"] == 0
        assert spans[1]["ts"] >= spans[0]["dur"] > 0  # microseconds
        assert spans[0]["dur"] == pytest.approx(1e6 * timing.measurements[0].wall_s, abs=1)
        assert spans[0]["args"]["nodes_delta"] == 0
        counters = [event for event in data["traceEvents"] if event["ph"] == "C"]
        assert {event["name"] for event in counters} == {
            "nodes",
            "weight_bytes",
            "peak_rss_bytes",
        }

    def test_a_run_that_starts_again_starts_again_here(self) -> None:
        timing = Timing()
        manager = PassManager([Nothing(), Scale(2.0)], [timing])
        manager.run(graphs.load(TEXT), Context())
        manager.run(graphs.load(TEXT), Context())
        assert len(timing.measurements) == 2


class TestDumpChanged:
    def test_only_what_changed_is_written_with_its_diff(self, tmp_path: pathlib.Path) -> None:
        folder = tmp_path / "made" / "here"
        dump = DumpChanged(folder)
        passes = [Nothing(), Turn("Neg", "Exp"), Nothing(), Scale(2.0)]
        model, _ = PassManager(passes, [dump]).run(graphs.load(TEXT), Context())
        assert sorted(path.name for path in folder.iterdir()) == [
            "00_original.onnx",
            "02_turn_old_Neg_new_Exp.diff",
            "02_turn_old_Neg_new_Exp.onnx",
            "04_scale_by_2.0.diff",
            "04_scale_by_2.0.onnx",
        ]
        assert sorted(dump.written) == sorted(folder.iterdir())
        original = ir.from_proto(onnx.load(folder / "00_original.onnx"))
        assert graphs.text_of(original) == graphs.text_of(graphs.load(TEXT))
        last = ir.from_proto(onnx.load(folder / "04_scale_by_2.0.onnx"))
        assert graphs.text_of(last) == graphs.text_of(model)
        assert (folder / "04_scale_by_2.0.diff").read_text("utf-8").splitlines() == [
            "# scale{by=2.0}: scaled by 2.0",
            "- weight w: float[4] [1.0, 2.0, 3.0, 4.0]",
            "+ weight w: float[4] [2.0, 4.0, 6.0, 8.0]",
        ]

    def test_a_second_run_replaces_the_files_of_the_first(self, tmp_path) -> None:
        dump = DumpChanged(tmp_path)
        (tmp_path / "mine.txt").write_text("stays")
        PassManager([Scale(2.0)], [dump]).run(graphs.load(TEXT), Context())
        PassManager([Nothing(), Scale(3.0)], [dump]).run(graphs.load(TEXT), Context())
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "00_original.onnx",
            "02_scale_by_3.0.diff",
            "02_scale_by_3.0.onnx",
            "mine.txt",
        ]

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(OutputError, match="file/here cannot be made"):
            PassManager([Nothing()], [DumpChanged(tmp_path / "file" / "here")]).run(
                graphs.load(TEXT), Context()
            )


class TestVerifyEach:
    def test_a_pass_that_leaves_an_invalid_graph_is_named_with_its_rewrites(self) -> None:
        passes = [Turn("Neg", "Exp"), Turn("Relu", "NoSuchOperator"), Nothing()]
        with pytest.raises(PassError) as caught:
            PassManager(passes, [VerifyEach()]).run(graphs.load(TEXT), Context())
        text = str(caught.value)
        assert "after turn{new=NoSuchOperator} (rewrites 2 to 3)" in text
        assert "No Op registered for NoSuchOperator" in text
        assert "\n" not in text

    @pytest.mark.parametrize(
        ("text", "damage", "said"),
        [
            (TEXT, lambda g: g.remove(g[1]), "'b'"),
            (TEXT, lambda g: setattr(g[3].outputs[0], "name", "a"), "a"),
            (TEXT, lambda g: setattr(g[2].outputs[0], "shape", ir.Shape([7])), "c"),
            (TEXT, lambda g: setattr(g[3], "domain", "no.such"), "no.such"),
            (TEXT, lambda g: g.insert_before(g[0], pop(g, 4)), "sorted"),
        ],
        ids=["undefined", "twice", "shape", "domain", "order"],
    )
    def test_each_kind_of_damage_is_found(self, text: str, damage, said: str) -> None:
        model = graphs.load(text)
        assert structural_fault(model) == ""
        damage(model.graph)
        assert said in structural_fault(model)

    def test_large_weights_are_not_read(self) -> None:
        class Unreadable(ir.Tensor):
            def tobytes(self):
                raise AssertionError("read")

            numpy = __array__ = tobytes

        model = graphs.load(TEXT)
        kind = ir.TensorType(ir.DataType.FLOAT)
        weight = ir.Value(name="big", shape=ir.Shape([400]), type=kind)
        weight.const_value = Unreadable(np.zeros(400, np.float32), name="big")
        model.graph.initializers["big"] = weight
        model.graph.append(ir.Node("", "Relu", [weight], name="user"))
        assert structural_fault(model) == ""

    def test_a_further_check_is_asked_too(self) -> None:
        instrument = VerifyEach(lambda model: "numbers differ" if len(model.graph) else "")
        with pytest.raises(PassError, match=r"after scale\{by=2.0\}.*: numbers differ"):
            PassManager([Scale(2.0)], [instrument]).run(graphs.load(TEXT), Context())
        PassManager([Nothing()], [instrument]).run(graphs.load(TEXT), Context())


def pop(graph: ir.Graph, index: int) -> ir.Node:
    node = graph[index]
    graph.remove(node)
    return node


class TestStatistics:
    def test_counts_by_rule(self) -> None:
        model = graphs.load(TEXT)
        node_by_output(model, "c").name = "keep"
        context = Context(guards=[lambda m, e: "no" if e.rule == "scale" else ""])
        PassManager([Turn(), Scale(2.0), Turn("Neg", "Exp")]).run(model, context)
        turn, scale, last = statistics(context.ledger)
        assert (turn.pass_name, turn.rule, turn.applied, turn.undone) == (
            "turn",
            "to-abs",
            1,
            0,
        )
        assert (turn.nodes_removed, turn.nodes_added) == (1, 1)
        assert turn.reasons == {"it is to be kept": 1}
        assert (scale.applied, scale.undone, scale.weight_bytes_delta) == (0, 1, 0)
        assert (last.rule, last.applied, last.reasons) == ("to-exp", 1, {})

    def test_a_rule_that_only_refused_is_there_too(self) -> None:
        ledger = Ledger()
        ledger.skip("pass", "rule", "n", "Conv", "too wide")
        (one,) = statistics(ledger)
        assert (one.applied, one.reasons) == (0, {"too wide": 1})


FEEDS = [{"x": np.array([[-3, -1, 1, 2]], np.float32)}]


def safe(runtime: Runtime, passes: list[Pass], **options) -> Safe:
    return Safe(graphs.load(TEXT), passes, Samples.from_feeds(FEEDS), runtime, **options)


def run_safely(runtime: Runtime, passes: list[Pass], **options) -> tuple[ir.Model, Ledger]:
    context = Context(guards=[safe(runtime, passes, **options)])
    model, _ = PassManager(passes).run(graphs.load(TEXT), context)
    return model, context.ledger


class TestSafe:
    def test_only_the_wrong_rewrite_is_undone_and_named(self, runtime: Runtime) -> None:
        passes: list[Pass] = [Fixpoint((Turn("Identity", "Abs"),)), Turn("Add", "Sum")]
        model, ledger = run_safely(runtime, passes)
        wrong, right = ledger.applications
        assert wrong.undone.startswith("output 'y': ")
        assert (right.undone, right.rule) == ("", "to-sum")
        assert "Sum" in [node.op_type for node in model.graph]
        assert "Identity" in [node.op_type for node in model.graph]
        (before,), (after,) = (graphs.run(m, FEEDS[0]) for m in (graphs.load(TEXT), model))
        np.testing.assert_array_equal(before, after)

    def test_a_model_that_no_longer_loads_is_put_right(self, runtime: Runtime) -> None:
        _, ledger = run_safely(runtime, [Turn("Neg", "NoSuchOperator")])
        (entry,) = ledger.applications
        assert "NoSuchOperator" in entry.undone

    def test_close_is_held_to_the_tolerance_however_many_came_before(self, runtime) -> None:
        # Each step is within 1e-4, ten of them are not.
        passes: list[Pass] = [Scale(1 + 5e-5)] * 10
        text = TEXT.replace("d = Neg(c)", "d = Identity(c)")
        context = Context(
            guards=[Safe(graphs.load(text), passes, Samples.from_feeds(FEEDS), runtime)]
        )
        PassManager(passes).run(graphs.load(text), context)
        undone = [bool(entry.undone) for entry in context.ledger.applications]
        assert not undone[0]
        assert undone[-1]
        assert undone == sorted(undone)

    def test_a_lossy_rewrite_is_what_later_ones_are_held_to(self, runtime: Runtime) -> None:
        passes = [TurnLossy("Neg", "Exp"), Scale(1.0), Turn("Exp", "Neg")]
        _, ledger = run_safely(runtime, passes)
        assert [bool(entry.undone) for entry in ledger.applications] == [False, False, True]

    def test_a_lossy_rewrite_may_not_miss_the_target_or_give_nan(self, runtime) -> None:
        passes = [TurnLossy("Neg", "Exp")]
        _, ledger = run_safely(runtime, passes, target=0.99)
        assert "cosine" in ledger.applications[0].undone
        _, ledger = run_safely(runtime, [TurnLossy("Neg", "Sigmoid")])
        assert not ledger.applications[0].undone
        _, ledger = run_safely(runtime, [TurnLossy("Neg", "Log")])
        assert "NaN or infinite" in ledger.applications[0].undone  # the logarithm of 0

    def test_an_original_that_does_not_run_is_said_at_once(self, runtime: Runtime) -> None:
        model = graphs.load(TEXT)
        node_by_output(model, "d").op_type = "NoSuchOperator"
        with pytest.raises(ValidationError, match="the original: "):
            Safe(model, [], Samples.from_feeds(FEEDS), runtime)

"""The ledger: numbers, reasons, and the history of a name."""

from __future__ import annotations

import json

import graphs
import onnx_ir as ir
import pytest

from graphopt.edit import Edit
from graphopt.ledger import Application, Ledger, NodeRecord, WeightRecord
from graphopt.rewriter import Rewriter


def test_applications_are_numbered_from_one() -> None:
    ledger = Ledger()
    entries = [ledger.open("pass", "rule", anchor) for anchor in "abc"]
    assert [entry.number for entry in entries] == [1, 2, 3]
    ledger.drop(entries[2])
    assert ledger.open("pass", "rule", "d").number == 3
    assert len(ledger) == 3


def test_only_the_latest_entry_can_be_dropped() -> None:
    ledger = Ledger()
    first = ledger.open("pass", "rule", "a")
    ledger.open("pass", "rule", "b")
    with pytest.raises(AssertionError, match="latest"):
        ledger.drop(first)


def test_the_limit_counts_what_was_undone_too() -> None:
    ledger = Ledger(limit=2)
    assert not ledger.exhausted
    ledger.open("pass", "rule", "a").undone = "wrong"
    assert not ledger.exhausted
    ledger.open("pass", "rule", "b")
    assert ledger.exhausted
    assert [entry.anchor for entry in ledger.applied()] == ["b"]
    assert Ledger(limit=0).exhausted
    with pytest.raises(ValueError, match=">= 0"):
        Ledger(limit=-1)


def test_applied_can_be_asked_for_one_pass() -> None:
    ledger = Ledger()
    ledger.open("one", "rule", "a")
    ledger.open("two", "rule", "b")
    assert [entry.anchor for entry in ledger.applied("two")] == ["b"]


def test_the_latest_reason_replaces_earlier_ones_and_ends_with_the_application() -> None:
    ledger = Ledger()
    ledger.skip("pass", "rule", "a", "Conv", "first reason")
    ledger.skip("pass", "rule", "b", "Conv", "other")
    ledger.skip("pass", "rule", "a", "Conv", "second reason")
    assert [(skip.anchor, skip.reason) for skip in ledger.skips] == [
        ("a", "second reason"),
        ("b", "other"),
    ]
    entry = ledger.open("pass", "rule", "a")
    ledger.drop(entry)  # it changed nothing: the reason still holds
    assert len(ledger.skips) == 2
    ledger.settle(ledger.open("pass", "rule", "a"))
    assert [skip.anchor for skip in ledger.skips] == ["b"]


def test_a_summary_is_one_line_with_what_matters() -> None:
    def node(name: str, op_type: str) -> NodeRecord:
        return NodeRecord(name, op_type, (), ())

    entry = Application(7, "fuse", "conv-batchnorm", "bn1")
    entry.nodes_removed = [node("conv1", "Conv"), node("bn1", "BatchNormalization")]
    entry.nodes_added = [node("conv1_g1", "Conv")]
    entry.weights_removed = [WeightRecord("w", "FLOAT", (4,), 16)]
    assert entry.summary() == (
        "#7 fuse/conv-batchnorm at 'bn1': -Conv(conv1), -BatchNormalization(bn1), "
        "+Conv(conv1_g1), weights 16 -> 0 bytes"
    )
    entry.nodes_removed *= 3
    assert "-2 more nodes" in entry.summary()
    entry.note, entry.undone = "folded it", "it broke"
    assert entry.summary() == ("#7 fuse/conv-batchnorm at 'bn1': folded it [undone: it broke]")


@pytest.fixture
def rewritten() -> Ledger:
    """Return the ledger of three rewrites: Neg -> Abs, then Abs is removed, then a weight."""
    model = graphs.load(
        """g (float[4] x) => (float[4] y) <float[4] w={1,2,3,4}> {
            a = Neg(x)  b = Add(a, w)  y = Relu(b) }"""
    )
    editor = Rewriter(model, "test", Ledger())
    a = next(iter(model.graph))

    def to_abs(edit: Edit) -> None:
        (new,) = edit.node("Abs", a.inputs, before=a, like=a.outputs)
        edit.replace(a.outputs[0], new)
        edit.remove(a)

    editor.apply("to-abs", a, to_abs)
    absolute = next(node for node in model.graph if node.op_type == "Abs")

    def drop(edit: Edit) -> None:
        edit.replace(absolute.outputs[0], model.graph.inputs[0])
        edit.remove(absolute)

    editor.apply("drop", absolute, drop)
    weight = model.graph.initializers["w"]
    half = ir.tensor(weight.const_value.numpy().astype("float16"))
    editor.apply("halve", "w", lambda edit: edit.set_tensor(weight, half))
    return editor.ledger


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("a", ["to-abs", "drop"]),  # what was computed as a
        ("a_g1", ["to-abs", "drop"]),
        ("x", ["to-abs", "drop"]),  # it carries the data of a now
        ("w", ["halve"]),
        ("b", ["to-abs", "drop"]),  # its input changed twice
        ("y", []),
        ("unknown", []),
    ],
)
def test_the_history_follows_a_name_through_replacements(rewritten, name, rules) -> None:
    assert [entry.rule for entry in rewritten.history(name)] == rules


def test_a_ledger_survives_being_written_as_json(rewritten) -> None:
    rewritten.skip("pass", "rule", "n", "Conv", "too wide")
    again = Ledger.from_json(json.loads(json.dumps(rewritten.to_json())))
    assert again.applications == rewritten.applications
    assert again.skips == rewritten.skips
    assert again.limit is None


def test_something_else_is_no_ledger() -> None:
    with pytest.raises(ValueError, match="expected 'graphopt/ledger/1', found 'other'"):
        Ledger.from_json({"schema": "other"})


def test_what_was_undone_carries_no_history_on(rewritten) -> None:
    for entry in rewritten.applications:
        if entry.rule == "drop":
            entry.undone = "wrong"
    assert [entry.rule for entry in rewritten.history("x")] == []
    assert [entry.rule for entry in rewritten.history("a_g1")] == ["to-abs", "drop"]

"""Every node and weight is accounted for, and its story can be told."""

from __future__ import annotations

import functools
import json
import pathlib
import random
import subprocess
import sys

import faulty
import graphs
import numpy as np
import onnx_ir as ir
import pytest
import random_models

from graphopt import pipeline
from graphopt.debug.explain import account, explain, known_names
from graphopt.edit import Edit
from graphopt.ledger import Ledger
from graphopt.manager import PassManager
from graphopt.passbase import Context
from graphopt.rewriter import Rewriter


@pytest.fixture
def ledger() -> Ledger:
    """Return the ledger of a run in which b -> b_g1 -> a, and y was left alone."""
    model = graphs.load(
        """g (float[4] x) => (float[4] y) <float[4] w={1,2,3,4}> {
            a = Add(x, w) b = Neg(a) y = Relu(b) }"""
    )
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    editor = Rewriter(model, "test", Ledger())
    neg = model.graph[1]

    def to_abs(edit: Edit) -> None:
        (new,) = edit.node("Abs", neg.inputs, before=neg, like=neg.outputs)
        edit.replace(neg.outputs[0], new)
        edit.remove(neg)

    editor.apply("to-abs", neg, to_abs)
    absolute = model.graph[1]

    def drop(edit: Edit) -> None:
        edit.replace(absolute.outputs[0], absolute.inputs[0])
        edit.remove(absolute)

    editor.apply("drop", absolute, drop)
    editor.skip("fuse", model.graph[1], "it has no bias")
    return editor.ledger


@pytest.mark.parametrize(
    ("name", "rules", "became", "reasons"),
    [
        ("b", ["to-abs", "drop"], ("b_g1", "a"), []),
        ("node_b", ["to-abs"], (), []),
        ("b_g1", ["to-abs", "drop"], ("a",), []),
        ("y", ["to-abs", "drop"], (), ["it has no bias"]),
        ("node_y", ["to-abs", "drop"], (), ["it has no bias"]),
        ("w", [], (), []),
    ],
)
def test_the_story_of_a_name(ledger: Ledger, name, rules, became, reasons) -> None:
    found = explain(ledger, name)
    assert [entry.rule for entry in found.rewrites] == rules
    assert found.became == became
    assert [skip.reason for skip in found.skips] == reasons
    assert found.found == bool(rules or reasons)


def test_an_unknown_name_gets_the_nearest(ledger: Ledger) -> None:
    found = explain(ledger, "node_z")
    assert not found.found
    assert "Did you mean 'node_" in found.hint
    assert {"a", "b", "b_g1", "y", "node_b", "node_y"} <= known_names(ledger)
    assert "" not in known_names(ledger)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CONV_5", "Did you mean '/layer5/conv_5', '/layer50/conv_50' or '/layer51/conv_51'?"),
        ("/layer7/conv7", "Did you mean '/layer7/conv_7', "),
        ("%%%", "No name of the 100 that are known is like it."),
        ("", "No name of the 100 that are known is like it."),
    ],
)
def test_a_few_names_are_suggested_and_not_all(name: str, hint: str) -> None:
    ledger = Ledger()
    for at in range(100):
        ledger.open("pass", "rule", f"/layer{at}/conv_{at}")
    assert explain(ledger, name).hint.startswith(hint)


@pytest.mark.parametrize("seed", range(40))
def test_every_node_and_weight_is_accounted_for(seed: int) -> None:
    original = random_models.model(random.Random(seed), 20)
    model = random_models.model(random.Random(seed), 20)
    with Context().closing() as context:
        manager = PassManager(pipeline.parse("simplify"))
        model, _ = manager.run(model, context)
    found = account(original, model, context.ledger)
    assert found.unexplained == ()
    before = sum(len(g) + len(g.initializers) for g in original.graphs())
    after = sum(len(g) + len(g.initializers) for g in model.graphs())
    assert len(found.kept) + len(found.changed) + len(found.gone) == before
    assert len(found.kept) + len(found.changed) + len(found.new) == after


def test_what_no_rewrite_accounts_for_is_told() -> None:
    original, model = faulty.chain(4), faulty.chain(4)
    context = Context()
    PassManager([faulty.Unnumbered()]).run(model, context)
    found = account(original, model, context.ledger)
    assert found.unexplained == ("y",)
    weight = ir.Value(name="stray", const_value=ir.tensor(np.zeros(1), name="stray"))
    model.graph.initializers.add(weight)
    model.graph.remove(model.graph[2])
    assert account(original, model, context.ledger).unexplained == ("v2", "y", "stray")


class TestCommandLine:
    @pytest.fixture
    def run(self, run_tool, tmp_path: pathlib.Path, ledger: Ledger):
        (tmp_path / "run.json").write_text(json.dumps(ledger.to_json()))
        return functools.partial(run_tool, "explain")

    def test_people_read_the_story(self, run) -> None:
        done = run("run.json", "b", "node_y")
        assert done.returncode == 0, done.stderr
        assert "  #1 test/to-abs at 'node_b': " in done.stdout
        assert "    - b = Neg(a)" in done.stdout
        assert "    + b_g1 = Abs(a)" in done.stdout
        assert "  its data is now in a" in done.stdout
        assert "  test/fuse left node_y alone: it has no bias" in done.stdout

    def test_programs_read_json(self, run) -> None:
        done = run("run.json", "b", "--json", script=True)
        data = json.loads(done.stdout)
        assert data["schema"] == "graphopt/explain/1"
        (one,) = data["names"]
        assert (one["found"], one["became"]) == (True, ["b_g1", "a"])
        assert [entry["number"] for entry in one["rewrites"]] == [1, 2]

    def test_an_unknown_name_is_exit_code_1(self, run) -> None:
        done = run("run.json", "node_z")
        assert done.returncode == 1
        assert "nothing is known of it. Did you mean 'node_" in done.stdout

    def test_without_a_name_everything_is_listed(self, run) -> None:
        done = run("run.json")
        assert done.returncode == 0
        assert [line.split()[0] for line in done.stdout.splitlines()] == [
            *("#1", "#2", "test/fuse")
        ]
        assert json.loads(run("run.json", "--json").stdout)["schema"] == "graphopt/ledger/1"

    def test_another_file_is_one_line(self, run) -> None:
        done = run("chain.onnx", "b")
        assert done.returncode == 2
        assert done.stderr.startswith("explain: error [ledger/no-ledger]")

    def test_a_reader_that_leaves_early_is_no_error(self, run, tmp_path) -> None:
        ledger = Ledger()
        for number in range(5000):
            ledger.open("pass", "rule", f"node_{number}")
        (tmp_path / "long.json").write_text(json.dumps(ledger.to_json()))
        command = f"{sys.executable} -m graphopt.tools.explain long.json | head -1"
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith("#1 pass/rule at 'node_0'")
        assert done.stderr == ""

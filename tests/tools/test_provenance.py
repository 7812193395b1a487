"""What made each node and weight can be read from the optimized file alone."""

from __future__ import annotations

import base64
import functools
import json
import pathlib
import random
import zlib

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import random_models

import graphopt
import graphopt.pipeline
import graphopt.records
from graphopt import model_io
from graphopt.api import Options
from graphopt.debug.explain import explain, known_names
from graphopt.debug.ledgers import LedgerError, open_ledger
from graphopt.instruments.provenance import (
    LEDGER,
    REWRITES,
    RUNS,
    read_provenance,
    read_runs,
    write_provenance,
)
from graphopt.ledger import Ledger

TEXT = """g (float[4] x) => (float[4] y) <float[4] w={1,2,3,4}, float[4] v={1,1,1,1}> {
    a = Add(x, w) b = Identity(a) c = Add(w, v) d = Mul(b, c) y = Sigmoid(d) }"""
PASSES = "[fold-constants,eliminate-identity,eliminate-dead-code]"
WITH = Options(provenance=True, measure=False)


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    model = graphs.load(TEXT)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    onnx.save(ir.to_proto(model), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def optimized(source, passes: str, name: str, options: Options = WITH):
    output = pathlib.Path(source).with_name(name)
    return graphopt.optimize(source, passes, output=output, options=options), output


def marks(path: pathlib.Path) -> dict[str, str]:
    graph = onnx.load(path).graph
    found = {}
    for thing in (*graph.node, *graph.initializer):
        for entry in thing.metadata_props:
            assert entry.key == REWRITES
            found[thing.name] = entry.value
    return found


def test_each_node_and_weight_says_which_rewrites_made_it(source: pathlib.Path) -> None:
    result, output = optimized(source, PASSES, "out.onnx")
    assert [entry.summary() for entry in result.ledger.applications] == [
        "#1 eliminate-identity/identity at 'node_b': -Identity(node_b)",
        "#2 fold-constants/fold at 'node_c': -Add(node_c), weights 0 -> 16 bytes",
        "#3 eliminate-dead-code/unused-initializers at 'g': weights 16 -> 0 bytes",
    ]
    assert marks(output) == {
        "node_d": "#1 eliminate-identity/identity; #2 fold-constants/fold",
        "c": "#2 fold-constants/fold",
    }
    (run,) = open_ledger(output).runs
    assert (run.graphopt, run.passes, run.last) == (graphopt.__version__, PASSES, 3)
    assert run.options == {}


def test_onnxruntime_runs_the_file_as_it_does_without(source: pathlib.Path) -> None:
    feed = {"x": np.array([1, -2, 3, 4], np.float32)}
    runs = []
    for name, options in (("a.onnx", WITH), ("b.onnx", Options(measure=False))):
        _, output = optimized(source, PASSES, name, options)
        onnx.checker.check_model(onnx.load(output), full_check=True)
        session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
        runs += session.run(None, feed)
    np.testing.assert_array_equal(runs[0], runs[1])


def test_it_is_off_by_default(source: pathlib.Path) -> None:
    _, output = optimized(source, PASSES, "out.onnx", Options(measure=False))
    assert marks(output) == {}
    assert not onnx.load(output).metadata_props


def test_a_second_run_writes_the_same_file(source: pathlib.Path) -> None:
    _, first = optimized(source, PASSES, "first.onnx")
    _, again = optimized(source, PASSES, "again.onnx")
    result, second = optimized(first, PASSES, "second.onnx")
    assert len(result.ledger) == 0
    assert first.read_bytes() == again.read_bytes() == second.read_bytes()


def test_a_run_without_a_rewrite_is_recorded_where_there_is_no_record(source) -> None:
    _, output = optimized(source, "eliminate-noop", "out.onnx", Options(
        provenance=True, measure=False, seed=3, limit=7, safe=True
    ))  # fmt: skip
    (run,) = open_ledger(output).runs
    assert (run.passes, run.last) == ("eliminate-noop", 0)
    assert run.options == {"seed": 3, "limit": 7, "safe": True}


def test_numbers_go_on_in_the_next_run(source: pathlib.Path) -> None:
    _, first = optimized(source, "eliminate-identity", "first.onnx")
    _, second = optimized(first, "fold-constants,eliminate-dead-code", "second.onnx")
    assert marks(second)["node_d"] == "#1 eliminate-identity/identity; #2 fold-constants/fold"
    read = open_ledger(second)
    assert [entry.number for entry in read.ledger.applications] == [1, 2, 3]
    assert [run.last for run in read.runs] == [1, 3]


def test_a_later_run_without_the_option_keeps_the_record(source: pathlib.Path) -> None:
    _, first = optimized(source, "eliminate-identity", "first.onnx")
    _, second = optimized(first, "fold-constants", "second.onnx", Options(measure=False))
    assert [run.last for run in open_ledger(second).runs] == [1]


@pytest.mark.parametrize("seed", range(10))
def test_the_file_alone_tells_what_the_ledger_tells(tmp_path: pathlib.Path, seed: int) -> None:
    model = random_models.model(random.Random(seed), 20)
    with graphopt.Context().closing() as context:
        manager = graphopt.PassManager(graphopt.pipeline.parse("simplify"))
        model, _ = manager.run(model, context)
    write_provenance(model, context.ledger, "simplify", {})
    model_io.save(model, tmp_path / "out.onnx")
    read = open_ledger(tmp_path / "out.onnx")
    assert read.ledger.to_json() == context.ledger.to_json()
    for name in known_names(context.ledger):
        assert explain(read.ledger, name) == explain(context.ledger, name)


def test_a_node_in_a_subgraph_and_an_undone_rewrite(tmp_path: pathlib.Path) -> None:
    model = graphs.load(
        """g (float[4] x, bool c) => (float[4] y) {
            y = If (c) <
                then_branch = t () => (float[4] p) { q = Neg(x) p = Abs(q) },
                else_branch = e () => (float[4] r) { r = Neg(x) }> }"""
    )
    inner = next(iter(model.graph[0].attributes["then_branch"].as_graph()))
    ledger = Ledger()
    for number, undone in ((1, ""), (2, "it was wrong")):
        entry = ledger.open("pass", f"rule-{number}", "q")
        entry.nodes_changed.append(graphopt.records.record_of(inner))
        entry.undone = undone
    write_provenance(model, ledger, "pass", {})
    found = {
        node.outputs[0].name: node.metadata_props.get(REWRITES)
        for graph in model.graphs()
        for node in graph
    }
    assert found == {"y": None, "q": "#1 pass/rule-1", "p": None, "r": None}
    assert [e.undone for e in read_provenance(model).applications] == ["", "it was wrong"]


def packed(data: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(data).encode())).decode()


ENTRY = {"number": 1, "pass_name": "p", "rule": "r", "anchor": "a"}
GOOD = {"schema": "graphopt/ledger/1", "limit": None, "applications": [ENTRY], "skips": []}


@pytest.mark.parametrize(
    "record",
    [
        "",
        "?",
        "AAAA",
        packed(GOOD)[:-8],
        packed([]),
        packed({**GOOD, "schema": "other"}),
        packed({**GOOD, "applications": [{**ENTRY, "number": "1"}]}),
        packed({**GOOD, "applications": [{**ENTRY, "anchor": ["a"]}]}),
        packed({**GOOD, "applications": [{**ENTRY, "nodes_added": [[]]}]}),
        packed({**GOOD, "applications": [{**ENTRY, "values_replaced": {"a": []}}]}),
        packed({**GOOD, "applications": [{**ENTRY, "what": 1}]}),
        packed({**GOOD, "skips": [dict.fromkeys(
            ("pass_name", "rule", "anchor", "op_type", "reason"), 1)]}),
    ],
)  # fmt: skip
def test_a_broken_record_is_none(source: pathlib.Path, record: str) -> None:
    proto = onnx.load(source)
    onnx.helper.set_model_props(proto, {LEDGER: record, RUNS: '{"schema": "x"}'})
    onnx.save(proto, source)
    assert read_provenance(model_io.load(source)) is None
    with pytest.raises(LedgerError, match="does not say how it was made") as caught:
        open_ledger(source)
    assert caught.value.code == "ledger/no-ledger"
    _, output = optimized(source, PASSES, "out.onnx")
    assert [run.last for run in open_ledger(output).runs] == [3]


def test_a_record_that_unpacks_to_too_much_is_none(source, monkeypatch) -> None:
    model = model_io.load(source)
    model.metadata_props[LEDGER] = packed(GOOD)
    assert read_provenance(model) is not None
    monkeypatch.setattr("graphopt.instruments.provenance.MOST_BYTES", 20)
    assert read_provenance(model) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "graphopt/provenance/1"}', '1',
                                  '{"schema": "graphopt/provenance/1", "runs": [1]}',
                                  "[" * 100_000])  # fmt: skip
def test_broken_runs_are_none(text: str) -> None:
    model = graphs.load(TEXT)
    model.metadata_props[RUNS] = text
    assert read_runs(model) == []


class TestCommandLine:
    @pytest.fixture
    def run(self, run_tool, source: pathlib.Path):
        optimized(source, PASSES, "out.onnx")
        return functools.partial(run_tool, "explain")

    def test_the_file_is_explained(self, run) -> None:
        done = run("out.onnx", "node_c", "node_a", script=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "node_c",
            "  #2 fold-constants/fold at 'node_c': -Add(node_c), weights 0 -> 16 bytes",
            "    - c = Add(w, v)",
            "    ~ d = Mul(a, c)",
            "node_a",
            "  no rewrite touched it",
        ]

    def test_the_runs_are_listed(self, run) -> None:
        done = run("out.onnx")
        assert done.stdout.startswith(f"graphopt {graphopt.__version__}: {PASSES}, up to #3\n")
        assert json.loads(run("out.onnx", "--json").stdout)["runs"][0]["last"] == 3

    def test_a_name_that_is_nowhere_gets_the_nearest_of_the_model(self, run) -> None:
        done = run("out.onnx", "node_aa")
        assert done.returncode == 1
        assert "Did you mean 'node_a', " in done.stdout

    def test_compare_layers_reads_it(self, run, run_tool, source: pathlib.Path) -> None:
        done = run_tool("compare_layers", source, "out.onnx", "--json", "--all")
        names = {
            one["name"]: one["candidate_name"] for one in json.loads(done.stdout)["layers"]
        }
        assert names["b"] == "a"

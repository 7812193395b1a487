"""The command line of ``trace_passes``, run as people run it."""

from __future__ import annotations

import functools
import json
import pathlib

import onnx
import pytest

from graphopt.ledger import Ledger


@pytest.fixture
def run(run_tool):
    return functools.partial(run_tool, "trace_passes")


PASSES = "eliminate-dead-code,faulty{at=i7},infer-shapes"


def test_files_tell_what_each_pass_did(run, tmp_path: pathlib.Path) -> None:
    done = run("chain.onnx", "--passes", PASSES, "--data", "chain.npz", "-o", "out/here")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "here"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00_original.onnx",
        "02_faulty_at_i7.diff",
        "02_faulty_at_i7.onnx",
        "ledger.json",
        "trace.json",
    ]
    kinds = [node.op_type for node in onnx.load(folder / "02_faulty_at_i7.onnx").graph.node]
    assert kinds == ["Add", "Neg", "Sigmoid"]
    diff = (folder / "02_faulty_at_i7.diff").read_text("utf-8").splitlines()
    assert diff[0].startswith("# faulty{at=i7}: ")
    assert "- v1 = Identity(v0)" in diff
    assert "+ v7_g1 = Neg(v0)" in diff
    ledger = Ledger.from_json(json.loads((folder / "ledger.json").read_text("utf-8")))
    assert [entry.anchor for entry in ledger.applications] == [f"i{i}" for i in range(1, 12)]
    trace = json.loads((folder / "trace.json").read_text("utf-8"))
    names = [event["name"] for event in trace["traceEvents"] if event["ph"] == "X"]
    assert names == ["eliminate-dead-code", "faulty{at=i7}", "infer-shapes"]
    assert "faulty{at=i7}" in done.stdout
    assert "faulty/remove-identity" in done.stdout


def test_the_error_appears_with_the_pass_that_makes_it(run) -> None:
    done = run("chain.onnx", "--passes", PASSES, "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["schema"] == "graphopt/trace/1"
    first, second, third = data["passes"]
    assert (first["error"]["max_abs"], first["error"]["sqnr_db"]) == (0, None)
    assert second["error"]["output"] == "y"
    assert second["error"]["max_abs"] > 0.1
    assert second["error"]["needed"] > 1
    assert third["error"] == second["error"]
    assert (second["nodes_delta"], second["rewrites"]) == (-10, 11)
    assert data["rules"][0]["rule"] == "remove-identity"
    assert data["rules"][0]["applied"] == 11


def test_a_model_that_no_longer_runs_is_said(run) -> None:
    done = run("chain.onnx", "--passes", "faulty{at=i3,how=invalid}", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["passes"]
    assert "NoSuchOperator" in one["error"]["fault"]
    assert one["error"]["max_abs"] is None


def test_every_single_rewrite_can_be_looked_at(run, tmp_path: pathlib.Path) -> None:
    done = run("chain.onnx", "--passes", "faulty{at=i2}", "-o", "out", "--each-rewrite")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "rewrites"
    assert len(list(folder.iterdir())) == 2 * 11
    stem = "0002_faulty_remove-identity"
    kinds = [node.op_type for node in onnx.load(folder / f"{stem}.onnx").graph.node]
    assert kinds == ["Add", "Neg", *["Identity"] * 9, "Sigmoid"]
    diff = (folder / f"{stem}.diff").read_text("utf-8").splitlines()
    assert diff[0].startswith("# #2 faulty/remove-identity at 'i2'")
    assert diff[1:] == [
        "- v3 = Identity(v2)",
        "+ v3 = Identity(v2_g1)",
        "- v2 = Identity(v0)",
        "+ v2_g1 = Neg(v0)",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.onnx", "-o", "out"], "missing.onnx"),
        (["chain.onnx"], "Missing option '-o'"),
        (["chain.onnx", "-o", "chain.npz/out"], "chain.npz/out cannot be a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments: list[str], said: str) -> None:
    done = run(*arguments, script=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr

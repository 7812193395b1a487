"""The overhead of looking on is measured; what it is, the benchmark says."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("arguments", [["chain.onnx", "--nodes", "0"], ["--nodes", "40"]])
def test_programs_read_json(run_tool, arguments: list[str]) -> None:
    done = run_tool("bench_instruments", *arguments, "--rounds", "2", "--json")
    data = json.loads(done.stdout)
    assert data["schema"] == "graphopt/bench-instruments/1"
    assert done.returncode == (0 if data["met"] else 1)
    (one,) = data["models"]
    assert one["rewrites"] >= 11
    assert one["passes_ms"] > 0
    assert one["rounds"] == 2
    assert one["on_percent"] == pytest.approx(
        one["looking_percent"] + one["ledger_percent"], abs=0.01
    )


def test_a_model_that_takes_long_gets_two_rounds(run_tool) -> None:
    few = ["--nodes", "0", "--rounds", "50", "--seconds", "0.001"]
    done = run_tool("bench_instruments", "chain.onnx", *few, "--json")
    (one,) = json.loads(done.stdout)["models"]
    assert one["rounds"] == 2


def test_people_read_a_table(run_tool) -> None:
    done = run_tool("bench_instruments", "chain.onnx", "--nodes", "0", "--rounds", "2")
    assert done.stdout.splitlines()[1].startswith("chain.onnx")
    assert "off < 0.5 % and on < 5.0 %: " in done.stdout

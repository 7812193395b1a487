"""The scaling benchmark runs, and says in one line what is wrong with its input."""

from __future__ import annotations

import json

import onnx
import pytest
from graphopt.tools import bench_scale


@pytest.mark.parametrize("sizes", ["abc", "", "10,", "-5", "1e3", "11"])
def test_sizes_that_are_none_are_one_line(run_tool, sizes: str) -> None:
    done = run_tool("bench_scale", "chain", "--sizes", sizes)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench_scale: error [usage]: Invalid value for '--sizes'")


@pytest.mark.parametrize("kind", sorted(bench_scale.GRAPHS))
def test_the_smallest_graph_of_each_kind_is_one(kind: str) -> None:
    onnx.checker.check_model(bench_scale.graph_of(kind, bench_scale.LEAST), full_check=True)


def test_programs_read_json(run_tool) -> None:
    done = run_tool("bench_scale", "chain", "--sizes", "12", "--json")
    (row,) = json.loads(done.stdout)
    assert (row["kind"], row["size"], row["nodes"]) == ("chain", 12, 12)

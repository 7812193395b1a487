"""The memory of compare_layers is measured; what it is, the benchmark says."""

from __future__ import annotations

import json
import pathlib
import sys

from graphopt.tools import bench_memory


def test_programs_read_json(run_tool) -> None:
    done = run_tool("bench_memory", "chain.onnx", "--samples", "1", "--json")
    data = json.loads(done.stdout)
    assert data["schema"] == "graphopt/bench-memory/1"
    assert done.returncode == (0 if data["met"] else 1)
    (one,) = data["models"]
    # Looked at now and then: a short peak of the largest may be above the sum that was seen.
    assert min(one["together_mb"], one["largest_mb"]) > 10
    assert one["together_ratio"] > 0.5


def test_a_model_that_does_not_run_is_one_line(run_tool) -> None:
    done = run_tool("bench_memory", "missing.onnx")
    assert done.returncode == 2
    (*_, line) = done.stderr.splitlines()
    assert line.startswith("bench_memory: error [model/missing-file]: ")
    assert "missing.onnx" in line


def test_memory_that_two_processes_are_in_is_counted_once(monkeypatch) -> None:
    # As a child that is being started is in its parent's: here it is a thread.
    def tree(pid):
        return [int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").glob("*")]

    monkeypatch.setattr(bench_memory, "_tree", tree)
    wait = "import threading, time; held = bytearray(50 << 20); sleep = lambda: time.sleep(1)"
    threads = "[threading.Thread(target=sleep).start() for _ in range(3)]"
    found = bench_memory.peak([sys.executable, "-c", f"{wait}; {threads}"])
    assert 50 << 20 < found["together"] <= found["largest"]

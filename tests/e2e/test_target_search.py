"""``graphopt optimize --target`` from the command line: the search, and Ctrl-C in it."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantized import load_with_weights

TEXT = """g (float[N,64] x, float[64,64] A, float[64,64] B, float[64,16] C) => (float[N,16] z)
    { a = MatMul(x, A) b = Relu(a) c = MatMul(b, B) d = Tanh(c) z = MatMul(d, C) }"""

# Slow on purpose, so that a signal comes in the middle. It tells where it is by a file.
METRIC = """
import pathlib, time
def share(outputs, reference, index):
    time.sleep(0.02)
    with open("calls", "a") as file:
        file.write("x")
    return float((outputs["z"].argmax(-1) == reference["z"].argmax(-1)).mean())
def broken(outputs):
    return "good"
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    ir.save(load_with_weights(TEXT, *"ABC"), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((12, 4, 64)).astype(np.float32)
    for index, rows in enumerate(x):
        (tmp_path / "data").mkdir(exist_ok=True)
        np.savez(tmp_path / "data" / f"{index:02}.npz", x=rows)
    (tmp_path / "slow_metric.py").write_text(METRIC)
    return tmp_path


def start(folder: pathlib.Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from graphopt.cli import main; main()"]
    command += ["optimize", "model.onnx"]
    command += ["-o", "out.onnx", "--data", "data", "--no-measure", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may have told its background jobs to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def run(folder: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def interrupt_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)


SLOW = ("--target", "0.9", "--metric", "slow_metric:share", "--json")


def details_of(report: str) -> dict:
    return next(
        step["details"]
        for step in json.loads(report)["steps"]
        if step["pass"].startswith("quantize-auto")
    )


def test_interrupt_writes_the_best_so_far_and_the_next_run_goes_on(folder) -> None:
    journal = folder / "out.onnx.search.json"
    process = start(folder, *SLOW)
    interrupt_when(process, journal.exists)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    details = details_of(out)
    assert not details["is_complete"]
    assert any("the same command goes on from here" in note for note in details["notes"])
    onnx.checker.check_model(onnx.load(folder / "out.onnx"), full_check=True)
    known = json.loads(journal.read_text())["evaluations"]
    assert known

    (folder / "calls").unlink()
    again = run(folder, *SLOW)
    assert again.returncode == 0, again.stderr
    details = details_of(again.stdout)
    assert details["is_complete"]
    assert any(f"{len(known)} evaluations were known" in note for note in details["notes"])
    assert details["evaluations"] > len(known)
    # The original, what was new, and the proof; what was known was not judged again.
    new = details["evaluations"] - 1 - len(known)
    assert len((folder / "calls").read_text()) <= 12 + 12 * new + 12
    assert not journal.exists()


def test_interrupt_before_there_is_anything_writes_nothing(folder) -> None:
    (folder / "calls").write_text("")
    process = start(folder, *SLOW)
    # While the answers of the original are scored.
    interrupt_when(process, lambda: (folder / "calls").stat().st_size > 3)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "graphopt: error [interrupted]: stopped; nothing was written."
    left = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert left == {"model.onnx", "data", "slow_metric.py", "calls"}


def test_metric_that_returns_nonsense_is_one_line(folder) -> None:
    done = run(folder, "--target", "0.9", "--metric", "slow_metric:broken")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "[metric/no-number]: slow_metric:broken returned 'good' for sample 1" in line
    assert not (folder / "out.onnx").exists()

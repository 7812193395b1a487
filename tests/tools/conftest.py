"""Shared by the tests of the tools."""

import os
import pathlib
import subprocess
import sys

import faulty
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run_tool(plugin, tmp_path):
    """Return a function that runs a tool, in ``tmp_path``, with the faulty passes installed.

    There is a ``chain.onnx`` of 11 ``Identity`` nodes, with ``chain.npz``.
    """
    source = pathlib.Path(faulty.__file__).read_text("utf-8")
    folder = plugin(source, {"faulty": "Faulty", "unnumbered": "Unnumbered"}, "plugged_faulty")
    path = os.pathsep.join(map(str, (folder, ROOT / "tests")))
    faulty.save_chain(tmp_path / "chain.onnx", 11)

    def run(tool, *arguments, script=False):
        how = [str(ROOT / f"tools/{tool}.py")] if script else ["-m", f"graphopt.tools.{tool}"]
        return subprocess.run(
            [sys.executable, *how, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return run

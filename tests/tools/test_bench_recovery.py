import json

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from graphopt.tools import bench_recovery
from networks import network

DENSE = """g (float[N, 8] x) => (float[N, 3] y)
    <float[8, 40] w1, float[40, 30] w2, float[30, 3] w3>
    { a = MatMul(x, w1)
      b = Relu(a)
      c = MatMul(b, w2)
      d = Relu(c)
      y = MatMul(d, w3) }"""


def test_memory_is_measured_for_every_number_of_samples(tmp_path):
    path = tmp_path / "dense.onnx"
    ir.save(network(DENSE), path)
    done = CliRunner().invoke(bench_recovery.main, [str(path), "--samples", "8,64", "--json"])
    assert done.exit_code == 0, done.output
    few, many = json.loads(done.stdout)["models"]
    assert (few["samples"], many["samples"]) == (8, 64)
    assert few["layers"] == many["layers"] == 2
    assert few["recovery_mb"] > 0
    assert abs(few["extra_mb"] - (few["recovery_mb"] - few["plain_mb"])) <= 1  # rounded


@pytest.mark.parametrize("name", ["missing.onnx", "folder", "words.onnx"])
def test_what_is_no_model_is_one_line(name, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "words.onnx").write_text("no model")
    done = CliRunner().invoke(bench_recovery.main, [str(tmp_path / name)])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert name in line


@pytest.mark.parametrize("counts", ["", "4,", "few", "0", "-4"])
def test_numbers_of_samples_are_positive(counts, tmp_path):
    done = CliRunner().invoke(bench_recovery.main, [str(tmp_path), "--samples", counts])
    assert done.exit_code == 2
    assert "no list of positive numbers" in done.stderr.splitlines()[-1]

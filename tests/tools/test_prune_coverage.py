import json

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from graphopt.tools import prune_coverage
from networks import network

# Of u nothing can be cut: an input and an output of the graph stay.
DENSE = """g (float[N, 8] x) => (float[N, 3] y) <float[40, 8] v, float[40, 3] w, float[8, 3] u>
    { t = Transpose<perm = [1, 0]>(v)
      a = MatMul(x, t)
      b = Relu(a)
      c = MatMul(b, w)
      d = MatMul(x, u)
      y = Add(c, d) }"""


@pytest.fixture
def path(tmp_path):
    ir.save(network(DENSE), tmp_path / "dense.onnx")
    return str(tmp_path / "dense.onnx")


def test_programs_read_what_is_reached_and_removed(path):
    done = CliRunner().invoke(prune_coverage.main, [path, "--ratio", "0.25", "--json"])
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["models"]
    assert one.pop("cpu_s_per_1000_nodes") > 0
    removed = round(10 * (8 + 3) / (40 * 8 + 40 * 3 + 8 * 3), 4)
    expected = {"model": "dense.onnx", "nodes": 6, "weights": 3, "reached": 2}
    assert one == {**expected, "removed": removed}


def test_people_read_a_table(path):
    done = CliRunner().invoke(prune_coverage.main, [path])
    assert done.exit_code == 0, done.output
    assert "2 of 3" in done.stdout

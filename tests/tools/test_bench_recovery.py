import json

import onnx_ir as ir
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

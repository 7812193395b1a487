from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx_ir as ir
from click.testing import CliRunner
from graphopt.tools.bench_calibration import main
from quantized import load_with_weights

TEXT = """g (float[N,32] x, float[32,64] A, float[64,8] B) => (float[N,8] z)
    { a = MatMul(x, A) b = Relu(a) z = MatMul(b, B) }"""


def test_figures_of_both_sides(tmp_path: pathlib.Path) -> None:
    ir.save(load_with_weights(TEXT, *"AB"), tmp_path / "small.onnx")
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    arguments = [str(tmp_path / "small.onnx"), "--data", str(tmp_path / "x.npz")]
    counts = ["--few", "2", "--many", "6", "--time-samples", "3", "--peer-bins", "256"]
    counts += ["--peer-samples", "3", "--peer-samples", "2"]
    done = CliRunner().invoke(
        main, [*arguments, *counts, "--rounds", "1", "--json"], catch_exceptions=False
    )
    found = json.loads(done.stdout)
    assert found["tensors"] == 2  # x and b: the others stay float
    for key in ("memory_ratio", "time_ratio"):
        assert found[key] > 0
    sizes = [(peer["samples"], peer.get("num_bins")) for peer in found["peers"]]
    assert sizes == [(2, None), (3, None), (2, 256)]
    for peer in found["peers"]:
        assert peer["tensors"] == 4
        assert min(peer["peer_s"], peer["same_s"]) > 0


def test_model_that_the_peer_refuses_has_the_other_figures(tmp_path: pathlib.Path) -> None:
    """onnxruntime makes no histogram of a mask that goes down to the least float32."""
    model = load_with_weights(
        TEXT.replace("z = MatMul(b, B)", "c = Mul(b, m) z = MatMul(c, B)").replace(
            "{ a", "<float m = {3e38}> { a"
        ),
        *"AB",
    )
    ir.save(model, tmp_path / "small.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 32), np.float32))
    counts = ["--few", "1", "--many", "2", "--time-samples", "1", "--peer-samples", "1"]
    done = CliRunner().invoke(
        main,
        [
            str(tmp_path / "small.onnx"),
            "--data",
            str(tmp_path / "x.npz"),
            *counts,
            "--rounds",
            "1",
        ],
        catch_exceptions=False,
    )
    assert "the peer     fails over 1 samples: a part of the benchmark failed" in done.stdout
    assert "time         inference" in done.stdout


def test_model_that_does_not_run_is_one_line(tmp_path: pathlib.Path) -> None:
    ir.save(load_with_weights(TEXT, *"AB"), tmp_path / "small.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((4, 31), np.float32))
    done = CliRunner().invoke(
        main, [str(tmp_path / "small.onnx"), "--data", str(tmp_path / "x.npz")]
    )
    assert done.exit_code != 0

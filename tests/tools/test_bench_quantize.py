from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx_ir as ir
from click.testing import CliRunner
from graphopt.tools.bench_quantize import main
from graphopt.tools.quantizers import TOOLS
from quantized import load_with_weights

TEXT = """g (float[N,32] x, float[32,64] A, float[64,8] B) => (float[N,8] z)
    { a = MatMul(x, A) b = Relu(a) z = MatMul(b, B) }"""


def save(folder: pathlib.Path) -> tuple[str, str]:
    ir.save(load_with_weights(TEXT, *"AB"), folder / "small.onnx")
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=rng.standard_normal((9, 32)).astype(np.float32))
    return str(folder / "small.onnx"), str(folder / "x.npz")


def test_table_of_both_sides(tmp_path: pathlib.Path) -> None:
    model, data = save(tmp_path)
    arguments = [
        model,
        "--data",
        data,
        "--repetitions",
        "2",
        "--output",
        str(tmp_path / "out"),
    ]
    tools = ["--tools", "ort-dynamic,static,smooth-dynamic"]
    done = CliRunner().invoke(main, [*arguments, *tools, "--json"], catch_exceptions=False)
    rows = json.loads(done.stdout)
    assert [row["tool"] for row in rows] == [
        "float",
        "ort-dynamic",
        "static",
        "smooth-dynamic",
    ]
    assert rows[0]["cosine"] == 1
    for row in rows[1:]:
        assert 0.99 < row["cosine"] < 1
        assert row["stray"] == 0
        assert row["integer"] == 2
        assert row["speedup"] > 0
    with np.load(tmp_path / "out" / "small.calibration.npz") as calibration:
        assert len(calibration["x"]) == 6  # the other three judge


def test_tool_that_fails_has_its_line(tmp_path: pathlib.Path, monkeypatch) -> None:
    model, _ = save(tmp_path)
    monkeypatch.setitem(TOOLS, "bad", ("raise SystemExit('no luck')", ""))
    done = CliRunner().invoke(
        main, [model, "--tools", "bad", "--repetitions", "0"], catch_exceptions=False
    )
    assert "bad                failed: no luck" in done.stdout


def test_unknown_tool_is_refused(tmp_path: pathlib.Path) -> None:
    model, _ = save(tmp_path)
    done = CliRunner().invoke(main, [model, "--tools", "magic"])
    assert done.exit_code == 2
    assert "no tool 'magic'" in done.stderr


def test_labels_tell_the_share_of_right_answers(tmp_path: pathlib.Path) -> None:
    model, data = save(tmp_path)
    x = np.random.default_rng(1).standard_normal((10, 32)).astype(np.float32)
    np.savez(tmp_path / "test.npz", x=x)
    loaded = ir.load(model)
    a, b = (loaded.graph.initializers[name].const_value.numpy() for name in "AB")
    labels = (np.maximum(x @ a, 0) @ b).argmax(-1)
    labels[:2] = (labels[:2] + 1) % 8
    np.save(tmp_path / "labels.npy", labels)
    test = ["--test", str(tmp_path / "test.npz"), "--labels", str(tmp_path / "labels.npy")]
    options = ["--tools", "static", "--repetitions", "0", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [model, "--data", data, *test, *options, "--json"])
    first, second = json.loads(done.stdout)
    assert first["right"] == 0.8
    assert second["right"] == second["top1"] - 0.2
    with np.load(tmp_path / "out" / "small.calibration.npz") as calibration:
        assert len(calibration["x"]) == 9  # the others judge
    shown = CliRunner().invoke(main, [model, "--data", data, *test, *options])
    assert "80.00%" in shown.stdout


def test_labels_without_their_samples_are_refused(tmp_path: pathlib.Path) -> None:
    model, data = save(tmp_path)
    done = CliRunner().invoke(main, [model, "--labels", data])
    assert done.exit_code == 2
    assert "--labels are those of the samples of --test" in done.stderr

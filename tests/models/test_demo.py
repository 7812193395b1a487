"""The demo, with little training: a row for every step, files that are what the table says."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphopt.models import demo, export, recipes
from graphopt.models.checkpoint import load_network
from graphopt.models.data import Split, load_digits
from graphopt.models.demo import Row
from graphopt.models.loop import accuracy

from graphopt.errors import ValidationError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A folder with the networks, each trained for one epoch."""
    path = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TEACHER", "STUDENT"):
            settings = dataclasses.replace(getattr(recipes, name), epochs=1)
            patch.setattr(recipes, name, settings)
        patch.setattr(demo, "REPETITIONS", 5)
        patch.setattr(demo, "TARGET", 0.9)  # so little training has little to spare
        exported = demo.networks(path)
        assert list(exported) == ["teacher", "student", "student, distilled"]
        yield path


def rows_of(path: pathlib.Path, images: int = 300) -> list[Row]:
    digits = load_digits()
    known = Split(digits.train.images[:images], digits.train.labels[:images])
    return list(demo.measure("student", path, known, digits.test))


def test_every_step_has_its_row_and_file(folder: pathlib.Path) -> None:
    path = folder / "distilled.onnx"
    rows = rows_of(path)
    assert [row.step.split(" 0.")[0] for row in rows] == [
        "exported",
        "default",
        "+ prune",
        "+ int8",
    ]
    files = [path, *(path.with_suffix(f".{s}.onnx") for s in ("default", "pruned", "int8"))]
    for row, file in zip(rows, files, strict=True):
        assert row.size_bytes == file.stat().st_size
        assert row.latency_ms > 0
    wanted = accuracy(load_network(path.with_suffix(".pt")), load_digits().test)
    assert rows[0].accuracy == rows[1].accuracy == pytest.approx(wanted)
    assert (rows[0].error, rows[0].speedup) == (0, 1)
    assert rows[1].error < 1e-4
    assert rows[2].error > rows[1].error
    assert rows[2].size_bytes < rows[1].size_bytes
    assert rows[3].size_bytes < 0.5 * rows[2].size_bytes
    operators = {node.op_type for node in onnx.load(files[3]).graph.node}
    assert "DequantizeLinear" in operators


def test_second_run_trains_nothing(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export_digits", lambda *_: None)  # takes seconds
    checkpoints = sorted(folder.glob("*.pt"))
    assert len(checkpoints) == 3
    times = [file.stat().st_mtime_ns for file in checkpoints]
    demo.networks(folder)
    assert times == [file.stat().st_mtime_ns for file in checkpoints]


def test_target_decides_how_much_is_pruned(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "student.onnx"
    monkeypatch.setattr(demo, "TARGET", 0.01)
    assert rows_of(path, images=128)[2].step == "+ prune 0.5"
    monkeypatch.setattr(demo, "TARGET", 1.0)
    monkeypatch.setattr(demo, "RATIOS", (0.9,))
    with pytest.raises(ValidationError, match="top1"):
        rows_of(path, images=128)


def test_table(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def networks(folder: pathlib.Path, report: object) -> dict[str, pathlib.Path]:
        return {"teacher": folder / "t.onnx"}

    def measure(*arguments: object) -> list[Row]:
        return [
            Row("teacher", "exported", 98.9, 2_987_000, 6.7, 1.0, 0.0),
            Row("teacher", "+ int8", np.float64(98.7), 714_000, 2.1, 3.2, 0.31),
        ]

    monkeypatch.setattr(demo, "networks", networks)
    monkeypatch.setattr(demo, "measure", measure)
    done = CliRunner().invoke(demo.main, ["--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for text in ("450 test samples", "98.9 %", "2987 kB", "3.20x", "0.31", "714 kB"):
        assert text in done.stdout

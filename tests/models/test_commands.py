"""The commands, as they are typed: results, one line an error, exit codes, quick help."""

import pathlib
import re
import subprocess
import sys

import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from graphopt.models import checkpoint, data, distill, export, train
from graphopt.models.loop import fit


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


def test_train_distil_export(tmp_path: pathlib.Path) -> None:
    teacher, student, model = (tmp_path / name for name in ("t.pt", "s.pt", "s.onnx"))
    done = run(train.main, "net-relu", "-o", teacher, "--epochs", 2)
    assert done.exit_code == 0, done.output
    assert re.search(r"t\.pt: net-relu, \d+\.\d % of 450 test samples right", done.stdout)
    teacher_model = tmp_path / "t.onnx"
    assert run(export.main, teacher, "-o", teacher_model).exit_code == 0
    for source in (teacher, teacher_model):
        done = run(distill.main, "student", "--teacher", source, "-o", student, "--epochs", 1)
        assert done.exit_code == 0, done.output
        assert f"student distilled from {source.name}" in done.stdout
    for exporter in ("dynamo", "torchscript"):
        done = run(export.main, student, "-o", model, "--exporter", exporter)
        assert done.exit_code == 0, done.output
        assert re.search(r"s\.onnx: \d+ kB, differs from PyTorch by \de-\d+", done.stdout)
        onnx.checker.check_model(onnx.load(model), full_check=True)


def test_resume_on_the_command_line(tmp_path: pathlib.Path) -> None:
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    assert run(train.main, "student", "-o", whole, "--epochs", 2).exit_code == 0
    for epochs in (1, 2):
        done = run(train.main, "student", "-o", parts, "--epochs", epochs, "--resume")
        assert done.exit_code == 0, done.output
    first, second = checkpoint.load(whole), checkpoint.load(parts)
    assert first.losses == second.losses
    assert all(torch.equal(first.weights[k], second.weights[k]) for k in first.weights)


def test_gradient_descent_on_the_command_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.pt"
    done = run(train.main, "net", "-o", path, "--method", "gd", "--epochs", 3, "--lr", 0.05)
    assert done.exit_code == 0, done.output


def test_data(tmp_path: pathlib.Path) -> None:
    done = run(data.main, "-o", tmp_path)
    assert done.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "calibration.npz",
        "test.npz",
        "test_labels.npy",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nett", "-o", "x.pt"), "[training/network]: There is no network 'nett'."),
        (("net", "-o", "x.pt", "--lr", "-1"), "[training/settings]: lr is -1.0"),
        (("net", "-o", "x.pt", "--epochs", "0"), "[training/settings]: epochs is 0"),
        (("net", "-o", "x.pt", "--lr", "1e6"), "[training/diverged]: The loss is"),
        (("net", "-o", "x.pt", "--method", "adam"), "'adam' is not one of 'sgd', 'gd'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(train.main, *arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("train: error [")
    assert words in line


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("torch", "usage", "torch is not installed; install graphopt[models]."),
        ("torch.nn", "usage", "torch is not installed; install graphopt[models]."),
        ("graphopt.nothing", "defect", "ModuleNotFoundError"),
    ],
)
def test_what_is_not_installed_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, said: str
) -> None:
    def broken(*arguments: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("graphopt.models.loop.fit", broken)
    done = run(train.main, "net", "-o", tmp_path / "x.pt")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"train: error [{code}]: ")
    assert said in line


def test_defect_is_exit_code_70_and_traceback_shows_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr("graphopt.models.loop.fit", broken)
    arguments = ("net", "-o", tmp_path / "x.pt")
    done = run(train.main, *arguments)
    assert done.exit_code == 70
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "train: error [defect]: ZeroDivisionError: of our own Run with --tr"
    )
    done = run(train.main, *arguments, "--traceback")
    assert done.exit_code == 70
    assert "in broken\n" in done.stderr
    assert done.stderr.splitlines()[-1] == line
    monkeypatch.setattr("graphopt.models.loop.fit", fit)
    done = run(train.main, "nett", "-o", tmp_path / "x.pt", "--traceback")
    assert done.exit_code == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "module",
    ["data", "demo", "distill", "export", "export_minilm", "fetch", "study", "train", "zoo"],
)
def test_help_does_not_import_torch(module: str) -> None:
    code = (
        f"import sys, graphopt.models.{module} as m\n"
        "sys.argv = ['x', '--help']\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'sklearn', 'onnxruntime', 'transformers'} & sys.modules.keys()\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout

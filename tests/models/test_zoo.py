"""Benchmark graphs: raw exports, cached, compared with PyTorch before they are kept."""

import dataclasses
import pathlib

import onnx
import pytest
from click.testing import CliRunner
from graphopt.models import exporters, zoo
from graphopt.models.errors import ExportError

TINY = {
    "resnet18": {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8},
    "bert": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 1000,
    },
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, options in TINY.items():
        recipe = zoo.RECIPES[name]
        tiny = dataclasses.replace(recipe, options={**recipe.options, **options})
        monkeypatch.setitem(zoo.RECIPES, name, tiny)


@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize("name", TINY)
def test_graph_is_raw_and_dynamic(name: str, kind: str, tmp_path: pathlib.Path) -> None:
    path = zoo.build(name, kind, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.{kind}.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    for value in model.graph.input:
        assert value.type.tensor_type.shape.dim[0].dim_param, "the batch is fixed"
    # Something is left to do: nothing is fused yet, nothing is folded.
    operators = [node.op_type for node in model.graph.node]
    left = "BatchNormalization" if name == "resnet18" else "Transpose"
    assert left in operators


def test_file_that_is_there_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bert.ts.onnx"
    path.write_bytes(b"kept")
    assert zoo.build("bert", "ts", tmp_path) == path
    assert path.read_bytes() == b"kept"


def test_file_that_differs_is_not_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*arguments: object) -> float:
        raise ExportError("differs", "it differs.")

    monkeypatch.setattr(exporters, "check", differs)
    with pytest.raises(ExportError):
        zoo.build("resnet18", "ts", tmp_path)
    assert not list(tmp_path.iterdir())


def test_seed_decides_the_weights(tmp_path: pathlib.Path) -> None:
    files = [
        zoo.build("resnet18", "ts", tmp_path / folder, seed).read_bytes()
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_command(tmp_path: pathlib.Path) -> None:
    done = CliRunner().invoke(
        zoo.main, ["resnet18", "--kinds", "ts", "--folder", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "resnet18.ts.onnx" in done.stdout
    done = CliRunner().invoke(zoo.main, ["--kinds", "tf"])
    assert done.exit_code == 2
    assert "'tf'; valid: ts, dyn." in done.stderr

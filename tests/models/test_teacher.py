"""A teacher answers alike as a checkpoint and as an ONNX file; nonsense is refused."""

import pathlib

import numpy as np
import onnx
import pytest
from graphopt.models import checkpoint
from graphopt.models.data import Split, load_digits
from graphopt.models.errors import CheckpointError, TrainingError
from graphopt.models.export import export_digits
from graphopt.models.loop import fit
from graphopt.models.objectives import CrossEntropy
from graphopt.models.settings import Settings
from graphopt.models.teacher import ask

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    train = load_digits().train
    data = Split(train.images[:64], train.labels[:64])
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    checkpoint.save(fit("teacher", data, Settings(epochs=1), CrossEntropy()), path)
    return path


def write(path: pathlib.Path, graph: str) -> pathlib.Path:
    onnx.save(onnx.parser.parse_model(HEADER + graph), path)
    return path


def test_onnx_and_checkpoint_answer_alike(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    images = load_digits().train.images[:300]  # more than a batch
    path = tmp_path / "teacher.onnx"
    export_digits(trained, path)
    first, second = ask(trained, images), ask(path, images)
    assert first.shape == (300, 10)
    assert first.dtype == second.dtype == np.float32
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_asking_needs_no_gradient_and_changes_nothing(trained: pathlib.Path) -> None:
    images = load_digits().train.images[:8]
    # BatchNormalization in training mode would answer by the batch.
    np.testing.assert_allclose(
        ask(trained, images)[:1], ask(trained, images[:1]), rtol=1e-4, atol=1e-5
    )


def test_fixed_batch_that_divides(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path / "fixed.onnx", "g (float[4,1,6,6] x) => (float[4,36] y) {y = Flatten (x)}"
    )
    images = load_digits().train.images[:12]
    np.testing.assert_array_equal(ask(path, images), images.reshape(12, 36))
    with pytest.raises(TrainingError, match="takes 4 images at a time; 10 are not"):
        ask(path, images[:10])


INPUT = "g (float[N,1,6,6] x"


@pytest.mark.parametrize(
    ("graph", "problem"),
    [
        (f"{INPUT}, float[1] z) => (float[N,1,6,6] y) {{y = Add (x, z)}}", "2 inputs"),
        (f"{INPUT}) => (float[N,1,6,6] y) {{y = Neg (x)}}", "one row of logits"),
        (f"{INPUT}) => (float y) {{y = ReduceSum <keepdims=0> (x)}}", "one row of logits"),
        (
            f"{INPUT}) => (float[N,36] y) {{f = Flatten (x)  d = Sub (f, f)  y = Div (d, d)}}",
            "NaN",
        ),
    ],
)
def test_answers_that_are_no_logits(graph: str, problem: str, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "odd.onnx", graph)
    with pytest.raises(TrainingError, match=problem):
        ask(path, load_digits().train.images[:4])


def test_file_that_is_no_checkpoint(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "teacher.pt"
    path.write_text("no")
    with pytest.raises(CheckpointError):
        ask(path, load_digits().train.images[:4])

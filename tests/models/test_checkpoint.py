"""Checkpoints: read back as they were, whole or not at all, never code."""

import dataclasses
import pathlib
import pickle

import pytest
import torch
from graphopt.models import checkpoint
from graphopt.models.data import Split, load_digits
from graphopt.models.errors import CheckpointError
from graphopt.models.loop import fit
from graphopt.models.objectives import CrossEntropy
from graphopt.models.settings import Settings


@pytest.fixture(scope="module")
def done() -> checkpoint.Checkpoint:
    train = load_digits().train
    data = Split(train.images[:64], train.labels[:64])
    return fit("teacher", data, Settings(epochs=1), CrossEntropy())


def test_network_comes_back(done: checkpoint.Checkpoint, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "teacher.pt"
    checkpoint.save(done, path)
    network = checkpoint.load_network(path)
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, done.weights[name]), name
    assert checkpoint.load(path).settings == done.settings


def test_failure_while_writing_leaves_the_old_one(
    done: checkpoint.Checkpoint, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "teacher.pt"
    checkpoint.save(done, path)
    before = path.read_bytes()

    def half(fields: object, stream: object) -> None:
        stream.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(done, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code of the file was run')",))


@pytest.mark.parametrize("kind", ["empty", "text", "pickle", "torch", "foreign", "format"])
def test_what_is_no_checkpoint_is_refused(kind: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file.pt"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"format": 1, "network": Evil()}))
    elif kind == "torch":
        torch.save({"format": 1, "network": Evil()}, path)
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        torch.save({"format": 2}, path)
    with pytest.raises(CheckpointError, match=r"file\.pt is"):
        checkpoint.load(path)


def test_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "none.pt")


def test_weights_of_another_network(
    done: checkpoint.Checkpoint, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "mixed.pt"
    checkpoint.save(dataclasses.replace(done, network="student"), path)
    with pytest.raises(CheckpointError, match="do not fit 'student'"):
        checkpoint.load_network(path)

"""Save a training after an epoch and go on from there, bit for bit.

A checkpoint holds the network's name and weights, the optimizer's state, both random
generators, the settings and the history. It is written to a temporary file, flushed to the
disk and renamed: a crash leaves the old one or the new one. It is read with ``weights_only``:
a file from elsewhere cannot run code.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
import tempfile
import warnings
from typing import Any

import torch
from torch import nn

from .errors import CheckpointError
from .networks import create
from .settings import Settings

__all__ = ["Checkpoint", "load", "load_network", "save"]

FORMAT = 1
"""Raised whenever the meaning of a field changes."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A training after some epochs.

    Attributes:
        network: Name of the network.
        settings: How it is trained.
        objective: What is minimized, in words.
        epoch: Epochs done.
        weights: ``state_dict`` of the network.
        optimizer: ``state_dict`` of the optimizer.
        order: State of the generator of the samples' order, uint8 [*].
        random: State of torch's global generator, uint8 [*].
        losses: Mean training loss of every epoch.
    """

    network: str
    settings: Settings
    objective: str
    epoch: int
    weights: dict[str, Any]
    optimizer: dict[str, Any]
    order: torch.Tensor
    random: torch.Tensor
    losses: list[float]


def save(checkpoint: Checkpoint, path: pathlib.Path) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all."""
    fields = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(Checkpoint)
    }
    fields["settings"] = dataclasses.asdict(checkpoint.settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".checkpoint-") as folder:
        draft = pathlib.Path(folder) / "draft"
        with draft.open("wb") as stream:
            torch.save({"format": FORMAT, **fields}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)


def load(path: pathlib.Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: The file is not there, or is not a checkpoint of this format.
    """
    if not path.is_file():
        raise CheckpointError("missing", f"{path}: there is no such file.")
    try:
        with warnings.catch_warnings():
            # Of files that are no checkpoint torch says so twice: a warning, then an error.
            warnings.simplefilter("ignore", UserWarning)
            fields = torch.load(path, map_location="cpu", weights_only=True)
        if fields.pop("format") != FORMAT:
            raise CheckpointError("format", f"{path} is a checkpoint of another format.")
        fields["settings"] = Settings(**fields["settings"])
        return Checkpoint(**fields)
    except (
        AttributeError,
        EOFError,
        KeyError,
        RuntimeError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(
            "unreadable",
            f"{path} is not a checkpoint of this program.",
            hint="Make it with python -m graphopt.models.train.",
        ) from error


def load_network(path: pathlib.Path) -> nn.Module:
    """Return the trained network of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: The file is no checkpoint, or its weights do not fit its network.
    """
    checkpoint = load(path)
    network = create(checkpoint.network, seed=0)
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise CheckpointError(
            "weights", f"{path}: the weights do not fit {checkpoint.network!r}."
        ) from error
    return network.eval()

"""How a network is trained: the settings, and their options on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .errors import TrainingError

__all__ = ["METHODS", "Settings", "training_options"]

METHODS = ("sgd", "gd")
SCHEDULES = ("constant", "cosine")

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a network is trained.

    Attributes:
        method: ``"sgd"``: a step for every batch; ``"gd"``: gradient descent, one step an
            epoch on all the data.
        epochs: Times all the data is seen.
        lr: Learning rate, > 0.
        momentum: In [0, 1).
        batch_size: Samples of a step; of no matter to ``"gd"``.
        schedule: ``"constant"``, or ``"cosine"``: the learning rate falls to 0 along half a
            cosine over all the steps.
        seed: Seed of the initial weights and of the order of the samples.
    """

    method: str = "sgd"
    epochs: int = 10
    lr: float = 0.01
    momentum: float = 0.9
    batch_size: int = 32
    schedule: str = "constant"
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "method": self.method in METHODS,
            "epochs": self.epochs >= 1,
            "lr": 0 < self.lr < float("inf"),
            "momentum": 0 <= self.momentum < 1,
            "batch_size": self.batch_size >= 1,
            "schedule": self.schedule in SCHEDULES,
        }
        for name, good in allowed.items():
            if not good:
                raise TrainingError(
                    "settings", f"{name} is {getattr(self, name)!r}, which is out of range."
                )


def training_options(command: _Command) -> _Command:
    """Add an option for each of the settings to ``command``."""
    default = Settings()
    options = (
        click.option("--method", type=click.Choice(METHODS), default=default.method),
        click.option("--epochs", type=int, default=default.epochs),
        click.option("--lr", type=float, default=default.lr, help="Learning rate."),
        click.option("--momentum", type=float, default=default.momentum),
        click.option("--batch-size", type=int, default=default.batch_size),
        click.option("--schedule", type=click.Choice(SCHEDULES), default=default.schedule),
        click.option("--seed", type=int, default=default.seed),
    )
    for option in reversed(options):
        command = option(command)
    return command

"""Train a network on the digits.

    python -m graphopt.models.train student -o out/student.pt
    python -m graphopt.models.train net -o out/net.pt --method gd --lr 0.1 --epochs 100
    python -m graphopt.models.train teacher -o out/teacher.pt --resume

A checkpoint is written after every epoch; ``--resume`` goes on from it and ends with the
same weights, bit for bit, as a training that was never interrupted.
"""

from __future__ import annotations

import pathlib
from typing import Any

import click

from .command import Command, progress
from .settings import Settings, training_options

__all__ = ["main", "show"]


def show(path: pathlib.Path, name: str) -> None:
    """Print the accuracy of the checkpoint at ``path`` on the test split."""
    from .checkpoint import load_network
    from .data import load_digits
    from .loop import accuracy

    test = load_digits().test
    right = accuracy(load_network(path), test)
    click.echo(f"{path}: {name}, {right:.1f} % of {len(test)} test samples right")


@click.command("train", cls=Command)
@click.argument("network")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    required=True,
    help="Checkpoint to write after every epoch.",
)
@click.option("--resume", is_flag=True, help="Go on from OUTPUT, if it exists.")
@training_options
def main(network: str, output: pathlib.Path, resume: bool, **settings: Any) -> None:
    """Train NETWORK (net, net-relu, student, teacher) on the labels of the digits."""
    from .data import load_digits
    from .loop import fit
    from .objectives import CrossEntropy

    asked = Settings(**settings)
    with progress() as report:
        fit(network, load_digits().train, asked, CrossEntropy(), output, resume, report)
    show(output, network)


if __name__ == "__main__":
    main()

"""Train a small network on a large one's answers (knowledge distillation).

    python -m graphopt.models.distill student --teacher out/teacher.pt -o out/distilled.pt

The teacher is a checkpoint, or any ONNX file, for instance an optimized one. How temperature
and alpha were chosen is in ``study``.
"""

from __future__ import annotations

import pathlib
from typing import Any

import click

from .command import Command, progress
from .settings import Settings, training_options
from .train import show

__all__ = ["main"]


@click.command("distill", cls=Command)
@click.argument("network")
@click.option(
    "--teacher",
    type=click.Path(path_type=pathlib.Path, dir_okay=False, exists=True),
    required=True,
    help="Checkpoint, or .onnx file whose first output are logits.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    required=True,
    help="Checkpoint to write after every epoch.",
)
@click.option("--temperature", type=float, default=4.0, show_default=True)
@click.option(
    "--alpha",
    type=float,
    default=0.9,
    show_default=True,
    help="Share of the teacher's answers in the loss; the labels have the rest.",
)
@click.option("--resume", is_flag=True, help="Go on from OUTPUT, if it exists.")
@training_options
def main(
    network: str,
    teacher: pathlib.Path,
    output: pathlib.Path,
    temperature: float,
    alpha: float,
    resume: bool,
    **settings: Any,
) -> None:
    """Train NETWORK on the answers of a teacher and on the labels of the digits."""
    from .data import load_digits
    from .loop import fit
    from .objectives import Distillation
    from .teacher import ask

    asked = Settings(**settings)
    data = load_digits().train
    objective = Distillation(ask(teacher, data.images), temperature, alpha)
    with progress() as report:
        fit(network, data, asked, objective, output, resume, report)
    show(output, f"{network} distilled from {teacher.name}")


if __name__ == "__main__":
    main()

"""Prune a trained digits network, fine-tune what is left, and distil it from the original.

    python -m graphopt.models.finetune out/student.pt -o out/small.onnx --ratio 0.5

The checkpoint is exported; ``prune-channels`` prunes that file, and recovers it on the
training images; its plan is applied to the PyTorch network, which goes on from the recovered
weights. The teacher is the exported ``.onnx`` file, or any other, run by onnxruntime. One line
for every step says what it is worth on the test split, which nothing else looks at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from . import recipes
from .command import Command, Report, onnx_from_checkpoint, progress, say_written
from .data import INPUT, Split, load_digits
from .settings import Settings

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Pruned", "finetune", "prune", "small_network"]

SETTINGS = Settings(epochs=20, lr=0.005, schedule="cosine")
"""A quarter of the rate that the teacher was trained with, as it starts near the end."""

BATCH = 64
"""Images of a feed."""


@dataclasses.dataclass(frozen=True)
class Pruned:
    """An exported network, and what pruning made of it.

    Attributes:
        original: What was exported.
        plain: Pruned, its weights as they were.
        recovered: Pruned by the same plan and fitted on images.
        plan: The plan, as JSON.
    """

    original: pathlib.Path
    plain: pathlib.Path
    recovered: pathlib.Path
    plan: dict[str, Any]


def prune(checkpoint: pathlib.Path, folder: pathlib.Path, options: str) -> Pruned:
    """Export the network of a checkpoint and prune it; files are left in ``folder``.

    Args:
        checkpoint: The trained network.
        folder: Where the files are written.
        options: Options of ``prune-channels`` as in a pipeline, ``"ratio=0.5"``.

    Raises:
        CheckpointError: The file is no checkpoint.
        PipelineError: The options are wrong.
    """
    import graphopt
    from graphopt.api import Options

    from .export import export_digits

    original = folder / "original.onnx"
    export_digits(checkpoint, original, optimize=False)
    images = load_digits().train.images
    feeds = [{INPUT: images[i : i + BATCH]} for i in range(0, len(images), BATCH)]
    kept = Options(allow_slower=True, measure=False)
    paths = {}
    for recovery in ("none", "least-squares"):
        paths[recovery] = folder / f"pruned.{recovery}.onnx"
        result = graphopt.optimize(
            original,
            f"prune-channels{{{options},recovery={recovery}}}",
            samples=feeds,
            output=paths[recovery],
            options=kept,
        )
    plan = dict(result.steps[-1].result.details["plan"])
    return Pruned(original, paths["none"], paths["least-squares"], plan)


def small_network(checkpoint: pathlib.Path, pruned: Pruned) -> nn.Module:
    """Return the network of a checkpoint as it was pruned, with the recovered weights."""
    from .checkpoint import load_network
    from .shrink import adopt, shrink

    small = shrink(load_network(checkpoint), pruned.original, pruned.plan, _set_width)
    adopt(small, pruned.recovered)
    return small


def _set_width(network: nn.Module) -> None:
    """Set what the digit networks know about the width of their ``view``."""
    for part in network.modules():
        if hasattr(part, "flat"):
            part.flat = part.fc1.in_features  # type: ignore[union-attr]  # it has one


def finetune(
    checkpoint: pathlib.Path,
    pruned: Pruned,
    output: pathlib.Path,
    settings: Settings = SETTINGS,
    teacher: pathlib.Path | None = None,
    report: Report | None = None,
) -> nn.Module:
    """Fine-tune the pruned network on the answers of a teacher, and export it.

    Args:
        checkpoint: The trained network.
        pruned: What was made of it.
        output: The ONNX file to write.
        settings: How it is trained.
        teacher: Whose answers it learns beside the labels; ``None``: the original's.
        report: Called after every epoch.
    """
    from .export import export_network
    from .loop import tune
    from .objectives import Distillation
    from .teacher import ask

    network = small_network(checkpoint, pruned)
    train = load_digits().train
    answers = ask(teacher or pruned.original, train.images)
    objective = Distillation(answers, recipes.TEMPERATURE, recipes.ALPHA)
    tune(network, train, settings, objective, report)
    export_network(network, output)
    return network


def accuracies(
    pruned: Pruned, output: pathlib.Path, test: Split
) -> Iterator[tuple[str, float]]:
    """Yield the name of every step and the share of ``test`` that is right, in percent."""
    from .teacher import ask

    steps = {
        "original": pruned.original,
        "pruned, weights as they were": pruned.plain,
        "pruned, recovered": pruned.recovered,
        "pruned, recovered, fine-tuned": output,
    }
    for name, path in steps.items():
        right = ask(path, test.images).argmax(axis=1) == test.labels
        yield name, 100.0 * float(np.mean(right))


@click.command("finetune", cls=Command)
@onnx_from_checkpoint
@click.option("--ratio", type=float, default=0.5, show_default=True, help="Share to remove.")
@click.option("--prune", "options", default="", help="More options of prune-channels.")
@click.option(
    "--teacher",
    type=click.Path(path_type=pathlib.Path, dir_okay=False, exists=True),
    help="Whose answers are learnt; without: the exported original's.",
)
@click.option("--epochs", type=int, default=SETTINGS.epochs, show_default=True)
@click.option("--lr", type=float, default=SETTINGS.lr, show_default=True)
@click.option("--seed", type=int, default=SETTINGS.seed, show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=pathlib.Path, file_okay=False),
    help="Where the files of the steps are left; without: nowhere.",
)
def main(
    checkpoint: pathlib.Path,
    output: pathlib.Path,
    ratio: float,
    options: str,
    teacher: pathlib.Path | None,
    folder: pathlib.Path | None,
    **settings: Any,
) -> None:
    """Prune the network of CHECKPOINT, fine-tune what is left and write it as ONNX."""
    asked = dataclasses.replace(SETTINGS, **settings)
    with contextlib.ExitStack() as stack:
        place = folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        pruned = prune(checkpoint, place, ",".join(filter(None, (f"ratio={ratio}", options))))
        with progress() as report:
            finetune(checkpoint, pruned, output, asked, teacher, report)
        for name, percent in accuracies(pruned, output, load_digits().test):
            click.echo(f"{name:32} {percent:5.1f} %")
    say_written(output)


if __name__ == "__main__":
    main()

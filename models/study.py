"""What the networks reach over several seeds, and how distillation was tuned.

    python -m graphopt.models.study               test accuracy, five seeds
    python -m graphopt.models.study --tune        temperature and alpha, without the test split

``--tune`` trains on three quarters of the training split and measures on the other one, a new
quarter for every seed; the test split is never looked at. The settings of ``recipes`` come
from it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import numpy as np

from . import recipes
from .command import Command
from .data import Split, load_digits
from .settings import Settings

if TYPE_CHECKING:
    from .objectives import Objective

__all__ = ["compare", "tune"]

GRID = [(temperature, alpha) for temperature in (2.0, 4.0, 8.0) for alpha in (0.5, 0.9, 1.0)]
"""Temperatures and mixes that ``tune`` tries."""

GRADIENT_DESCENT = Settings(method="gd", epochs=200, lr=0.05)
"""Full batches: a step an epoch, so it needs many more epochs."""


def compare(seeds: int) -> Iterator[tuple[str, list[float]]]:
    """Give each network's test accuracy in percent, one number a seed."""
    digits = load_digits()
    rows: dict[str, list[float]] = {}
    for seed in range(seeds):
        for name, right in _row(digits.train, digits.test, seed):
            rows.setdefault(name, []).append(right)
    yield from rows.items()


def tune(seeds: int) -> Iterator[tuple[str, list[float]]]:
    """Give each setting's accuracy on held-out training samples, one number a seed."""
    from .objectives import CrossEntropy, Distillation

    rows: dict[str, list[float]] = {}
    for seed in range(seeds):
        train, held_out = _fold(load_digits().train, seed)
        objectives: dict[str, Objective] = {"student, plain": CrossEntropy()}
        answers, right = _teach(train, held_out, seed)
        rows.setdefault("teacher", []).append(right)
        for temperature, alpha in GRID:
            objectives[f"student, T={temperature:g}, alpha={alpha:g}"] = Distillation(
                answers, temperature, alpha
            )
        for name, objective in objectives.items():
            measured = _train("student", train, held_out, recipes.STUDENT, objective, seed)
            rows.setdefault(name, []).append(measured)
    yield from rows.items()


def _row(train: Split, test: Split, seed: int) -> Iterator[tuple[str, float]]:
    from .objectives import CrossEntropy, Distillation

    plain = CrossEntropy()
    for name in ("net", "net-relu"):
        yield f"{name}, sgd", _train(name, train, test, recipes.STUDENT, plain, seed)
        yield f"{name}, gd", _train(name, train, test, GRADIENT_DESCENT, plain, seed)
    answers, right = _teach(train, test, seed)
    yield "teacher", right
    yield "student, plain", _train("student", train, test, recipes.STUDENT, plain, seed)
    soft = Distillation(answers, recipes.TEMPERATURE, recipes.ALPHA)
    yield "student, distilled", _train("student", train, test, recipes.STUDENT, soft, seed)


def _train(
    name: str,
    train: Split,
    held_out: Split,
    settings: Settings,
    objective: Objective,
    seed: int,
) -> float:
    from .loop import accuracy, fit
    from .networks import create

    done = fit(name, train, dataclasses.replace(settings, seed=seed), objective)
    network = create(name, seed)
    network.load_state_dict(done.weights)
    return accuracy(network, held_out)


def _teach(train: Split, held_out: Split, seed: int) -> tuple[np.ndarray, float]:
    """Train a teacher; return its answers to ``train`` and its accuracy on ``held_out``."""
    import torch

    from .loop import accuracy, fit
    from .networks import create
    from .objectives import CrossEntropy

    settings = dataclasses.replace(recipes.TEACHER, seed=seed)
    network = create("teacher", seed)
    network.load_state_dict(fit("teacher", train, settings, CrossEntropy()).weights)
    right = accuracy(network, held_out)
    with torch.no_grad():
        return network(torch.from_numpy(train.images)).numpy(), right


def _fold(data: Split, seed: int) -> tuple[Split, Split]:
    """Cut ``data`` into three quarters and one, anew for every seed."""
    order = np.random.default_rng(seed).permutation(len(data))
    cut = len(data) // 4
    parts = (order[cut:], order[:cut])
    first, second = (Split(data.images[part], data.labels[part]) for part in parts)
    return first, second


@click.command("study", cls=Command)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--tune", "tuning", is_flag=True, help="Try temperatures and mixes.")
def main(seeds: int, tuning: bool) -> None:
    """Print accuracy over several seeds: mean, standard deviation, each."""
    for name, values in (tune if tuning else compare)(seeds):
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = " ".join(f"{value:.1f}" for value in values)
        click.echo(f"{name:28} {statistics.mean(values):.2f} +- {spread:.2f}   {each}")


if __name__ == "__main__":
    main()

"""The training loop: gradient descent and its stochastic form, seeded, with checkpoints.

On one machine the same settings give the same weights, bit for bit, and so does a training
that was interrupted and resumed.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Iterator

import torch
from torch import nn

from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .command import Report
from .data import Split
from .errors import CheckpointError, TrainingError
from .networks import create
from .objectives import Objective
from .settings import Settings

__all__ = ["accuracy", "fit", "tune"]


def fit(
    name: str,
    data: Split,
    settings: Settings,
    objective: Objective,
    path: pathlib.Path | None = None,
    resume: bool = False,
    report: Report | None = None,
) -> Checkpoint:
    """Train a network.

    Args:
        name: Name of the network (see ``networks.NETWORKS``).
        data: What it is trained on.
        settings: How.
        objective: What is minimized.
        path: Where a checkpoint is written after every epoch.
        resume: Go on from the checkpoint at ``path``, if there is one.
        report: Called after every epoch.

    Returns:
        The last checkpoint.

    Raises:
        CheckpointError: The checkpoint belongs to another training.
        TrainingError: The loss is no longer a finite number.
    """
    network = create(name, settings.seed)
    batch = len(data) if settings.method == "gd" else settings.batch_size
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings.lr, momentum=settings.momentum
    )
    order = torch.Generator().manual_seed(settings.seed)
    losses: list[float] = []
    state = None
    with _one_thread(), _one_generator(settings.seed):
        if resume and path is not None and path.exists():
            state = checkpoints.load(path)
            _same_training(state, name, settings, objective, path)
            network.load_state_dict(state.weights)
            optimizer.load_state_dict(state.optimizer)
            order.set_state(state.order)
            torch.set_rng_state(state.random)
            losses = list(state.losses)
        for epoch in range(len(losses), settings.epochs):
            losses.append(
                _epoch(network, optimizer, data, settings, objective, order, epoch, batch)
            )
            state = Checkpoint(
                network=name,
                settings=settings,
                objective=objective.describe(),
                epoch=epoch + 1,
                weights=network.state_dict(),
                optimizer=optimizer.state_dict(),
                order=order.get_state(),
                random=torch.get_rng_state(),
                losses=losses,
            )
            if path is not None:
                checkpoints.save(state, path)
            if report is not None:
                report(name, epoch + 1, settings.epochs, f"loss {losses[-1]:.4f}")
    assert state is not None  # at least one epoch was done, now or before
    return state


def tune(
    network: nn.Module,
    data: Split,
    settings: Settings,
    objective: Objective,
    report: Report | None = None,
) -> list[float]:
    """Train a network, which is changed, from the weights that it has; return the losses.

    Raises:
        TrainingError: The loss is no longer a finite number.
    """
    batch = len(data) if settings.method == "gd" else settings.batch_size
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings.lr, momentum=settings.momentum
    )
    order = torch.Generator().manual_seed(settings.seed)
    losses: list[float] = []
    with _one_thread(), _one_generator(settings.seed):
        for epoch in range(settings.epochs):
            losses.append(
                _epoch(network, optimizer, data, settings, objective, order, epoch, batch)
            )
            if report is not None:
                report("fine-tuning", epoch + 1, settings.epochs, f"loss {losses[-1]:.4f}")
    network.eval()
    return losses


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Split,
    settings: Settings,
    objective: Objective,
    order: torch.Generator,
    epoch: int,
    batch: int,
) -> float:
    """Go through the data once; return the mean loss of a sample."""
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    # A last batch of one sample would give BatchNormalization no variance: a shorter one is
    # left out, and since the order changes, other samples miss out in every epoch.
    steps = max(1, len(data) // batch)
    permutation = torch.randperm(len(data), generator=order)
    network.train()
    total = 0.0
    for step in range(steps):
        if settings.schedule == "cosine":
            share = (epoch * steps + step) / (settings.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * share))
        chosen = permutation[step * batch : (step + 1) * batch]
        loss = objective(network(images[chosen]), labels[chosen], chosen)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                "diverged",
                f"The loss is {loss.item()} in epoch {epoch + 1}, step {step + 1}.",
                hint="Use a smaller learning rate.",
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
        total += loss.item()
    return total / steps


def accuracy(network: nn.Module, data: Split) -> float:
    """Return the share of ``data`` that the network gets right, in percent."""
    network.eval()
    with torch.no_grad():
        predicted = network(torch.from_numpy(data.images)).argmax(dim=1)
    return 100.0 * float((predicted.numpy() == data.labels).mean())


def _same_training(
    state: Checkpoint, name: str, settings: Settings, objective: Objective, path: pathlib.Path
) -> None:
    """Compare what is asked for with what the checkpoint was made by."""
    pairs = [("network", state.network, name)]
    pairs.append(("objective", state.objective, objective.describe()))
    asked = vars(settings)
    pairs += [(key, value, asked[key]) for key, value in vars(state.settings).items()]
    for what, found, wanted in pairs:
        # More epochs are welcome, unless the learning rate was planned for the number of them.
        longer = what == "epochs" and settings.schedule == "constant" and wanted >= found
        if found != wanted and not longer:
            raise CheckpointError(
                "other-training",
                f"{path} was trained with {what} {found!r}; {wanted!r} is asked for.",
                hint="Train without --resume, or into another file.",
            )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread.

    Layers this small are done before a second thread has its share: with two threads the
    teacher takes as long on an idle machine, and ten times as long on a busy one, where they
    wait for each other. One thread also adds up in the same order everywhere.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _one_generator(seed: int) -> Iterator[None]:
    """Seed torch's global generator, which Dropout uses, and restore it afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

"""Handwritten digits: real data that scikit-learn brings along, fitted to 6x6 pixels.

    python -m graphopt.models.data -o out/digits

1,797 digits of 43 people, 8x8 pixels of 0 to 16 (UCI ML repository, "Optical Recognition of
Handwritten Digits"). The networks take 6x6: the outermost rows and columns are cut off. Other
ways to get there, accuracy in percent under 5-fold cross-validation repeated five times,
outside the test split (k-nearest neighbours with k=3; support vector machine), and of
``net-relu`` on four held-out quarters:

    ================================  =====  =====  =====
    transform                          k-NN    SVM    net
    ================================  =====  =====  =====
    none (8x8)                        98.47  98.78     --
    cut rows and columns              98.08  98.53  97.03
    area-average rows and columns     97.86  98.35  95.99
    bilinear rows and columns         98.01  98.38     --
    cut rows, area-average columns    98.16  98.68  96.22
    ================================  =====  =====  =====

Cutting keeps the most for a convolutional network and is the simplest.

Pixels are divided by 16; mean and standard deviation of the training split then become 0 and
1. The split is fixed and stratified: every class has the same share of each part.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import click
import numpy as np

from .command import Command
from .errors import TrainingError

__all__ = ["INPUT", "Digits", "Split", "load_digits", "write_samples"]

INPUT = "images"
"""Name of the exported networks' input."""

SPLIT_SEED = 20
"""Seed of the split; the parts must never change, or no two accuracies can be compared."""

TEST_SIZE, CALIBRATION_SIZE = 450, 200
"""A quarter for the test; for calibration, what is usual; 1,147 are left for training."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of the data.

    Attributes:
        images: float32 [N, 1, 6, 6], normalized.
        labels: int64 [N], 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Digits:
    """The three parts; nothing of ``test`` is ever trained, calibrated or chosen on."""

    train: Split
    calibration: Split
    test: Split


@functools.cache
def load_digits() -> Digits:
    """Return the digits.

    Raises:
        TrainingError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise TrainingError(
            "missing", "scikit-learn is not installed.", hint="pip install 'graphopt[models]'"
        ) from error
    raw = datasets.load_digits()
    labels = raw.target.astype(np.int64)
    pixels = raw.images[:, None, 1:-1, 1:-1] / 16.0
    test, rest = _stratified(labels, np.arange(len(labels)), TEST_SIZE)
    calibration, train = _stratified(labels, rest, CALIBRATION_SIZE)
    images = (pixels - pixels[train].mean()) / pixels[train].std()

    def part(chosen: np.ndarray) -> Split:
        return Split(images[chosen].astype(np.float32), labels[chosen])

    return Digits(part(train), part(calibration), part(test))


def _stratified(
    labels: np.ndarray, candidates: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``size`` of the candidates, each class with its share, and the others; sorted."""
    order = np.random.default_rng(SPLIT_SEED).permutation(candidates)
    # Sorted by class (stably), every k-th has the classes in their shares.
    order = order[np.argsort(labels[order], kind="stable")]
    chosen = order[np.linspace(0, len(order), size, endpoint=False).astype(np.int64)]
    return np.sort(chosen), np.setdiff1d(candidates, chosen)


def write_samples(folder: pathlib.Path) -> list[pathlib.Path]:
    """Write what ``graphopt --data`` reads, and the labels; return the paths.

    ``calibration.npz`` and ``test.npz`` hold ``images``; ``test_labels.npy`` is apart, since
    samples hold the inputs of a model and nothing else.
    """
    digits = load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("calibration.npz", "test.npz", "test_labels.npy")]
    np.savez(paths[0], images=digits.calibration.images)
    np.savez(paths[1], images=digits.test.images)
    np.save(paths[2], digits.test.labels)
    return paths


@click.command("data", cls=Command)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=pathlib.Path, file_okay=False),
    required=True,
    help="Folder to write to.",
)
def main(output: pathlib.Path) -> None:
    """Write the digits as samples: for calibration, for the test, and the test's labels."""
    for path in write_samples(output):
        click.echo(path)


if __name__ == "__main__":
    main()

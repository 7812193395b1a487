"""The main job from end to end: train, distil, export, optimize, validate, measure.

    python -m graphopt.models.demo

A teacher, a plain student and a distilled one are trained on handwritten digits and exported;
graphopt takes each through the same steps. How much is pruned is not fixed: the most that
keeps 99 % of the answers after int8. Files are left in the folder, checkpoints too, so a
second run trains nothing. The test split is used for the table and for nothing else: what is
chosen or calibrated is so on the other two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click
import numpy as np

from . import recipes
from .command import Command, Report, progress
from .data import INPUT, Split, load_digits, write_samples

if TYPE_CHECKING:
    from graphopt.api import Options
    from graphopt.runtime import Runtime

__all__ = ["Row", "measure", "networks"]

RATIOS = (0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the channels that may be removed; the first that meets the target is taken."""

TARGET = 0.99
"""Share of the answers (the most likely digit) that the last step has to keep."""

BATCH = 64
"""Images that latency is measured on. A single one takes these networks some 15 microseconds,
most of which is the call."""

REPETITIONS = 200
"""Rounds of the measurement: a fraction of a second, and medians repeat within 3 %."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        network: What was trained.
        step: What graphopt did with it.
        accuracy: Percent of the test split.
        size_bytes: Of the file.
        latency_ms: Of a batch, one thread.
        speedup: How many times faster than the exported file, measured in turn with it.
        error: Largest absolute difference of a logit from the exported file's, on the test
            split.
    """

    network: str
    step: str
    accuracy: float
    size_bytes: int
    latency_ms: float
    speedup: float
    error: float


def networks(folder: pathlib.Path, report: Report | None = None) -> dict[str, pathlib.Path]:
    """Train and export; return the name of each network and its ONNX file.

    What a checkpoint in ``folder`` holds already is not trained again.
    """
    from .export import export_digits
    from .loop import fit
    from .objectives import CrossEntropy, Distillation
    from .teacher import ask

    train = load_digits().train
    labels = CrossEntropy()
    files = {name: folder / f"{name}.pt" for name in ("teacher", "student", "distilled")}
    fit("teacher", train, recipes.TEACHER, labels, files["teacher"], True, report)
    fit("student", train, recipes.STUDENT, labels, files["student"], True, report)
    answers = Distillation(
        ask(files["teacher"], train.images), recipes.TEMPERATURE, recipes.ALPHA
    )
    distilling = _renamed(report, "student, distilled")
    fit("student", train, recipes.STUDENT, answers, files["distilled"], True, distilling)
    exported = {}
    titles = ("teacher", "student", "student, distilled")
    for done, (title, path) in enumerate(zip(titles, files.values(), strict=True), start=1):
        exported[title] = path.with_suffix(".onnx")
        export_digits(path, exported[title])
        if report is not None:
            report("export", done, len(files), "")
    return exported


def _renamed(report: Report | None, name: str) -> Report | None:
    """Return ``report`` under another name: two networks may be of the same kind."""
    if report is None:
        return None
    return lambda _, done, total, note: report(name, done, total, note)


def measure(network: str, exported: pathlib.Path, known: Split, test: Split) -> Iterator[Row]:
    """Optimize ``exported`` step by step; give a row for it and for every step.

    Args:
        network: Name for the table.
        exported: The ONNX file. The others are written beside it.
        known: What int8 is calibrated on, and the target is judged on.
        test: What accuracy is measured on.

    Raises:
        ValidationError: No ratio meets the target.
    """
    from graphopt.runtime import Runtime

    steps = {"exported": exported, **_optimize(exported, known.images)}
    files = list(steps.values())
    with contextlib.closing(Runtime()) as runtime:
        feed = {INPUT: test.images[:BATCH]}
        latencies = runtime.latency(files, feed, repetitions=REPETITIONS)
        answers = [_answers(runtime, path, test.images) for path in files]
    for name, path, latency, logits in zip(steps, files, latencies, answers, strict=True):
        yield Row(
            network,
            name,
            100 * float((logits.argmax(axis=1) == test.labels).mean()),
            path.stat().st_size,
            latency.median_ms,
            1 / latency.ratio,
            float(np.abs(logits - answers[0]).max()),
        )


def _optimize(exported: pathlib.Path, images: np.ndarray) -> dict[str, pathlib.Path]:
    """Write the result of every step beside ``exported``; return name -> file."""
    import graphopt

    feeds = [{INPUT: images[start : start + BATCH]} for start in range(0, len(images), BATCH)]
    default, pruned, int8 = (
        exported.with_suffix(f".{step}.onnx") for step in ("default", "pruned", "int8")
    )
    ratio = _prune_and_quantize(exported, int8, feeds)
    for path, passes in ((default, "default"), (pruned, _pruning(ratio))):
        graphopt.optimize(exported, passes, samples=feeds, output=path, options=_options())
    return {"default": default, f"+ prune {ratio}": pruned, "+ int8": int8}


def _prune_and_quantize(
    exported: pathlib.Path, output: pathlib.Path, feeds: list[dict[str, np.ndarray]]
) -> float:
    """Write the most pruned int8 model that meets the target; return its ratio."""
    import graphopt
    from graphopt.errors import ValidationError

    options = dataclasses.replace(_options(), metric="top1", quality=TARGET)
    for ratio in RATIOS:
        pipeline = f"{_pruning(ratio)},quantize-static"
        try:
            graphopt.optimize(
                exported, pipeline, samples=feeds, output=output, options=options
            )
        except ValidationError:
            if ratio == RATIOS[-1]:
                raise
        else:
            break
    return ratio


def _pruning(ratio: float) -> str:
    return f"default,prune-channels{{ratio={ratio}}}"


def _options() -> Options:
    """Return options that keep every step, whether it pays or not, and measure none.

    The table measures them all, side by side.
    """
    from graphopt.api import Options

    return Options(allow_slower=True, measure=False)


def _answers(runtime: Runtime, path: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Return the logits of ``images``, float32 [N, 10]."""
    with runtime.session(path) as session:
        return session.run({INPUT: images})[session.output_names[0]]


def _show(rows: Sequence[Row], count: int) -> None:
    """Print the table to stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Digits, {count} test samples; latency of {BATCH} images, one thread")
    table.add_column("network")
    table.add_column("step")
    for title in ("accuracy", "size", "latency", "faster", "worst error"):
        table.add_column(title, justify="right")
    for row in rows:
        first = row.step == "exported"
        table.add_row(
            row.network if first else "",
            row.step,
            f"{row.accuracy:.1f} %",
            f"{row.size_bytes / 1000:.0f} kB",
            f"{row.latency_ms:.3f} ms",
            "" if first else f"{row.speedup:.2f}x",
            "" if first else f"{row.error:.2g}",
        )
    Console(width=100).print(table)


@click.command("demo", cls=Command)
@click.option(
    "--folder",
    type=click.Path(path_type=pathlib.Path, file_okay=False),
    default=pathlib.Path("out/demo"),
    show_default=True,
    help="Where checkpoints and models are left.",
)
def main(folder: pathlib.Path) -> None:
    """Train, distil, export and optimize the digit networks; print what each step gives."""
    digits = load_digits()
    write_samples(folder)
    known = Split(
        np.concatenate([digits.train.images, digits.calibration.images]),
        np.concatenate([digits.train.labels, digits.calibration.labels]),
    )
    rows: list[Row] = []
    with progress() as report:
        exported = networks(folder, report)
        for done, (name, path) in enumerate(exported.items(), start=1):
            rows += measure(name, path, known, digits.test)
            report("optimize", done, len(exported), "")
    _show(rows, len(digits.test))


if __name__ == "__main__":
    main()

"""Options that several commands have, and what they are read as."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug.script import metric_option

if TYPE_CHECKING:
    from graphopt.api import Options
    from graphopt.samples import Samples

__all__ = ["PATH", "data_options", "read_options", "read_samples"]

PATH = click.Path(path_type=pathlib.Path)
Command = Callable[..., Any]


def _number(
    context: click.Context, parameter: click.Parameter, value: float | None
) -> float | None:
    """Refuse what is no number."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number.", context, parameter)
    return value


def data_options(command: Command) -> Command:
    """Add the options about samples and what they are judged by."""
    for option in (
        metric_option,
        click.option(
            "--target",
            type=float,
            callback=_number,
            help="Least value of --metric to accept of a lossy result. With a preset that "
            "quantizes, or without --passes: find the fastest precisions that reach it.",
        ),
        click.option(
            "--atol",
            type=click.FloatRange(0),
            callback=_number,
            help="Largest absolute error of an exact or close result.",
        ),
        click.option(
            "--rtol",
            type=click.FloatRange(0),
            callback=_number,
            help="Largest error relative to the output.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            help="Samples of an .npz that form one feed.",
        ),
        click.option(
            "--data",
            type=PATH,
            help="Samples: an .npz with one array per input, or a folder of feeds.",
        ),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    ):
        command = option(command)
    return command


def read_options(given: dict[str, Any]) -> Options:
    """Return what the options of ``optimize`` or ``validate`` ask for."""
    from graphopt.api import Options
    from graphopt.passbase import Target
    from graphopt.validation import Tolerance

    tolerance = None
    if given["atol"] is not None or given["rtol"] is not None:
        tolerance = Tolerance(rtol=given["rtol"] or 0.0, atol=given["atol"] or 0.0)
    return Options(
        emit=Target(given.get("emit", "standard")),
        quality=given["target"],
        metric=given["metric"],
        tolerance=tolerance,
        allow_slower=given.get("allow_slower", False),
        measure=not given.get("no_measure", False),
        external_data=given.get("external_data", "auto"),
        seed=given["seed"],
        limit=given.get("rewrite_limit"),
        safe=given.get("safe", False),
        provenance=given.get("provenance", False),
        measure_each=given.get("report") is not None,
    )


def read_samples(model: pathlib.Path, given: dict[str, Any]) -> Samples | None:
    """Return the samples of ``--data`` for ``model``; ``None`` without the option."""
    if given["data"] is None:
        return None
    from graphopt import model_io
    from graphopt.samples import Samples

    specs = model_io.input_specs(model_io.load(model))
    return Samples.from_path(given["data"], specs, batch_size=given["batch_size"])

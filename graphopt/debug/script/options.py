"""The options that tools share, and what their values may be."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import click

__all__ = [
    "NUMBER",
    "PATH",
    "POSITIVE",
    "TOLERANCE",
    "check_options",
    "metric_option",
    "output_file",
    "output_folder",
    "recipe_options",
]

Function = Callable[..., Any]


class _Number(click.types.FloatParamType):
    """A number: NaN and infinity are none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a number.", param, ctx)
        return found


class _NumberFrom(_Number, click.FloatRange):
    """A number within bounds."""


PATH = click.Path(path_type=pathlib.Path)
NUMBER = _Number()
POSITIVE = _NumberFrom(0, min_open=True)
TOLERANCE = _NumberFrom(0)


metric_option = click.option(
    "--metric",
    default="cosine",
    show_default=True,
    help="What --target is measured in: cosine, top1 or sqnr, or module:function, a Python "
    "function of your own (docs/search.md).",
)


def recipe_options(function: Function) -> Function:
    """Add what describes a run of passes: MODEL and the options of ``read_recipe``."""
    return _with(
        function,
        click.argument("model", type=PATH),
        click.option(
            "--passes",
            default="default",
            show_default=True,
            help="A preset or a pipeline, as for graphopt optimize.",
        ),
        click.option(
            "--skip", multiple=True, metavar="PASS", help="Leave this pass out; repeatable."
        ),
        click.option(
            "--data", type=PATH, help="Samples: an .npz with one array per input, or a folder."
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            help="Samples of an .npz that form one feed.",
        ),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option(
            "--emit",
            type=click.Choice(["standard", "onnxruntime"]),
            default="standard",
            show_default=True,
            help="Operators that may be used.",
        ),
    )


def check_options(function: Function) -> Function:
    """Add what tells a right model from a wrong one: the options of ``read_check``."""
    return _with(
        function,
        click.option(
            "--check",
            "command",
            help="A command that exits with 0 for a right model; {model} is its path. "
            "Default: the answers in onnxruntime must be those of MODEL.",
        ),
        click.option(
            "--atol", type=TOLERANCE, help="Largest absolute error, per largest output."
        ),
        click.option("--rtol", type=TOLERANCE, help="Largest error relative to the output."),
        metric_option,
        click.option("--target", type=NUMBER, help="Least value of --metric to accept."),
        click.option(
            "--samples",
            "count",
            type=click.IntRange(1),
            default=8,
            show_default=True,
            help="Samples to run.",
        ),
        click.option(
            "--timeout",
            type=POSITIVE,
            default=600.0,
            show_default=True,
            help="Seconds that one attempt may take.",
        ),
        click.option(
            "--memory", type=click.IntRange(64), help="Megabytes that one attempt may take."
        ),
    )


def output_folder(
    context: click.Context, parameter: click.Parameter, value: pathlib.Path | None
) -> pathlib.Path | None:
    """Refuse a place where no folder can be, before any work is done."""
    if value is not None:
        place = value.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise click.BadParameter(f"{value} cannot be a folder.", context, parameter)
    return value


def output_file(
    context: click.Context, parameter: click.Parameter, value: pathlib.Path | None
) -> pathlib.Path | None:
    """Refuse a place where no file can be, before any work is done."""
    if value is not None and (
        value.is_dir() or not value.parent.is_dir() or not os.access(value.parent, os.W_OK)
    ):
        raise click.BadParameter(f"{value} cannot be written.", context, parameter)
    return value


def _with(function: Function, *options: Callable[[Function], Function]) -> Function:
    for option in reversed(options):
        function = option(function)
    return function

"""What the command lines of the tools share: options, help, errors, output.

Data goes to stdout, as a table or with ``--json``; words and progress go to stderr. Everything
heavy is imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from graphopt.errors import EXIT_DEFECT, EXIT_USAGE, GraphoptError, error_json

if TYPE_CHECKING:
    from graphopt.debug.checks import Check, CommandCheck
    from graphopt.debug.extract import Case
    from graphopt.debug.recipe import Recipe
    from graphopt.runtime import Runtime

__all__ = [
    "NUMBER",
    "PATH",
    "POSITIVE",
    "TOLERANCE",
    "Tool",
    "check_options",
    "memory_bytes",
    "output_file",
    "output_folder",
    "print_json",
    "print_table",
    "read_case",
    "read_check",
    "read_how",
    "read_recipe",
    "recipe_options",
    "say",
]


class _Number(click.FloatRange):
    """A number: NaN and infinity are none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a number.", param, ctx)
        return found


PATH = click.Path(path_type=pathlib.Path)
NUMBER = _Number()
POSITIVE = _Number(0, min_open=True)
TOLERANCE = _Number(0)
Function = Callable[..., Any]


class Tool(click.Command):
    """A command whose help is a module's docstring as it stands, and whose errors are a line.

    The function it runs returns the exit code (see ``graphopt.errors``), or ``None`` for 0.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault(
            "context_settings",
            {"help_option_names": ["-h", "--help"], "max_content_width": 95},
        )
        super().__init__(*args, **kwargs)
        traceback = click.Option(
            ["--traceback"], is_flag=True, help="Show where an error was raised."
        )
        as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON.")
        self.params += [as_json, traceback]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring without wrapping it anew."""
        del ctx
        formatter.write_paragraph()
        for line in (self.help or "").strip().splitlines():
            formatter.write(f"  {line.replace('``', '')}".rstrip() + "\n")

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        """Run the command and exit."""
        kwargs["standalone_mode"] = False
        logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings are not for users
        as_json = "--json" in (sys.argv[1:] if args is None else args)
        try:
            sys.exit(super().main(args, *more, **kwargs) or 0)
        except click.ClickException as error:
            self._fail("usage", error.format_message(), EXIT_USAGE, as_json)
        except click.exceptions.Abort:
            self._fail("interrupted", "stopped.", 130, as_json)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the function; turn what it raises into one line."""
        traceback, as_json = ctx.params.pop("traceback"), ctx.params["as_json"]
        try:
            found = super().invoke(ctx)
        except GraphoptError as error:
            if traceback:
                raise
            message = f"{error.message} {error.hint}".strip()
            self._fail(error.code, message, error.exit_code, as_json)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if traceback:
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            message = f"{text} Add --traceback and report this."
            self._fail("defect", message, EXIT_DEFECT, as_json)
        sys.stdout.flush()  # here, where a reader that has left (``| head``) is no error
        return found

    def _fail(self, code: str, message: str, status: int, as_json: bool) -> NoReturn:
        click.echo(f"{self.name}: error [{code}]: {message}", err=True)
        if as_json:
            print_json(error_json(code, message, status))
        sys.exit(status)


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
        click.option(
            "--metric",
            default="cosine",
            show_default=True,
            help="What --target is measured in: cosine, top1 or sqnr, or module:function, a "
            "Python function of your own (docs/search.md).",
        ),
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


def read_recipe(given: dict[str, Any]) -> Recipe:
    """Return the recipe that the options of ``recipe_options`` describe."""
    from graphopt import pipeline
    from graphopt.debug.recipe import Recipe
    from graphopt.passbase import Target

    return Recipe(
        given["model"].absolute(),
        tuple(pipeline.without(pipeline.parse(given["passes"]), given["skip"])),
        given["data"] and given["data"].absolute(),
        given["batch_size"],
        given["seed"],
        Target(given["emit"]),
    )


def read_check(given: dict[str, Any], recipe: Recipe, runtime: Runtime) -> Check:
    """Return the check that the options of ``check_options`` describe."""
    from graphopt.debug.checks import CommandCheck, NumericCheck
    from graphopt.validation import accepted

    how = read_how(given, recipe)
    if isinstance(how, CommandCheck):
        return how
    samples = recipe.samples()
    assert samples is not None
    samples = accepted(samples, recipe.model, runtime)
    return NumericCheck.of(recipe.model, samples, runtime, **how)


def read_case(
    given: dict[str, Any], recipe: Recipe, runtime: Runtime, *, must_run: bool = True
) -> tuple[Case, bool]:
    """Return the model with three feeds at most, and whether it runs on them.

    Raises:
        ValidationError: It does not run, though it must.
    """
    from graphopt import model_io
    from graphopt.answers import first_feeds
    from graphopt.debug.extract import Case
    from graphopt.errors import ValidationError
    from graphopt.validation import accepted

    samples = recipe.samples()
    assert samples is not None
    count, runs = min(given["count"], 3), True
    try:
        feeds = first_feeds(accepted(samples, recipe.model, runtime), count)
    except ValidationError:
        if must_run:
            raise
        feeds, runs = first_feeds(samples, count), False
    return Case(model_io.load(recipe.model), tuple(feeds)), runs


def read_how(given: dict[str, Any], recipe: Recipe) -> CommandCheck | dict[str, Any]:
    """Return a command, or the options of ``NumericCheck.of``.

    Raises:
        MetricError: There is no such metric.
    """
    from graphopt.debug.checks import CommandCheck
    from graphopt.passbase import Promise
    from graphopt.pipeline import promise_of
    from graphopt.scores import metric_of
    from graphopt.validation import Tolerance

    metric_of(given["metric"])
    if given["command"]:
        return CommandCheck.parse(given["command"], given["timeout"])
    how: dict[str, Any] = {
        "count": given["count"],
        "promise": promise_of(recipe.passes),
        "metric": given["metric"],
        "target": given["target"],
    }
    if given["atol"] is not None or given["rtol"] is not None:
        how["tolerance"] = Tolerance(rtol=given["rtol"] or 0.0, atol=given["atol"] or 0.0)
        how["promise"] = Promise.CLOSE
    return how


def memory_bytes(given: dict[str, Any]) -> int | None:
    """Return ``--memory`` in bytes."""
    return None if given["memory"] is None else given["memory"] << 20


def say(text: str) -> None:
    """Print a line of words for a person, on stderr."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print a result for a program, on stdout."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a result for a person, on stdout; numbers are aligned to the right."""
    import rich.console
    import rich.table
    import rich.text

    table = rich.table.Table(box=None, pad_edge=False)
    for index, title in enumerate(header):
        numeric = all(isinstance(row[index], (int, float)) for row in rows)
        justify: Any = "right" if numeric else "left"
        table.add_column(title, justify=justify, overflow="fold", max_width=60)
    for row in rows:
        table.add_row(*(rich.text.Text(_cell(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 160
    rich.console.Console(width=width).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

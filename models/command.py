"""What the commands of this folder share: one line per error, progress, lazy imports."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import click

from graphopt.ending import EndingInALine

__all__ = ["Command", "Report", "onnx_from_checkpoint", "progress", "say_written"]

# Package -> the extra of graphopt that brings it.
_EXTRAS = {
    "PIL": "real",
    "sklearn": "models",
    "tokenizers": "real",
    "torch": "models",
    "transformers": "real",
}

Report = Callable[[str, int, int, str], None]
"""Called as work goes on: what is done, steps done, steps in all, a word on the last one."""


class Command(EndingInALine):
    """A command whose errors become one line and a documented exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        option = click.Option(
            ["--traceback"],
            is_flag=True,
            expose_value=False,
            help="Show where an error was raised.",
        )
        self.params.append(option)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it needs is not installed with graphopt itself."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            if name not in _EXTRAS:
                raise
            text = f"{name} is not installed; install graphopt[{_EXTRAS[name]}]."
            raise click.UsageError(text) from error


def onnx_from_checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument CHECKPOINT and ``--output``, the ONNX file that is made of it."""
    kind = click.Path(path_type=pathlib.Path, dir_okay=False)
    there = click.Path(path_type=pathlib.Path, dir_okay=False, exists=True)
    output = click.option(
        "-o", "--output", type=kind, required=True, help="ONNX file to write."
    )
    return click.argument("checkpoint", type=there)(output(function))


def say_written(path: pathlib.Path, words: str = "") -> None:
    """Print the last line of such a command: the file, its size, and ``words``."""
    size = f"{path}: {path.stat().st_size / 1000:.0f} kB"
    click.echo(", ".join(filter(None, (size, words))))


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """Show progress on stderr; give what to call with it (see ``Report``)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description:20}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Remaining(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int, note: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, note=note)
            bar.update(tasks[what], completed=done, total=total, note=note)

        yield report

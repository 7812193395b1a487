"""What a tool prints: words on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from graphopt.terminal import harmless

__all__ = ["print_json", "print_table", "say", "show"]


def say(text: str) -> None:
    """Print a line of words for a person, on stderr."""
    click.echo(harmless(text), err=True)


def show(text: str = "") -> None:
    """Print a line of a result for a person, on stdout; no name in it steers the terminal."""
    click.echo(_line(text))


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
        table.add_row(*(rich.text.Text(_line(_cell(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 160
    rich.console.Console(width=width).print(table)


def _line(text: str) -> str:
    return harmless(text).replace("\n", "\\n")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

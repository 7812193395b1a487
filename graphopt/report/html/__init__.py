"""The report as one HTML file: collect (plain values), then render, then write."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from graphopt.model_io import staging

if TYPE_CHECKING:
    from graphopt.api import Result
    from graphopt.passbase import Progress

__all__ = ["write_report"]


def write_report(
    result: Result,
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    command: str = "",
) -> pathlib.Path:
    """Write the report of ``result`` to ``path``, whole or not at all, and return ``path``.

    Args:
        result: What ``optimize`` returned.
        path: Where the file goes.
        progress: Where this reports.
        command: What was typed, if anything was.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    from .collect import collect
    from .render import render

    destination = pathlib.Path(path)
    with staging.reporting(destination):
        staging.check_destination(destination)
    staging.write_file(destination, render(collect(result, progress, command)))
    return destination

"""``graphopt validate``."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import click

from graphopt.cli.options import PATH, data_options, read_options, read_samples
from graphopt.errors import EXIT_INVALID

__all__ = ["validate"]


@click.command()
@click.argument("original", type=PATH)
@click.argument("candidate", type=PATH)
@data_options
def validate(original: pathlib.Path, candidate: pathlib.Path, **given: Any) -> int:
    """Compare CANDIDATE with ORIGINAL in onnxruntime; exit code 1 if they differ."""
    from graphopt import api
    from graphopt.report import console as report
    from graphopt.report.progress import progress as progress_on

    with progress_on(report.console(stderr=True)) as progress:
        comparison = api.validate(
            original,
            candidate,
            samples=read_samples(original, given),
            options=read_options(given),
            progress=progress,
        )
    if given["as_json"]:
        click.echo(json.dumps(comparison.to_json(), indent=2))
    else:
        out = report.console()
        out.print(report.comparison_table(comparison))
        for note in filter(None, (comparison.score_text, *comparison.notes)):
            out.print(note)
        verdict = "the models agree" if comparison.passed else "the models differ"
        out.print(f"{verdict}: {comparison.reason}" if comparison.reason else verdict)
    return 0 if comparison.passed else EXIT_INVALID

"""``graphopt passes``."""

from __future__ import annotations

import click

__all__ = ["passes"]


@click.command()
@click.argument("name", required=False)
def passes(name: str | None) -> int:
    """List every pass and preset, or show all about the pass NAME."""
    from graphopt.report import passes as report

    click.echo(report.describe_pass(name) if name else report.list_passes())
    return 0

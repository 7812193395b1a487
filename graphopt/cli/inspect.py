"""``graphopt inspect``."""

from __future__ import annotations

import json
import pathlib

import click

from graphopt.cli.options import PATH

__all__ = ["inspect"]


@click.command()
@click.argument("model", type=PATH)
@click.option("--groups", is_flag=True, help="Show which dimensions can be pruned together.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def inspect(model: pathlib.Path, groups: bool, as_json: bool) -> int:
    """Show nodes, parameters, MACs, bytes, opset and types of MODEL."""
    from graphopt import model_io
    from graphopt.report import console as report
    from graphopt.report import groups as coupled
    from graphopt.report.summary import size_on_disk, summarize

    loaded = model_io.load(model)
    summary = summarize(loaded, size_on_disk(loaded, model))
    if as_json:
        facts = summary.to_json()
        if groups:
            facts["groups"] = coupled.groups_to_json(loaded)
        click.echo(json.dumps(facts, indent=2))
        return 0
    out = report.console()
    out.print(report.inspect_table(model.name, summary))
    if groups:
        out.print(coupled.groups_table(loaded))
    return 0

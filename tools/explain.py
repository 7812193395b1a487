"""Tell what became of a node, a tensor or a weight, and why.

LEDGER is what graphopt optimize --json printed, the ledger.json of trace_passes, or a model
that graphopt optimize --provenance wrote. For each NAME, which may be one from before, after
or in between, the tool lists every rewrite that touched it, by number, pass and rule, then the
name that carries its data now, and for what was left alone the reason.

Steps:
  1. The rewrites are followed from the name, through every replacement, both ways.
  2. What was taken back by --safe is shown with its reason.
  3. Without a NAME, all rewrites and the reasons for what was left alone are listed.

Typical usage:
  graphopt optimize model.onnx -o fast.onnx --json > run.json
  python -m graphopt.tools.explain run.json /layer1/conv1/Conv_output_0
  python -m graphopt.tools.explain run.json conv1.weight --json
  graphopt optimize model.onnx -o fast.onnx --provenance
  python -m graphopt.tools.explain fast.onnx conv1.weight

Exit code: 0 if every NAME is known, 1 if not; the nearest name is then suggested.

Known limitations: a rule that was not concerned with a node leaves no reason. Passes that
change a model by other means than numbered rewrites leave no trace here.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.debug.explain import Explanation
    from graphopt.debug.ledgers import LedgerFile
    from graphopt.ledger import Application

__all__ = ["main"]

SCHEMA = "graphopt/explain/1"


@click.command("explain", cls=script.Tool, help=__doc__)
@click.argument("ledger", type=script.PATH)
@click.argument("names", nargs=-1)
def main(ledger: pathlib.Path, names: tuple[str, ...], as_json: bool) -> int:
    """Run the tool; see the module docstring."""
    from graphopt.debug.explain import explain
    from graphopt.debug.ledgers import open_ledger

    read = open_ledger(ledger)
    if not names:
        _list(read, as_json=as_json)
        return 0
    found = [explain(read.ledger, name, read.names) for name in names]
    if as_json:
        script.print_json({"schema": SCHEMA, "names": [_to_json(one) for one in found]})
    else:
        for one in found:
            _print(one)
    return 0 if all(one.found for one in found) else 1


def _list(read: LedgerFile, *, as_json: bool) -> None:
    from graphopt.report.skips import group_reasons

    ledger = read.ledger
    if as_json:
        runs = [dataclasses.asdict(run) for run in read.runs]
        script.print_json({**ledger.to_json(), **({"runs": runs} if runs else {})})
        return
    for run in read.runs:
        options = "".join(f", {key} {value}" for key, value in run.options.items())
        script.show(f"graphopt {run.graphopt}: {run.passes}{options}, up to #{run.last}")
    for entry in ledger.applications:
        script.show(entry.summary())
    reasons: dict[tuple[str, ...], collections.Counter[str]] = {}
    for skip in ledger.skips:
        key = (skip.pass_name, skip.rule, skip.op_type or "tensor")
        reasons.setdefault(key, collections.Counter())[skip.reason] += 1
    for (pass_name, rule, what), counts in reasons.items():
        for reason, count in group_reasons(counts).items():
            script.show(f"{pass_name}/{rule} left {count} x {what} alone: {reason}")


def _print(found: Explanation) -> None:
    script.show(found.name)
    if not found.found:
        script.show(f"  nothing is known of it. {found.hint}")
    for entry in found.rewrites:
        script.show(f"  {entry.summary()}")
        for sign, call in _calls(entry):
            script.show(f"    {sign} {call}")
    if found.untouched:
        script.show("  no rewrite touched it")
    if found.became:
        script.show(f"  its data is now in {found.became[-1]}")
    for skip in found.skips:
        script.show(f"  {skip.pass_name}/{skip.rule} left {skip.anchor} alone: {skip.reason}")


def _calls(entry: Application) -> list[tuple[str, str]]:
    groups = (
        ("-", entry.nodes_removed),
        ("+", entry.nodes_added),
        ("~", entry.nodes_changed),
    )
    return [
        (sign, f"{', '.join(node.outputs)} = {node.op_type}({', '.join(node.inputs)})")
        for sign, nodes in groups
        for node in nodes
    ]


def _to_json(found: Explanation) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "found": found.found}


if __name__ == "__main__":
    main()

"""Follow a model through its passes: the file, the changes, the cost and the error of each.

Steps:
  1. The pipeline is run. After every pass that changed something the model is written to the
     output folder, numbered, as an .onnx file that any viewer opens, with a text diff of nodes
     and weights next to it.
  2. After each of them the model is run on a few samples in onnxruntime and compared with the
     original.
  3. A table shows time, memory, rewrites, nodes, bytes and error of each pass, and what each
     rule did. trace.json is a Chrome trace (open it in chrome://tracing or ui.perfetto.dev),
     ledger.json has every rewrite, and every reason why a node was left alone.

Typical usage:
  python -m graphopt.tools.trace_passes model.onnx -o trace/
  python -m graphopt.tools.trace_passes model.onnx --passes simplify --each-rewrite -o trace/

Passes in brackets are driven together and are one step; --each-rewrite looks into them: the
model and its diff after every single rewrite, under rewrites/.

Known limitations: the error is that of a few samples without onnxruntime's own optimizations;
graphopt validate looks at all samples, and at the model as it is deployed. Memory is this
process's; what onnxruntime uses in its own process is not in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.instruments import ErrorAfter, Measurement, RuleStatistic
    from graphopt.ledger import Ledger

__all__ = ["main"]

_WIDTH = 58
"""Letters of a pass that a row shows."""

SCHEMA = "graphopt/trace/1"


@click.command("trace_passes", cls=script.Tool, help=__doc__)
@script.recipe_options
@click.option("-o", "--output", type=script.PATH, required=True,
              callback=script.output_folder, help="Folder for the files.")  # fmt: skip
@click.option("--each-rewrite", is_flag=True, help="Write the model after every rewrite too.")
@click.option("--samples", "count", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--timeout", type=script.POSITIVE, default=600.0, show_default=True, help="For one run."
)
def main(output: pathlib.Path, each_rewrite: bool, as_json: bool, **given: Any) -> None:
    """Run the tool; see the module docstring."""
    from graphopt import instruments, model_io
    from graphopt.manager import PassManager
    from graphopt.runtime import Runtime
    from graphopt.validation import accepted

    recipe = script.read_recipe(given)
    samples = recipe.samples()
    assert samples is not None
    dump, timing = instruments.DumpChanged(output), instruments.Timing()
    with Runtime(given["timeout"]) as runtime:
        samples = accepted(samples, recipe.model, runtime)
        errors = instruments.Errors(recipe.model, samples, runtime, given["count"])
        model = model_io.load(recipe.model)
        context = recipe.context(runtime)
        if each_rewrite:
            watch = instruments.DumpRewrites(output / "rewrites", model)
            context.observers.append(watch)
        PassManager(recipe.passes, [dump, timing, errors]).run(model, context)
    timing.write_trace(output / "trace.json")
    (output / "ledger.json").write_text(
        json.dumps(context.ledger.to_json(), indent=1), encoding="utf-8"
    )
    rows = list(zip(timing.measurements, errors.measurements, strict=True))
    rules = instruments.statistics(context.ledger)
    if as_json:
        script.print_json(_to_json(output, rows, rules, context.ledger))
    else:
        _print(output, rows, rules)


def _print(
    output: pathlib.Path,
    rows: list[tuple[Measurement, ErrorAfter]],
    rules: list[RuleStatistic],
) -> None:
    from graphopt.report.skips import group_reasons

    script.print_table(
        ("pass", "ms", "peak MB", "rewrites", "nodes", "", "bytes", "", "max error", "SNR dB",
         ""),
        [
            (
                _short(one.label),
                round(1e3 * one.wall_s, 1),
                one.peak_rss_bytes >> 20,
                one.rewrites,
                one.nodes,
                f"{one.nodes_delta:+,}" if one.nodes_delta else "",
                one.weight_bytes,
                f"{one.weight_bytes_delta:+,}" if one.weight_bytes_delta else "",
                error.max_abs,
                error.sqnr_db,
                error.fault,
            )
            for one, error in rows
        ],
    )  # fmt: skip
    script.show()
    script.print_table(
        ("rule", "rewrites", "undone", "nodes -", "nodes +", "bytes", "left alone, because"),
        [
            (
                f"{rule.pass_name}/{rule.rule}",
                rule.applied,
                rule.undone,
                rule.nodes_removed,
                rule.nodes_added,
                rule.weight_bytes_delta,
                "; ".join(
                    f"{count} x {reason}"
                    for reason, count in group_reasons(rule.reasons).items()
                ),
            )
            for rule in rules
        ],
    )
    script.show()
    script.show(f"files in {output}")


def _short(label: str) -> str:
    """Return the text of a pass in one line of a table; of a group the first of its passes."""
    if len(label) <= _WIDTH:
        return label
    end = label.rfind(",", 0, _WIDTH)
    return f"{label[: end if end > 0 else _WIDTH]},…"


def _to_json(
    output: pathlib.Path,
    rows: list[tuple[Measurement, ErrorAfter]],
    rules: list[RuleStatistic],
    ledger: Ledger,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "folder": str(output),
        "passes": [
            {**_finite(dataclasses.asdict(one)), "error": _finite(dataclasses.asdict(error))}
            for one, error in rows
        ],
        "rules": [dataclasses.asdict(rule) for rule in rules],
        "rewrites": len(ledger),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with ``None`` for what JSON has no number for."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


if __name__ == "__main__":
    main()

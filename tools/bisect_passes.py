r"""Find the single rewrite that breaks a model.

Every rewrite that graphopt makes has a running number. This tool makes the model again and
again with the first N rewrites only, checks each, and halves what is left to search, until one
rewrite remains with which the model is wrong and without which it is right. That takes about
log2(rewrites) + 2 checks.

Steps:
  1. The whole pipeline is run and checked. If it passes, there is nothing to find (exit
     code 1).
  2. The pipeline is run without any rewrite. If that fails, MODEL itself is checked, and then
     the passes one by one: one of them changes the model by other means.
  3. A binary search names the rewrite (exit code 0). The last right and the first wrong model
     are left in the output folder as good.onnx and bad.onnx.

Typical usage:
  python -m graphopt.tools.bisect_passes model.onnx --passes default
  python -m graphopt.tools.bisect_passes model.onnx --passes int8-static --data samples.npz \
      --metric sqnr --target 20 -o blame/
  python -m graphopt.tools.bisect_passes model.onnx --check './evaluate.sh {model}' -o blame/

What is checked: by default that onnxruntime gives the answers it gave for MODEL, within the
tolerance; with --target, that a metric does not fall below it; with --check, that a command
exits with 0. Models are made and checked in a child process: an exception, a crash, a hang or
a lack of memory is a failure like any other.

With -o, verdicts are written to record.json, as failed before each check and corrected after
it, so that the same command goes on where a crash of the machine has stopped it.

Known limitations: where several rewrites are wrong, one of them is named; a rewrite is named
with which the model turns wrong, which need not be the last one that does. Passes that change
a model by other means than numbered rewrites are named as a whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.debug.blame import Blame
    from graphopt.debug.checks import Verdict

__all__ = ["main"]

SCHEMA = "graphopt/bisect/1"


@click.command("bisect_passes", cls=script.Tool, help=__doc__)
@script.recipe_options
@script.check_options
@click.option("-o", "--output", type=script.PATH, callback=script.output_folder,
              help="Folder for the models and the record.")  # fmt: skip
def main(output: pathlib.Path | None, as_json: bool, **given: Any) -> int:
    """Run the tool; see the module docstring."""
    from graphopt.debug.blame import blame
    from graphopt.debug.isolated import Isolated
    from graphopt.debug.record import Record
    from graphopt.model_io.staging import reporting, scratch_folder
    from graphopt.runtime import Runtime

    recipe = script.read_recipe(given)
    with contextlib.ExitStack() as stack:
        folder = output or stack.enter_context(scratch_folder())
        with reporting(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with Runtime(given["timeout"]) as runtime:
            check = script.read_check(given, recipe, runtime)
        key = {**given, "passes": recipe.text, "changed": recipe.model.stat().st_mtime_ns}
        record = Record(folder / "record.json" if output else None, _texts(key))
        workplace = stack.enter_context(Isolated(given["timeout"], script.memory_bytes(given)))
        found = blame(recipe, check, workplace, folder, record=record, report=_report)
        record.finish()
        if output is None:
            found = dataclasses.replace(found, good=None, bad=None)
    if as_json:
        script.print_json(_to_json(found))
    else:
        _print(found)
    return 0 if found.found else 1


def _report(what: str, verdict: Verdict) -> None:
    script.say(f"{what}: {verdict}")


def _print(found: Blame) -> None:
    if not found.found:
        script.show(f"nothing to blame: all {found.rewrites} rewrites together pass the check")
        return
    if found.number is None:
        script.show(f"{found.pass_text} breaks the model without a numbered rewrite")
    else:
        total = f" of {found.rewrites}" if found.rewrites is not None else ""
        script.show(f"rewrite {found.number}{total}, by {found.pass_text}, breaks the model")
        if found.entry is not None:
            script.show(f"  {found.entry.summary()}")
            for sign, nodes in (
                ("-", found.entry.nodes_removed),
                ("+", found.entry.nodes_added),
                ("~", found.entry.nodes_changed),
            ):
                for node in nodes:
                    call = f"{node.op_type}({', '.join(node.inputs)})"
                    script.show(f"  {sign} {', '.join(node.outputs)} = {call}")
    script.show(f"  {found.verdict}")
    script.show(f"  {found.checks} checks")
    for label, path in (("last right", found.good), ("first wrong", found.bad)):
        if path is not None:
            script.show(f"  the {label} model: {path}")


def _to_json(found: Blame) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "found": found.found,
        "rewrite": found.number,
        "pass": found.pass_text,
        "summary": found.entry.summary() if found.entry is not None else "",
        "entry": dataclasses.asdict(found.entry) if found.entry is not None else None,
        "verdict": dataclasses.asdict(found.verdict),
        "rewrites": found.rewrites,
        "checks": found.checks,
        "good": found.good and str(found.good),
        "bad": found.bad and str(found.bad),
    }


def _texts(key: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in key.items()}


if __name__ == "__main__":
    main()

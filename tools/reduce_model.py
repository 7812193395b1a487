r"""Shrink a failing model to the smallest that still fails the same way.

Steps:
  1. The pipeline is run on MODEL and the result is checked. If it passes there is nothing to
     shrink (exit code 1). How it fails is remembered: wrong answers, refused by onnxruntime,
     an exception of a certain type, a crash, a hang.
  2. In a large model the rewrite to blame is looked for first (see bisect_passes): the nodes
     around it are the ones that are tried first.
  3. Nodes go, by delta debugging, also inside If, Loop and Scan; what the others used of them
     becomes an input, fed with what it was. Then sizes are cut, weights become seeded random
     numbers, and one sample is left.
  4. The smallest model that fails the same way is left in the output folder as model.onnx,
     with its samples. No single node of its main graph can go.

Typical usage:
  python -m graphopt.tools.reduce_model model.onnx --passes default -o small/
  python -m graphopt.tools.reduce_model model.onnx --check './run.sh {model}' --as-is -o small/

With --as-is no passes are run: MODEL itself fails the command, and may be one that onnxruntime
does not even load. Every try runs in a child process, so that crashes and hangs can be shrunk
too.

Known limitations: inputs of a subgraph that take the place of nodes in it are fed with seeded
random numbers, since what they were cannot be observed. Sizes are cut where equal sizes belong
together; a Reshape to a fixed size keeps it. Weights stay where the failure needs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.debug.case import Case
    from graphopt.debug.checks import Verdict
    from graphopt.debug.isolated import Workplace
    from graphopt.debug.recipe import Recipe
    from graphopt.runtime import Runtime

__all__ = ["main"]

SCHEMA = "graphopt/reduce/1"
LARGE = 60
"""Nodes from which on it pays to look for the rewrite to blame first."""


@click.command("reduce_model", cls=script.Tool, help=__doc__)
@script.recipe_options
@script.check_options
@click.option("-o", "--output", type=script.PATH, required=True,
              callback=script.output_folder, help="Folder for the result.")  # fmt: skip
@click.option("--as-is", is_flag=True, help="Run no passes: MODEL itself fails --check.")
def main(output: pathlib.Path, as_is: bool, as_json: bool, **given: Any) -> int:
    """Run the tool; see the module docstring."""
    from graphopt.debug.case import count_nodes, weight_bytes
    from graphopt.debug.checks import Verdict
    from graphopt.debug.failure import Failure, save_case
    from graphopt.debug.isolated import Isolated
    from graphopt.debug.reduce import reduce_case
    from graphopt.model_io.staging import reporting
    from graphopt.runtime import Runtime

    if as_is and not given["command"]:
        raise click.UsageError("--as-is needs a --check: without passes nothing differs.")
    recipe = script.read_recipe(given)
    _keep_from_harm(recipe, output)
    if as_is:
        recipe = dataclasses.replace(recipe, passes=())
    how = script.read_how(given, recipe)
    with contextlib.ExitStack() as stack:
        workplace = stack.enter_context(Isolated(given["timeout"], script.memory_bytes(given)))
        runtime = stack.enter_context(Runtime(given["timeout"]))
        case, runs = script.read_case(given, recipe, runtime, must_run=not as_is)
        wanted = Failure(recipe, how, workplace, Verdict("differs"), must_run=runs).verdict(
            case
        )
        if wanted.kind == "invalid":
            raise click.UsageError(f"{given['model']} does not run: {wanted.detail}")
        if wanted.passed:
            click.echo("nothing to shrink: the check passes", err=as_json)
            return 1
        script.say(f"it fails: {wanted}")
        hints = _hints(recipe, given, workplace, runtime, case)
        failure = Failure(recipe, how, workplace, wanted, report=_reporting(), must_run=runs)
        small = reduce_case(case, failure, runtime, hints)
        with reporting(output):
            found = save_case(small, recipe, output)
        verdict = failure.verdict(small)
    result = {
        "schema": SCHEMA,
        "model": str(found.model),
        "samples": found.data and str(found.data),
        "verdict": dataclasses.asdict(verdict),
        "nodes": count_nodes(small.model),
        "nodes_before": count_nodes(case.model),
        "weight_bytes": weight_bytes(small.model),
        "weight_bytes_before": weight_bytes(case.model),
        "tries": failure.tries,
        "passes": recipe.text,
    }
    if as_json:
        script.print_json(result)
    else:
        _print(result, verdict)
    return 0


def _keep_from_harm(recipe: Recipe, output: pathlib.Path) -> None:
    """Refuse a folder in which the result would take the place of what is read."""
    written = {(output / name).resolve() for name in ("model.onnx", "samples")}
    for path in (recipe.model, recipe.data):
        if path is not None and path.resolve() in written:
            raise click.UsageError(f"the result in {output} would take the place of {path}.")


def _hints(
    recipe: Recipe,
    given: dict[str, Any],
    workplace: Workplace,
    runtime: Runtime,
    case: Case,
) -> set[str]:
    """Return names near the rewrite to blame, where that is worth looking for."""
    from graphopt.debug.blame import blame
    from graphopt.debug.case import count_nodes
    from graphopt.model_io.staging import scratch_folder

    if not recipe.passes or count_nodes(case.model) < LARGE:
        return set()
    script.say("looking for the rewrite to blame first")
    check = script.read_check(given, recipe, runtime)
    with scratch_folder() as folder:
        found = blame(recipe, check, workplace, folder)
    entry = found.entry
    if entry is None:
        return set()
    script.say(f"blamed: {entry.summary()}")
    names = {entry.anchor, *entry.values_replaced}
    for node in (*entry.nodes_removed, *entry.nodes_changed):
        names |= {node.name, *node.inputs, *node.outputs}
    return names - {""}


def _reporting() -> Callable[[Case], None]:
    """Return what tells of each case that is smaller than the one before."""
    told = ""

    def report(case: Case) -> None:
        nonlocal told
        text = _size(case)
        if text != told:
            script.say(f"still fails: {text}")
        told = text

    return report


def _size(case: Case) -> str:
    from graphopt.debug.case import count_nodes, weight_bytes

    nodes, weights = count_nodes(case.model), weight_bytes(case.model)
    return f"{nodes} nodes, {weights:,} bytes of weights"


def _print(result: dict[str, Any], verdict: Verdict) -> None:
    script.show(
        f"{result['nodes_before']} -> {result['nodes']} nodes, "
        f"{result['weight_bytes_before']:,} -> {result['weight_bytes']:,} bytes of weights, "
        f"in {result['tries']} tries"
    )
    script.show(f"  {verdict}")
    script.show(f"  model: {result['model']}")
    if result["samples"]:
        script.show(f"  samples: {result['samples']}")


if __name__ == "__main__":
    main()

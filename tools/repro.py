r"""Pack a failure into one file that shows it elsewhere, or replay such a file.

Steps, for a model:
  1. The pipeline is run on MODEL and checked. If it passes there is nothing to pack (exit
     code 1).
  2. MODEL is shrunk while it fails the same way (see reduce_model), and its weights become
     seeded random numbers where the failure survives that, so that a private model stays
     private. Where it does not, nothing is written unless --keep-weights allows it.
  3. One .zip holds the model, its samples, the pipeline with its options, the seed, the
     limits, the verdict, and the versions of all that matters.

Steps, for a .zip:
  1. It is unpacked in a temporary folder and run in a child process.
  2. The verdict is compared: exit code 0 if the failure is seen again, 1 if not.

Typical usage:
  python -m graphopt.tools.repro model.onnx --passes default -o failure.zip
  python -m graphopt.tools.repro failure.zip

Known limitations: a --check command is packed as text; what it runs is not. Passes of other
packages must be installed where the bundle is replayed. A bundle runs passes of this
installation on a model from elsewhere; it holds no code of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Any

import click

from graphopt.debug import script

__all__ = ["main"]

SCHEMA = "graphopt/repro-result/1"


@click.command("repro", cls=script.Tool, help=__doc__)
@script.recipe_options
@script.check_options
@click.option("-o", "--output", type=script.PATH, callback=script.output_file,
              help="The .zip to write.")  # fmt: skip
@click.option("--no-reduce", is_flag=True, help="Pack the model as large as it is.")
@click.option("--keep-weights", is_flag=True, help="The weights may be in the bundle.")
def main(as_json: bool, **given: Any) -> int:
    """Run the tool; see the module docstring."""
    if given["model"].suffix == ".zip":
        return _replay(given["model"], as_json=as_json)
    if given["output"] is None:
        raise click.UsageError("Missing option '-o' / '--output': the .zip to write.")
    if given["output"].resolve() == given["model"].resolve():
        raise click.UsageError(f"{given['output']} is MODEL itself.")
    return _pack(given, as_json=as_json)


def _pack(given: dict[str, Any], *, as_json: bool) -> int:
    from graphopt.debug.bundle import Bundle, BundleError, pack, versions_here
    from graphopt.debug.case import count_nodes
    from graphopt.debug.checks import Verdict
    from graphopt.debug.failure import Failure
    from graphopt.debug.isolated import Isolated
    from graphopt.debug.reduce import random_weights, reduce_case
    from graphopt.model_io.staging import reporting
    from graphopt.runtime import Runtime

    recipe = script.read_recipe(given)
    how = script.read_how(given, recipe)
    memory = script.memory_bytes(given)
    with contextlib.ExitStack() as stack:
        workplace = stack.enter_context(Isolated(given["timeout"], memory))
        runtime = stack.enter_context(Runtime(given["timeout"]))
        case, _ = script.read_case(given, recipe, runtime)
        wanted = Failure(recipe, how, workplace, Verdict("differs")).verdict(case)
        if wanted.kind == "invalid":
            raise click.UsageError(f"{given['model']} does not run: {wanted.detail}")
        if wanted.passed:
            click.echo("nothing to pack: the check passes", err=as_json)
            return 1
        script.say(f"it fails: {wanted}")
        fails = Failure(recipe, how, workplace, wanted)
        if not given["no_reduce"]:
            case = reduce_case(case, fails, runtime)
        if not given["keep_weights"]:
            case, private = random_weights(case, fails)
            if private:
                raise BundleError(
                    "weights",
                    f"without the weights {', '.join(private[:3])} the failure does not show.",
                    hint="Add --keep-weights if they may be in the bundle.",
                )
        verdict = fails.verdict(case)
    bundle = Bundle(recipe, how, verdict, given["timeout"], memory, versions_here())
    with reporting(given["output"]):
        size = pack(bundle, case, given["output"])
    result = {
        "schema": SCHEMA,
        "bundle": str(given["output"]),
        "size_bytes": size,
        "verdict": dataclasses.asdict(verdict),
        "nodes": count_nodes(case.model),
    }
    if as_json:
        script.print_json(result)
    else:
        script.show(f"wrote {given['output']}: {size:,} bytes, {result['nodes']} nodes")
        script.show(f"  {verdict}")
    return 0


def _replay(path: pathlib.Path, *, as_json: bool) -> int:
    from graphopt.debug.bundle import unpack, versions_here
    from graphopt.debug.checks import verdict_of
    from graphopt.debug.failure import Failure, judge
    from graphopt.debug.isolated import Isolated
    from graphopt.errors import ExecutionError
    from graphopt.model_io.staging import scratch_folder

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        bundle = unpack(path, folder)
        workplace = stack.enter_context(Isolated(bundle.timeout, bundle.memory_bytes))
        try:
            verdict = workplace.call(judge, bundle.recipe, bundle.how, folder / "result.onnx")
        except ExecutionError as error:
            verdict = verdict_of(error)
        same = Failure(bundle.recipe, bundle.how, workplace, bundle.verdict).same(verdict)
    here = versions_here()
    other = {
        name: (there, here.get(name, ""))
        for name, there in bundle.versions.items()
        if here.get(name, "") != there
    }
    if as_json:
        script.print_json(
            {
                "schema": SCHEMA,
                "reproduced": same,
                "wanted": dataclasses.asdict(bundle.verdict),
                "found": dataclasses.asdict(verdict),
                "other_versions": other,
            }
        )
    else:
        script.show("the failure is seen again" if same else "the failure is not seen here")
        script.show(f"  then: {bundle.verdict}")
        script.show(f"  now:  {verdict}")
        for name, (there, now) in other.items():
            script.show(f"  {name}: {there} then, {now} now")
    return 0 if same else 1


if __name__ == "__main__":
    main()

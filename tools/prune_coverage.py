"""Print how much of models prune-channels reaches, and how long finding that out takes.

Steps, for each model:
  1. The analysis looks for the dimensions that can be cut, three times; the least seconds of
     processor count, for every 1,000 nodes.
  2. Weights (constants that Conv, Gemm, MatMul, ... multiply with) are reached if an axis of
     theirs is in a group that can be cut.
  3. The same share of every group is cut; how many of the parameters are gone is told.

Typical usage:
  python -m graphopt.tools.prune_coverage resnet50.onnx bert.onnx

Known limitations: that the cut model equals the masked one is for the tests to say.
"""

from __future__ import annotations

import pathlib
import time
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script

if TYPE_CHECKING:
    from graphopt.analysis.coupling.graph import Site

__all__ = ["main"]

SCHEMA = "graphopt/prune-coverage/1"
REPETITIONS = 3
MULTIPLY = frozenset({"Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
MOVE = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose", "Unsqueeze"})


@click.command("prune_coverage", cls=script.Tool, help=__doc__)
@click.argument("models", type=script.PATH, nargs=-1, required=True)
@click.option("--ratio", type=click.FloatRange(0, 1, max_open=True), default=0.5,
              show_default=True, help="Share to cut of every group.")  # fmt: skip
def main(models: tuple[pathlib.Path, ...], ratio: float, as_json: bool) -> None:
    """Run the tool; see the module docstring."""
    found: list[dict[str, Any]] = []
    for model in models:
        script.say(model.name)
        found.append({"model": model.name, **_coverage(model), **_removed(model, ratio)})
    if as_json:
        script.print_json({"schema": SCHEMA, "ratio": ratio, "models": found})
        return
    rows = [
        (one["model"], one["nodes"], f"{one['removed']:.1%}",
         f"{one['reached']} of {one['weights']}", f"{one['cpu_s_per_1000_nodes']:.2f}")
        for one in found
    ]  # fmt: skip
    script.print_table(
        ("model", "nodes", "parameters removed", "weights reached", "CPU s / 1,000 nodes"),
        rows,
    )


def _coverage(path: pathlib.Path) -> dict[str, Any]:
    from graphopt import model_io
    from graphopt.analysis.coupling.graph import analyse
    from graphopt.analysis.coupling.groups import find_groups

    model = model_io.load(path)
    seconds = []
    for _ in range(REPETITIONS):
        start = time.process_time()
        dimensions = find_groups(analyse(model))
        seconds.append(time.process_time() - start)
    free = [group for group in dimensions.groups if not group.reason]
    offered = {member.site for group in free for member in group.members}
    weights = [site for site in dimensions.coupling.sites if _is_weight(site)]
    nodes = max(sum(1 for _ in model.graph.all_nodes()), 1)
    return {
        "nodes": nodes,
        "weights": len(weights),
        "reached": sum(site in offered for site in weights),
        "cpu_s_per_1000_nodes": round(min(seconds) / nodes * 1000, 3),
    }


def _is_weight(site: Site) -> bool:
    """Whether a constant, as it is or laid out another way, is a matrix or kernel."""
    users = [node for node, _ in site.uses]
    while users:
        node = users.pop()
        if node.op_type in MULTIPLY:
            return sum(axis.size != 1 for axis in site.axes) > 1
        if node.op_type in MOVE:
            users += [use.node for use in node.outputs[0].uses()]
    return False


def _removed(path: pathlib.Path, ratio: float) -> dict[str, Any]:
    from graphopt import model_io, pipeline
    from graphopt.passbase import Context

    (step,) = pipeline.parse(f"prune-channels{{ratio={ratio},recovery=none}}")
    details = step.run(model_io.load(path), Context()).details
    before = max(details["parameters"], 1)
    return {"removed": round(1 - details["parameters_after"] / before, 4)}


if __name__ == "__main__":
    main()

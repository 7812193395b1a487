"""Measure what looking on costs: the manager, timing, statistics and the ledger.

Steps, for each model and for a generated graph:
  1. The pipeline is run again and again, in turn without and with Timing and statistics; the
     model is read anew each time, which is not counted. The passes' own time is the least.
     A large model gets fewer rounds, and two at least.
  2. "off" is what PassManager without instruments spends beside its passes, "looking on" what
     Timing and the statistics add to that; both are clocked directly.
  3. "ledger" is the time of writing down once more what it has written down: as many nodes,
     weights, rewrites and reasons.
  4. All are processor time of this process, so that a busy machine matters less; medians.

Typical usage:
  python -m graphopt.tools.bench_instruments bert.onnx vit.onnx --nodes 20000

Exit code: 0 if off < 0.5 % and looking on + ledger < 5 % of the time of the passes everywhere,
1 if not.

Known limitations: work that onnxruntime does for a pass, in its own process, is not in the
time of the passes.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import click

from graphopt.debug import script
from graphopt.ledger import Ledger

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.passbase import Pass
    from graphopt.runtime import Runtime

__all__ = ["main"]

SCHEMA = "graphopt/bench-instruments/1"
MOST_OFF, MOST_ON = 0.5, 5.0
"""Percent of the time of the passes."""


@click.command("bench_instruments", cls=script.Tool, help=__doc__)
@click.argument("models", type=script.PATH, nargs=-1)
@click.option("--passes", default="default", show_default=True)
@click.option("--nodes", type=click.IntRange(0), default=5000, show_default=True,
              help="Size of the generated graph; 0: none.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(2), default=7, show_default=True)
@click.option("--seconds", type=script.POSITIVE, default=20.0, show_default=True,
              help="Processor time after which a model gets no further round.")  # fmt: skip
def main(models: tuple[pathlib.Path, ...], as_json: bool, **given: Any) -> int:
    """Run the tool; see the module docstring."""
    from graphopt import pipeline
    from graphopt.runtime import Runtime

    if not models and not given["nodes"]:
        raise click.UsageError("there is nothing to measure: give a model, or --nodes.")
    passes = pipeline.parse(given["passes"])
    found = []
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder, Runtime() as runtime:
        if given["nodes"]:
            models = (*models, _generated(pathlib.Path(folder), given["nodes"]))
        for model in models:
            script.say(f"{model.name}: up to {given['rounds']} rounds")
            found.append(_measure(model, passes, runtime, given["rounds"], given["seconds"]))
    met = all(one["off_percent"] < MOST_OFF and one["on_percent"] < MOST_ON for one in found)
    if as_json:
        script.print_json({"schema": SCHEMA, "models": found, "met": met})
        return 0 if met else 1
    script.print_table(
        ("model", "nodes", "rewrites", "ms", "off %", "looking on %", "ledger %", "on %"),
        [
            (one["model"], one["nodes"], one["rewrites"], one["passes_ms"],
             *(one[f"{key}_percent"] for key in ("off", "looking", "ledger", "on")))
            for one in found
        ],
    )  # fmt: skip
    script.show()
    script.show(f"off < {MOST_OFF} % and on < {MOST_ON} %: {'met' if met else 'missed'}")
    return 0 if met else 1


@dataclasses.dataclass(frozen=True)
class _Run:
    """Seconds of processor time: in all, of the passes alone, and of writing the ledger."""

    total: float
    passes: float
    ledger: float
    nodes: int
    rewrites: int


class _Counting(Ledger):
    """Counts how often a reason was written down; the latest replaces earlier ones."""

    skipped = 0

    def skip(self, *fields: str) -> None:
        self.skipped += 1
        super().skip(*fields)


def _measure(
    path: pathlib.Path, passes: list[Pass], runtime: Runtime, rounds: int, seconds: float
) -> dict[str, Any]:
    off: list[_Run] = []
    on: list[_Run] = []
    start = time.process_time()
    while len(on) < 2 or (len(on) < rounds and time.process_time() - start < seconds):
        off.append(_run(path, passes, runtime, look=False))
        on.append(_run(path, passes, runtime, look=True))
    alone = min(one.passes for one in (*off, *on))
    beside = [statistics.median(one.total - one.passes for one in runs) for runs in (off, on)]
    looking = beside[1] - beside[0]
    ledger = statistics.median(one.ledger for one in (*off, *on))
    figures = {"off": beside[0], "looking": looking, "ledger": ledger, "on": looking + ledger}
    return {
        "model": path.name,
        "nodes": off[0].nodes,
        "rewrites": off[0].rewrites,
        "rounds": len(on),
        "passes_ms": round(1e3 * alone, 2),
        **{f"{key}_percent": round(100 * value / alone, 3) for key, value in figures.items()},
    }


def _run(path: pathlib.Path, passes: list[Pass], runtime: Runtime, *, look: bool) -> _Run:
    from graphopt import instruments, model_io
    from graphopt.manager import PassManager
    from graphopt.passbase import Context

    model = model_io.load(path)
    nodes = sum(len(graph) for graph in model.graphs())
    ledger = _Counting()
    context = Context(ledger=ledger)
    context.share(runtime)
    manager = PassManager(passes, [instruments.Timing()] if look else [])
    start = time.process_time()
    model, steps = manager.run(model, context)
    if look:
        instruments.statistics(ledger)
    total = time.process_time() - start
    alone = sum(step.cpu_s for step in steps)
    return _Run(total, alone, _writing_time(model, ledger), nodes, len(ledger))


def _writing_time(model: ir.Model, ledger: _Counting) -> float:
    """Return the seconds that writing down as much as ``ledger`` holds takes."""
    from graphopt.ledger import WeightRecord
    from graphopt.model_io.collector import collection_rare
    from graphopt.records import record_of

    applied = ledger.applications
    records = sum(
        len(entry.nodes_removed) + len(entry.nodes_added) + len(entry.nodes_changed)
        for entry in applied
    )
    weights = [
        weight
        for entry in applied
        for weight in (*entry.weights_removed, *entry.weights_added)
    ]
    nodes = list(model.graph)
    again = Ledger()
    with collection_rare():  # as while passes run
        start = time.process_time()
        for index in range(records):
            record_of(nodes[index % len(nodes)])
        for weight in weights:
            WeightRecord(
                weight.name, str(weight.dtype), tuple(weight.shape), weight.size_bytes
            )
        for entry in applied:
            again.settle(again.open(entry.pass_name, entry.rule, entry.anchor))
        for index in range(ledger.skipped):
            again.skip("pass", "rule", nodes[index % len(nodes)].name or "", "Op", "a reason")
        return time.process_time() - start


def _generated(folder: pathlib.Path, nodes: int) -> pathlib.Path:
    """Write blocks of a network as exporters leave them: half of the nodes can go."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    made, last = [], "x"
    for block in range(nodes // 8):
        names = [f"b{block}_{step}" for step in range(8)]
        made += [
            helper.make_node("MatMul", [last, "w"], [names[0]]),
            helper.make_node("Identity", [names[0]], [names[1]]),
            helper.make_node("Transpose", [names[1]], [names[2]], perm=[1, 0]),
            helper.make_node("Transpose", [names[2]], [names[3]], perm=[1, 0]),
            helper.make_node("Mul", [names[3], "one"], [names[4]]),
            helper.make_node("Tanh", [names[4]], [names[5]]),
            helper.make_node("Tanh", [names[4]], [names[6]]),
            helper.make_node("Add", [names[5], names[6]], [names[7]]),
        ]
        last = names[7]
    shape = helper.make_tensor_value_info
    graph = helper.make_graph(
        made,
        "generated",
        [shape("x", TensorProto.FLOAT, [8, 8])],
        [shape(last, TensorProto.FLOAT, [8, 8])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.ones(1, np.float32), "one"),
        ],
    )
    path = folder / f"generated-{len(made)}.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        path,
    )
    return path


if __name__ == "__main__":
    main()

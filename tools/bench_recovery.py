"""Measure the memory and time that recovery without training takes beyond pruning alone.

Steps, for each model and number of samples:
  1. Half of every dimension is pruned, and nothing else: the plain run.
  2. The same, and the layers are recovered on so many made-up samples.
  3. Both in processes of their own, whose memory is looked at all along: what all of
     them hold together, pages that they share counted once. The seconds of processor are those
     of the second run, onnxruntime's included; on a busy machine the clock says little.

Typical usage:
  python -m graphopt.tools.bench_recovery resnet50.onnx --samples 4,16,64

Exit code: 0 if recovery takes at most 512 MB beyond the plain run everywhere, 1 if not.

Known limitations: Linux only. What is on disk in between does not count. Samples are single,
as large as the model declares (symbolic dimensions in two sizes).
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import click

from graphopt.debug import script

from .bench_memory import peak

__all__ = ["main"]

SCHEMA = "graphopt/bench-recovery/2"
MOST_MB = 512
_PRUNE = """
import itertools, json, os, pathlib, sys
from graphopt import model_io, pipeline
from graphopt.passbase import Context
from graphopt.samples import Samples
path, text, count, notes = sys.argv[1:]
model = model_io.load(path)
specs = model_io.input_specs(model)
def feeds():
    return itertools.islice(Samples.synthetic(specs, count=int(count)).feeds(), int(count))
with Context(samples=Samples.from_feeds(feeds)).closing() as context:
    (step,) = pipeline.parse(text)
    found = step.run(model, context).details.get("recovered", ())
seconds = sum(os.times()[:4])
fitted = sum(one["method"] != "as it was" for one in found)
said = {"layers": len(found), "fitted": fitted, "cpu_s": round(seconds)}
pathlib.Path(notes).write_text(json.dumps(said))
"""
_COLUMNS = {
    "model": "model",
    "samples": "samples",
    "layers": "layers",
    "fitted": "fitted",
    "plain_mb": "plain MB",
    "recovery_mb": "recovery MB",
    "extra_mb": "extra MB",
    "cpu_s": "CPU s",
    "seconds": "s",
}


def _counts(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    del context, option
    counts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(counts) < 1:
        raise click.BadParameter(f"{text!r} is no list of positive numbers, like 4,16.")
    return counts


@click.command("bench_recovery", cls=script.Tool, help=__doc__)
@click.argument("models", type=script.PATH, nargs=-1, required=True)
@click.option("--samples", default="4,16", show_default=True, callback=_counts,
              help="Numbers, by commas.")  # fmt: skip
@click.option("--ratio", type=click.FloatRange(0, 1, max_open=True), default=0.5,
              show_default=True, help="Share to prune.")  # fmt: skip
def main(
    models: tuple[pathlib.Path, ...], samples: list[int], ratio: float, as_json: bool
) -> int:
    """Run the tool; see the module docstring."""
    from graphopt import model_io

    for model in models:
        model_io.load(model)  # what is no model is told here, before anything is measured
    found = []
    for model in models:
        plain, _ = _pruned(model, ratio, "none", 1)
        for count in samples:
            taken, said = _pruned(model, ratio, "least-squares", count)
            sizes = {
                "plain_mb": plain >> 20,
                "recovery_mb": taken >> 20,
                "extra_mb": (taken - plain) >> 20,
            }
            found.append({"model": model.name, "samples": count, **said, **sizes})
            script.say(f"  {sizes['extra_mb']} MB more, {said['cpu_s']} s of processor")
    met = all(one["extra_mb"] <= MOST_MB for one in found)
    if as_json:
        script.print_json({"schema": SCHEMA, "models": found, "met": met})
    else:
        rows = [tuple(one[key] for key in _COLUMNS) for one in found]
        script.print_table(tuple(_COLUMNS.values()), rows)
        words = "met" if met else "missed"
        click.echo(f"\nat most {MOST_MB} MB beyond the plain run: {words}")
    return 0 if met else 1


def _pruned(
    model: pathlib.Path, ratio: float, recovery: str, count: int
) -> tuple[int, dict[str, Any]]:
    """Prune in a process of its own; return the bytes it held, and what it says."""
    script.say(f"{model.name}: recovery {recovery}, samples: {count}")
    text = f"prune-channels{{ratio={ratio},recovery={recovery}}}"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        notes = pathlib.Path(name) / "notes.json"
        command = [sys.executable, "-c", _PRUNE, str(model), text, str(count), str(notes)]
        held = peak(command)["together"]
        said = json.loads(notes.read_text("utf-8"))
    return held, {**said, "seconds": round(time.perf_counter() - start)}


if __name__ == "__main__":
    main()

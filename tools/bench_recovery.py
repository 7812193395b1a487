"""Measure the memory that recovery without training takes beyond the model.

Steps, for each model and number of samples:
  1. The model is loaded and run on two made-up samples, and nothing else: the plain run.
  2. Half of every dimension is pruned and the layers are recovered on so many made-up samples.
  3. Both in processes of their own, whose memory is looked at every few milliseconds: what all
     of them hold together, pages that they share counted once.

Typical usage:
  python -m graphopt.tools.bench_recovery resnet50.onnx --samples 4,16,64

Exit code: 0 if recovery takes at most 512 MB beyond the plain run everywhere, 1 if not.

Known limitations: Linux only. Samples are single, as large as the model declares (symbolic
dimensions in two sizes); what a batch of them takes comes on top in the plain run as well.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
import time

import click

from graphopt.debug import script

from .bench_memory import peak

__all__ = ["main"]

SCHEMA = "graphopt/bench-recovery/1"
MOST_MB = 512
_START = """
import itertools, json, pathlib, sys
from graphopt import model_io, pipeline
from graphopt.passbase import Context
from graphopt.samples import Samples
path, count, text, notes = sys.argv[1:]
model = model_io.load(path)
def feeds():
    specs = model_io.input_specs(model)
    return itertools.islice(Samples.synthetic(specs, count=int(count)).feeds(), int(count))
samples = Samples.from_feeds(list(feeds()))
with Context(samples=samples).closing() as context:
"""
_PLAIN = """
    with context.runtime.session(path) as session:
        for feed in samples.feeds():
            session.run(feed)
"""
_RECOVERED = """
    (step,) = pipeline.parse(text)
    result = step.run(model, context)
    found = result.details["recovered"]
    fitted = sum(one["method"] != "as it was" for one in found)
    pathlib.Path(notes).write_text(json.dumps({"layers": len(found), "fitted": fitted}))
"""


@click.command("bench_recovery", cls=script.Tool, help=__doc__)
@click.argument("models", type=script.PATH, nargs=-1, required=True)
@click.option("--samples", default="4,16", show_default=True, help="Numbers, by commas.")
@click.option("--ratio", type=float, default=0.5, show_default=True, help="Share to prune.")
def main(models: tuple[pathlib.Path, ...], samples: str, ratio: float, as_json: bool) -> int:
    """Run the tool; see the module docstring."""
    text = f"prune-channels{{ratio={ratio},recovery=least-squares}}"
    found = []
    with tempfile.TemporaryDirectory() as name:
        notes = pathlib.Path(name) / "notes.json"
        for model in models:
            command = [sys.executable, "-c"]
            script.say(f"{model.name}: plain run")
            plain = peak([*command, _START + _PLAIN, str(model), "2", "", str(notes)])
            for count in samples.split(","):
                script.say(f"{model.name}: recovery on {count} samples")
                start = time.perf_counter()
                taken = peak(
                    [*command, _START + _RECOVERED, str(model), count, text, str(notes)]
                )
                found.append(
                    {
                        "model": model.name,
                        "samples": int(count),
                        **json.loads(notes.read_text("utf-8")),
                        "plain_mb": plain["together"] >> 20,
                        "recovery_mb": taken["together"] >> 20,
                        "extra_mb": (taken["together"] - plain["together"]) >> 20,
                        "seconds": round(time.perf_counter() - start),
                    }
                )
    met = all(one["extra_mb"] <= MOST_MB for one in found)
    if as_json:
        script.print_json({"schema": SCHEMA, "models": found, "met": met})
    else:
        script.print_table(
            (
                "model",
                "samples",
                "layers",
                "fitted",
                "plain MB",
                "recovery MB",
                "extra MB",
                "s",
            ),
            [tuple(one.values()) for one in found],
        )
        click.echo(
            f"\nat most {MOST_MB} MB beyond the plain run: {'met' if met else 'missed'}"
        )
    return 0 if met else 1


if __name__ == "__main__":
    main()

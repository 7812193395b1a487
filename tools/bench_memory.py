"""Measure the memory that comparing two models layer by layer takes, beside a plain run.

Steps, for each model:
  1. It is run on made-up samples, and nothing else: the plain run.
  2. compare_layers compares it with itself, on as many samples: every tensor of it is looked
     at, twice.
  3. Both in processes of their own, whose memory is looked at many times a second: what all
     of them hold together, pages that they share counted once, and the most that one of them
     ever held. The most of each is told, and how much more it is than in the plain run.

Typical usage:
  python -m graphopt.tools.bench_memory bert.onnx vit.onnx

Exit code: 0 if compare_layers takes at most 1.5 times the memory of the plain run everywhere,
1 if not.

Known limitations: Linux only. A peak of a few milliseconds may be missed in what all hold.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import click

from graphopt.debug import script

__all__ = ["main", "peak"]

SCHEMA = "graphopt/bench-memory/1"
MOST = 1.5
EVERY_SECONDS = 0.02
REST = 4  # times as long as looking took: a fifth of the time at most goes to looking
PLAIN = """
import pathlib, sys
from graphopt.answers import answers, first_feeds
from graphopt.debug.recipe import Recipe
from graphopt.runtime import Runtime
from graphopt.validation import accepted
path = pathlib.Path(sys.argv[1])
with Runtime() as runtime:
    samples = accepted(Recipe(path, ()).samples(), path, runtime)
    answers(path, first_feeds(samples, int(sys.argv[2])), runtime)
"""


@click.command("bench_memory", cls=script.Tool, help=__doc__)
@click.argument("models", type=script.PATH, nargs=-1, required=True)
@click.option("--samples", "count", type=click.IntRange(1), default=1, show_default=True,
              help="Samples to run.")  # fmt: skip
def main(models: tuple[pathlib.Path, ...], count: int, as_json: bool) -> int:
    """Run the tool; see the module docstring."""
    from graphopt import model_io

    for model in models:
        model_io.load(model)  # what is wrong with it is said at once
    found = []
    met = True
    for model in models:
        script.say(f"{model.name}: plain run, compare_layers")
        plain = peak([sys.executable, "-c", PLAIN, str(model), str(count)])
        tool = [sys.executable, "-m", "graphopt.tools.compare_layers"]
        compared = peak([*tool, str(model), str(model), "--samples", str(count)])
        ratios = {key: round(compared[key] / plain[key], 3) for key in plain}
        met = met and max(ratios.values()) <= MOST
        found.append(
            {
                "model": model.name,
                **{f"{key}_mb": round(value / 2**20) for key, value in plain.items()},
                **{f"compare_{key}_mb": round(v / 2**20) for key, v in compared.items()},
                **{f"{key}_ratio": ratio for key, ratio in ratios.items()},
            }
        )
    if as_json:
        script.print_json({"schema": SCHEMA, "models": found, "met": met})
    else:
        script.print_table(
            ("model", "plain MB", "compare MB", "ratio", "largest process MB", "", "ratio"),
            [
                (one["model"], one["together_mb"], one["compare_together_mb"],
                 one["together_ratio"], one["largest_mb"], one["compare_largest_mb"],
                 one["largest_ratio"])
                for one in found
            ],
        )  # fmt: skip
        script.show()
        script.show(f"at most {MOST} times the plain run: {'met' if met else 'missed'}")
    return 0 if met else 1


def peak(command: Sequence[str]) -> dict[str, int]:
    """Run a command; return the most bytes its processes held, together and the largest."""
    together = 0
    largest: dict[int, int] = {}
    with (
        tempfile.TemporaryFile("w+") as words,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=words) as process,
    ):
        while process.poll() is None:
            # A child that is being started has the very memory of its parent (vfork), whose
            # pages are not told as shared: by its addresses it is counted once.
            held: dict[str, int] = {}
            started = time.perf_counter()
            for pid in _tree(process.pid):
                rollup = _text(pid, "smaps_rollup")
                held[rollup.partition(" ")[0]] = _field(rollup, "Pss:")
                largest[pid] = max(largest.get(pid, 0), _field(_text(pid, "status"), "VmHWM:"))
            together = max(together, sum(held.values()))
            # The system walks all pages of a process meanwhile, and the process waits for it.
            time.sleep(max(EVERY_SECONDS, REST * (time.perf_counter() - started)))
        words.seek(0)
        said = words.read().strip().splitlines()
    if process.returncode:
        raise click.UsageError(f"{command[-1]}: {said[-1] if said else process.returncode}")
    return {"together": together, "largest": max(largest.values(), default=0)}


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            for child in file.read_text().split():
                yield from _tree(int(child))
    except OSError:
        return  # it has just ended


def _text(pid: int, file: str) -> str:
    """Return a file of ``/proc``; nothing where the process has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return ""


def _field(text: str, name: str) -> int:
    """Return a number of kilobytes of such a file in bytes; 0 where it is not in there."""
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()

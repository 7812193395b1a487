"""Measure calibration: memory, time against plain inference, time against onnxruntime's.

Steps:
  1. Memory: statistics of every tensor that would be quantized, over a few samples and over
     many, each in processes of their own; the peak resident size, the child's included.
  2. Time: those statistics and the ranges of all five methods, next to plain inference over
     the same samples in the same kind of process.
  3. The peer: onnxruntime's entropy calibrator and graphopt's entropy ranges of the same
     tensors, in turn, from the file to the ranges. With its 128 bins for 128
     integers the peer has one range to choose from; with --peer-bins it searches, as
     graphopt does among 128 ranges over 4,096 bins.

Typical usage:
  python -m graphopt.tools.bench_calibration resnet18.onnx
  python -m graphopt.tools.bench_calibration ocr.onnx --data samples.npz --many 256 --json

Known limitations: without --data the inputs are made up. On a busy machine the times are those
of a busy machine; step 2 takes the best of some rounds, step 3 the median of rounds in turn.
The peer keeps all activations in memory, so that step 3 takes --peer-samples only, and with
--peer-bins it takes a second a tensor, so that there is one round of that.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import click
import numpy as np

from graphopt.debug import script

__all__ = ["main"]

_COMMON = """
import itertools, json, resource, sys, time
import numpy as np
from graphopt import model_io
from graphopt.calibration.collect import collect
from graphopt.calibration.qparams import Degenerate, IntType
from graphopt.calibration.ranges import range_of
from graphopt.passbase import Context
from graphopt.samples import Samples
model = model_io.load(sys.argv[1])
arrays = dict(np.load(sys.argv[2]))
count, rounds, names = int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5])
size = min(map(len, arrays.values()))
def feeds():
    for i in range(count):
        yield {name: array[i % size : i % size + 1] for name, array in arrays.items()}
samples, context = Samples.from_feeds(feeds), Context()
known = {v.name for v in model.graph.inputs} | {
    v.name for node in model.graph for v in node.outputs}
values = [name for name in names if name in known]
METHODS = ["minmax", "average", "percentile", "entropy", "mse"]
def statistics():
    start = time.perf_counter()
    found = collect(model, values, samples, context)
    return time.perf_counter() - start, found
def ranges(found, methods):
    start = time.perf_counter()
    for stats in found.values():
        for method in methods:
            if stats.count > stats.not_finite and (stats.low or stats.high):
                range_of(stats, method, IntType.UINT8)
    return time.perf_counter() - start
def inference():
    start = time.perf_counter()  # loading counts, as it does for the statistics
    with context.runtime.session(model) as session:
        for feed in feeds():
            session.run(feed)
        return time.perf_counter() - start
"""
_MEMORY = (
    _COMMON
    + """
with context.closing():
    statistics()
peak = sum(resource.getrusage(who).ru_maxrss
           for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"peak_kb": peak}))
"""
)
_TIME = (
    _COMMON
    + """
best = {}
def keep(name, seconds):
    best[name] = min(seconds, best.get(name, seconds))
with context.closing():
    for _ in range(rounds):
        keep("inference_s", inference())
        seconds, found = statistics()
        keep("statistics_s", seconds)
        keep("five_methods_s", ranges(found, METHODS))
        keep("entropy_s", ranges(found, ["entropy"]))
print(json.dumps({**best, "tensors": len(values)}))
"""
)
_PEER = (
    _COMMON
    + """
import contextlib, os, statistics as middle, tempfile
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader, CalibrationMethod, create_calibrator)
class Reader(CalibrationDataReader):
    def __init__(self):
        self.feeds = feeds()
    def get_next(self):
        return next(self.feeds, None)
def peer(options):
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        calibrator = create_calibrator(sys.argv[1], None, folder + "/augmented.onnx",
                                       CalibrationMethod.Entropy, extra_options=options)
        with contextlib.redirect_stdout(nowhere):  # it prints while it works
            calibrator.collect_data(Reader())
            found = calibrator.compute_data()
    return time.perf_counter() - start, sorted(found.keys())
def own():
    global model
    start = time.perf_counter()
    model = model_io.load(sys.argv[1])
    ranges(statistics()[1], ["entropy"])
    return time.perf_counter() - start
times = {"peer_s": [], "same_s": []}
with context.closing():
    inference()  # starts the process that is used again
    for _ in range(rounds):
        seconds, values = peer(OPTIONS)
        times["peer_s"].append(seconds)
        times["same_s"].append(own())
print(json.dumps({"samples": count, "tensors": len(values), **OPTIONS,
                  **{name: middle.median(all_of) for name, all_of in times.items()}}))
"""
)


@click.command("bench_calibration", cls=script.Tool, help=__doc__)
@click.argument("model", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="Samples (.npz), taken round and round; made up by default.",
)
@click.option("--few", type=click.IntRange(1), default=16, show_default=True)
@click.option("--many", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--time-samples", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--peer-samples",
    type=click.IntRange(1),
    multiple=True,
    default=(16,),
    show_default=True,
    help="Samples of step 3; may be given several times.",
)
@click.option(
    "--peer-bins",
    type=click.IntRange(129),
    default=2048,
    show_default=True,
    help="Bins of the peer's histograms in a last round over the fewest samples.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
def main(model: pathlib.Path, data: pathlib.Path | None, **given: Any) -> None:
    """Run the tool; see the module docstring."""
    rounds = given["rounds"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        data = data or _made_up(model, folder / "data.npz")
        names = _calibrated(model, data)
        found: dict[str, Any] = {"model": model.stem, "tensors": len(names)}
        for key in ("few", "many"):
            run = _run(_MEMORY, model, data, given[key], 1, names)
            found[f"{key}_samples"], found[f"{key}_peak_mb"] = given[key], run["peak_kb"] / 1e3
        found["memory_ratio"] = found["many_peak_mb"] / found["few_peak_mb"]
        times = _run(_TIME, model, data, given["time_samples"], rounds, names)
        found |= {key: times[key] for key in times if key != "tensors"}
        spent = times["statistics_s"] + times["five_methods_s"]
        found["time_ratio"] = spent / times["inference_s"]
        sizes = sorted(given["peer_samples"])
        found["peers"] = [
            _beside_peer(model, data, size, turns, options)
            for options, size, turns in [
                *(({}, size, rounds) for size in sizes),
                ({"num_bins": given["peer_bins"]}, sizes[0], 1),
            ]
        ]
    if given["as_json"]:
        click.echo(json.dumps(found, indent=1))
    else:
        _print(found, given)


def _print(found: dict[str, Any], given: dict[str, Any]) -> None:
    click.echo(
        f"{found['model']}, {found['tensors']} tensors\n"
        f"peak memory  {found['few_samples']} samples {found['few_peak_mb']:.0f} MB, "
        f"{found['many_samples']} samples {found['many_peak_mb']:.0f} MB: "
        f"{found['memory_ratio']:.2f}x\n"
        f"time         inference over {given['time_samples']} samples "
        f"{found['inference_s']:.2f} s, statistics {found['statistics_s']:.2f} s, "
        f"five methods {found['five_methods_s']:.2f} s: {found['time_ratio']:.2f}x"
    )
    for peer in found["peers"]:
        if "failed" in peer:
            click.echo(f"the peer     fails over {peer['samples']} samples: {peer['failed']}")
            continue
        click.echo(
            f"the peer     entropy over {peer['samples']} samples, {peer['tensors']} tensors, "
            f"{peer.get('num_bins', 128)} bins {peer['peer_s']:.2f} s, graphopt "
            f"{peer['same_s']:.2f} s: {peer['peer_s'] / peer['same_s']:.1f} times faster"
        )


def _beside_peer(
    model: pathlib.Path, data: pathlib.Path, size: int, turns: int, options: dict[str, int]
) -> dict[str, Any]:
    """Return the times of both sides; ``failed`` where the peer refuses the model."""
    try:
        return _run(_PEER.replace("OPTIONS", repr(options)), model, data, size, turns, [])
    except click.ClickException as error:
        return {"samples": size, **options, "failed": error.message}


def _made_up(model: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Write images of noise, or sequences of 128 ids."""
    from .bench_quantize import made_up_arrays

    arrays: dict[str, Any] = dict(made_up_arrays(model, 16))
    np.savez(path, **arrays)
    return path


def _calibrated(model: pathlib.Path, data: pathlib.Path) -> list[str]:
    """Return the tensors whose ranges static quantization needs."""
    import dataclasses

    from graphopt import model_io, pipeline
    from graphopt.passbase import Context
    from graphopt.samples import Samples

    seen: list[str] = []

    class Names(dict[str, Any]):
        """Statistics that are asked for, and never known."""

        def __contains__(self, name: object) -> bool:
            seen.append(str(name))
            return False

    loaded = model_io.load(model)
    samples = Samples.from_path(data, model_io.input_specs(loaded)).take(1)
    context = Context(samples=samples, artifacts={"quantize/statistics": Names()})
    with context.closing():
        for pass_ in pipeline.parse("upgrade-opset{to=13},quantize-static"):
            pass_.run(loaded, dataclasses.replace(context))
    return list(dict.fromkeys(seen))


def _run(
    script: str,
    model: pathlib.Path,
    data: pathlib.Path,
    count: int,
    rounds: int,
    names: list[str],
) -> dict[str, Any]:
    """Run a script in a process of its own, and return what it prints."""
    arguments = [str(model), str(data), str(count), str(rounds), json.dumps(names)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise click.ClickException(f"a part of the benchmark failed: {said}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()

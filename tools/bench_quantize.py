"""Compare graphopt's quantization with onnxruntime's own: quality, size, speed, strays.

Steps:
  1. The model is simplified by graphopt; this is the float model that all start from and are
     compared with. The samples are cut in two: two of three calibrate, one of three judges;
     with --test all of them calibrate, and those of another file judge.
  2. Each tool quantizes it, file in, file out, in a process of its own. One that fails gets
     the line of its error.
  3. The results run on the held-out samples; cosine, signal-to-noise and top-1 agreement are
     those of the first output with the float model's; with --labels the share of right
     answers is shown too.
  4. All of them run in turn in onnxruntime, one thread, not spinning; the speed is the median
     ratio to the float model. ``stray`` counts operators that were to run on integers and do
     not.

Typical usage:
  python -m graphopt.tools.bench_quantize minilm.onnx --data sentences.npz
  python -m graphopt.tools.bench_quantize resnet50.onnx --tools float,ort-static,static
  python -m graphopt.tools.bench_quantize student.onnx --data out/digits/calibration.npz \
      --test out/digits/test.npz --labels out/digits/test_labels.npy

Known limitations: without --data the inputs are made up, and then only size, speed and strays
mean anything. On a busy machine the times are those of a busy machine.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from graphopt.debug import script

from .quantizers import GRAPHOPT, TOOLS

if TYPE_CHECKING:
    from graphopt.runtime import Runtime

__all__ = ["made_up_arrays", "main"]

_PREPARE = "upgrade-opset{to=13},default"
_TIMEOUT_S = 3600


@click.command("bench_quantize", cls=script.Tool, help=__doc__)
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(exists=True, path_type=pathlib.Path)
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="Samples (.npz) for all the models; made up by default.",
)
@click.option(
    "--test",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="Samples (.npz) to judge on; one of three of --data by default.",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="Classes of the samples of --test (.npy).",
)
@click.option("--tools", default=",".join(TOOLS), show_default=True, help="Which to run.")
@click.option("--repetitions", type=click.IntRange(0), default=30, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Folder that keeps the models.",
)
def main(
    models: tuple[pathlib.Path, ...],
    data: pathlib.Path | None,
    test: pathlib.Path | None,
    labels: pathlib.Path | None,
    tools: str,
    repetitions: int,
    output: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Run the tool; see the module docstring."""
    from graphopt.runtime import Runtime

    names = [name for name in tools.split(",") if name != "float"]
    for name in names:
        if name not in TOOLS:
            raise click.UsageError(f"no tool {name!r}; there are: {', '.join(TOOLS)}")
    if labels is not None and test is None:
        raise click.UsageError("--labels are those of the samples of --test")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary, Runtime() as runtime:
        folder = output or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for model in models:
            calibration, held_out = _samples(model, data, test, folder)
            found = _quantized(model, names, calibration, folder)
            classes = None if labels is None else np.load(labels)
            sound = [row for row in found if "path" in row]
            if sound and "path" in found[0]:
                _measure(sound, held_out, classes, repetitions, runtime)
            rows += found
            if not as_json:
                _print(found)
    if as_json:
        click.echo(json.dumps(rows, indent=1))


def _quantized(
    model: pathlib.Path, names: Sequence[str], calibration: pathlib.Path, folder: pathlib.Path
) -> list[dict[str, Any]]:
    """Let each tool write its model; returns one row each, that of the float model first."""
    prepared = folder / f"{model.stem}.float.onnx"
    rows = [_run(model.stem, "float", (GRAPHOPT, _PREPARE), model, prepared, calibration)]
    if "failed" in rows[0]:
        return rows
    for name in names:
        target = folder / f"{model.stem}.{name}.onnx"
        rows.append(_run(model.stem, name, TOOLS[name], prepared, target, calibration))
    return rows


def _samples(
    model: pathlib.Path,
    data: pathlib.Path | None,
    test: pathlib.Path | None,
    folder: pathlib.Path,
) -> tuple[pathlib.Path, list[dict[str, np.ndarray]]]:
    """Write the samples that calibrate to a file; return it and the feeds that judge."""
    arrays = made_up_arrays(model) if data is None else _load(data)
    count = min(map(len, arrays.values()))
    judges = (np.arange(count) % 3 == 2) & (test is None)
    path = folder / f"{model.stem}.calibration.npz"
    np.savez(path, **{name: array[:count][~judges] for name, array in arrays.items()})
    if test is not None:
        arrays = _load(test)
        judges = np.ones(min(map(len, arrays.values())), bool)
    feeds = [
        {name: array[i : i + 1] for name, array in arrays.items()}
        for i in np.flatnonzero(judges)
    ]
    return path, feeds


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def made_up_arrays(model: pathlib.Path, count: int = 12) -> dict[str, np.ndarray]:
    """Return images of noise, or sequences of 128 ids."""
    from graphopt import model_io

    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for spec in model_io.input_specs(model_io.load(model)):
        sizes = [size if isinstance(size, int) else 128 for size in spec.shape[1:]]
        if spec.dtype.kind == "f":
            arrays[spec.name] = rng.standard_normal((count, *sizes)).astype(spec.dtype)
        elif "mask" in spec.name or spec.name == "in1":
            arrays[spec.name] = np.ones((count, *sizes), spec.dtype)
        else:
            arrays[spec.name] = rng.integers(1, 100, (count, *sizes)).astype(spec.dtype)
    return arrays


def _run(
    stem: str,
    name: str,
    tool: tuple[str, str],
    source: pathlib.Path,
    target: pathlib.Path,
    calibration: pathlib.Path,
) -> dict[str, Any]:
    """Run one tool; returns its row, with ``failed`` where it did."""
    row: dict[str, Any] = {"model": stem, "tool": name}
    script, text = tool
    command = [sys.executable, "-c", script, *map(str, (source, target, calibration, text))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {**row, "failed": f"took more than {_TIMEOUT_S} s"}
    if done.returncode or not target.exists():
        return {**row, "failed": (done.stderr.strip().splitlines() or ["?"])[-1][:160]}
    return {**row, "path": str(target)}


def _measure(
    rows: list[dict[str, Any]],
    feeds: Sequence[dict[str, np.ndarray]],
    labels: np.ndarray | None,
    repetitions: int,
    runtime: Runtime,
) -> None:
    """Add quality, bytes, speed and strays to ``rows``; the first one is the float model."""
    from graphopt.errors import ExecutionError
    from graphopt.metrics import DifferenceMeter
    from graphopt.runtime.fusion_check import check_fusion

    path = pathlib.Path(rows[0]["path"])
    with runtime.session(path) as session:
        expected = [next(iter(session.run(feed).values())) for feed in feeds]
    for row in rows:
        path = pathlib.Path(row["path"])
        row["size_bytes"] = path.stat().st_size
        meter, right = DifferenceMeter(), 0
        try:
            with runtime.session(path) as session:
                for index, (feed, real) in enumerate(zip(feeds, expected, strict=True)):
                    answer = next(iter(session.run(feed).values()))
                    meter.add(index, real, answer)
                    if labels is not None:
                        right += int(answer.reshape(-1).argmax() == labels[index])
            report = check_fusion(runtime.optimized_nodes(path))
        except ExecutionError as error:
            row["failed"] = error.message[:160]
            continue
        found = meter.result()
        row |= {"cosine": found.cosine, "sqnr_db": found.sqnr_db, "top1": found.top1}
        if labels is not None:
            row["right"] = right / len(feeds)
        row["stray"] = len(report.stranded) + len(report.unfused)
        row["integer"] = sum(report.integer.values())
    sound = [row for row in rows if "failed" not in row]
    if repetitions and feeds:
        paths = [pathlib.Path(row["path"]) for row in sound]
        times = runtime.latency(paths, feeds[0], repetitions)
        for row, latency in zip(sound, times, strict=True):
            row["latency_ms"], row["speedup"] = latency.median_ms, 1 / latency.ratio


def _print(rows: Sequence[dict[str, Any]]) -> None:
    click.echo(f"\n{rows[0]['model']}")
    click.echo(
        f"{'':18}{'cosine':>9}{'dB':>7}{'top-1':>8}{'right':>8}{'MB':>8}{'ms':>9}{'x':>7}"
        f"{'integer':>9}{'stray':>7}"
    )
    for row in rows:
        if "failed" in row:
            click.echo(f"{row['tool']:18} failed: {row['failed']}")
            continue
        top1 = f"{row['top1']:.3f}" if row["top1"] is not None else ""
        right = f"{row['right']:.2%}" if "right" in row else ""
        latency = f"{row['latency_ms']:.1f}" if "latency_ms" in row else ""
        speedup = f"{row['speedup']:.2f}" if "speedup" in row else ""
        click.echo(
            f"{row['tool']:18}{row['cosine']:>9.5f}{row['sqnr_db']:>7.1f}{top1:>8}{right:>8}"
            f"{row['size_bytes'] / 1e6:>8.1f}{latency:>9}{speedup:>7}"
            f"{row['integer']:>9}{row['stray']:>7}"
        )


if __name__ == "__main__":
    main()

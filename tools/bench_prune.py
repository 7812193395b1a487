"""Compare prune-channels with Torch-Pruning: multiplications, latency, accuracy on the digits.

Steps:
  1. A trained network of graphopt.models is pruned by both with the same criterion (L2 norm,
     of whole groups) and the same ratios, without training: Torch-Pruning (Fang et al. 2023)
     in PyTorch and then exported, graphopt on the exported file, without and with recovery
     on the training images. Each runs in a process of its own.
  2. The files are run in turn in onnxruntime, one thread, not spinning; the speed is the
     median ratio to the original.
  3. Accuracy is that of the test split, which nobody has seen.

Typical usage:
  pip install --no-deps --target peers/torch-pruning torch-pruning==1.6.1
  python -m graphopt.tools.bench_prune out/demo/student.pt --peers peers/torch-pruning

Known limitations: only the digits networks are trained here. Without --peers the peer is left
out and that is said. On a busy machine the times are those of a busy machine.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import click
import numpy as np

from graphopt.debug import script

__all__ = ["main"]

_EXPORT = """
import pathlib, sys
import numpy as np
from graphopt.models.checkpoint import load_network
from graphopt.models.data import load_digits
from graphopt.models.export import export_network
checkpoint, folder, peers, ratio = sys.argv[1:]
folder = pathlib.Path(folder)
network = load_network(pathlib.Path(checkpoint))
"""
_ORIGINAL = (
    _EXPORT
    + """
export_network(network, folder / "original.onnx", optimize=False)
digits = load_digits()
np.savez(folder / "train.npz", images=digits.train.images)
np.savez(folder / "test.npz", images=digits.test.images, labels=digits.test.labels)
"""
)
_PEER = (
    _EXPORT
    + """
sys.path.insert(0, peers)
import torch
import torch_pruning
pruner = torch_pruning.pruner.BasePruner(
    network,
    torch.zeros(2, 1, 6, 6),
    importance=torch_pruning.importance.MagnitudeImportance(p=2),
    pruning_ratio=float(ratio),
    ignored_layers=[network.fc2],
)
pruner.step()
network.flat = network.fc1.in_features
export_network(network, folder / f"torch-pruning.{ratio}.onnx", optimize=False)
"""
)
BATCH = 64
"""Images of a feed, and of what latency is measured on."""


def _ratios(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    """Return the ratios as they were written: they are part of names of files."""
    del context, option
    ratios = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"0?\.\d+", ratio) for ratio in ratios):
        raise click.BadParameter(f"{text!r} is no list of shares below 1, like 0.25,0.5.")
    return ratios


@click.command("bench_prune", cls=script.Tool, help=__doc__)
@click.argument(
    "checkpoints",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
)
@click.option(
    "--peers",
    type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
    help="Folder that torch-pruning is installed in.",
)
@click.option("--ratios", default="0.25,0.5,0.75", show_default=True, callback=_ratios,
              help="By commas.")  # fmt: skip
@click.option("--repetitions", type=click.IntRange(1), default=100, show_default=True)
def main(
    checkpoints: tuple[pathlib.Path, ...],
    peers: pathlib.Path | None,
    ratios: list[str],
    repetitions: int,
    as_json: bool,
) -> None:
    """Run the tool; see the module docstring."""
    found: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            try:
                _python(_ORIGINAL, checkpoint, folder, "", "")
            except subprocess.CalledProcessError as error:
                raise click.UsageError(_said(error)) from error
            rows: list[dict[str, Any]] = [_row(checkpoint, "original", "", folder)]
            for ratio in ratios:
                rows += _pruned(checkpoint, folder, ratio, peers)
            _measure([row for row in rows if "failed" not in row], folder, repetitions)
        found += rows
        if not as_json:
            _print(rows)
    if as_json:
        click.echo(json.dumps(found, indent=1))


def _row(
    checkpoint: pathlib.Path, tool: str, ratio: str, folder: pathlib.Path
) -> dict[str, Any]:
    path = folder / ".".join(filter(None, (tool, ratio, "onnx")))
    return {"network": checkpoint.stem, "tool": tool, "ratio": ratio, "path": str(path)}


def _pruned(
    checkpoint: pathlib.Path, folder: pathlib.Path, ratio: str, peers: pathlib.Path | None
) -> list[dict[str, Any]]:
    """Prune by every tool; a row each, with ``failed`` where there is no file."""
    import graphopt
    from graphopt.api import Options

    peer = _row(checkpoint, "torch-pruning", ratio, folder)
    if peers is None:
        peer["failed"] = "not installed; give --peers"
    else:
        try:
            _python(_PEER, checkpoint, folder, str(peers), ratio)
        except subprocess.CalledProcessError as error:
            peer["failed"] = _said(error)
    rows = [peer]
    images = np.load(folder / "train.npz")["images"]
    feeds = [{"images": images[i : i + BATCH]} for i in range(0, len(images), BATCH)]
    options = Options(allow_slower=True, measure=False)
    for tool, recovery in (("graphopt", "none"), ("graphopt, recovered", "least-squares")):
        row = _row(checkpoint, tool, ratio, folder)
        text = f"prune-channels{{ratio={ratio},recovery={recovery}}}"
        graphopt.optimize(
            folder / "original.onnx",
            text,
            samples=feeds,
            output=row["path"],
            options=options,
        )
        rows.append(row)
    return rows


def _said(error: subprocess.CalledProcessError) -> str:
    """Return the last line that a command wrote, without the type of the exception."""
    last = (error.stderr.strip().splitlines() or ["no output"])[-1]
    return str(re.sub(r"^[\w.]+(Error|Exception): ", "", last))[:200]


def _python(script: str, checkpoint: pathlib.Path, folder: pathlib.Path, *more: str) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        script,
        str(checkpoint),
        str(folder),
        *more,
    ]
    subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)


def _measure(rows: Sequence[dict[str, Any]], folder: pathlib.Path, repetitions: int) -> None:
    """Add parameters, multiplications, latency and accuracy; the first row is the original."""
    from graphopt import model_io
    from graphopt.analysis.coupling.graph import analyse
    from graphopt.analysis.coupling.groups import find_groups
    from graphopt.runtime import Runtime

    test = np.load(folder / "test.npz")
    with Runtime() as runtime:
        paths = [pathlib.Path(row["path"]) for row in rows]
        feed = {"images": test["images"][:BATCH]}
        latencies = runtime.latency(paths, feed, repetitions)
        for row, path, latency in zip(rows, paths, latencies, strict=True):
            dimensions = find_groups(analyse(model_io.load(path)))
            nothing = np.zeros(dimensions.atom_count, bool)
            row["parameters"] = dimensions.parameters(nothing)
            row["macs"] = dimensions.multiplications(nothing)
            row["latency_ms"], row["speedup"] = latency.median_ms, 1 / latency.ratio
            with runtime.session(path) as session:
                (logits,) = session.run({"images": test["images"]}).values()
            right = logits.argmax(axis=1) == test["labels"]
            row["accuracy"] = 100 * float(right.mean())


def _print(rows: Sequence[dict[str, Any]]) -> None:
    click.echo(f"\n{rows[0]['network']}")
    click.echo(
        f"{'':22}{'ratio':>6}{'parameters':>12}{'MACs':>12}{'ms':>8}{'x':>7}{'accuracy':>10}"
    )
    for row in rows:
        start = f"{row['tool']:22}{row['ratio']:>6}"
        if "failed" in row:
            click.echo(f"{start}  failed: {row['failed']}")
            continue
        click.echo(
            f"{start}{row['parameters']:>12,}{row['macs']:>12,}{row['latency_ms']:>8.3f}"
            f"{row['speedup']:>7.2f}{row['accuracy']:>8.1f} %"
        )


if __name__ == "__main__":
    main()

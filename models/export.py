"""Export a trained network to ONNX and compare the file with PyTorch.

    python -m graphopt.models.export out/student.pt -o out/student.onnx

Input ``images``, float32 [batch, 1, 6, 6], and output ``logits``, float32 [batch, 10]; the
batch is dynamic. The comparison runs two other batch sizes than the example's through
onnxruntime; the tolerance is ``exporters.TOLERANCE``.
"""

from __future__ import annotations

import pathlib

import click

from .command import Command
from .data import INPUT, load_digits

__all__ = ["OUTPUT", "export_digits"]

OUTPUT = "logits"

CHECKED_BATCHES = (1, 5)
"""Batch sizes that are compared; the exporter saw 2. One is the size that exporters get wrong:
they take a dimension of 1 for a constant."""


def export_digits(source: pathlib.Path, path: pathlib.Path, exporter: str = "dynamo") -> float:
    """Write the network of a checkpoint as ONNX; return its difference from PyTorch.

    Args:
        source: The checkpoint.
        path: The ONNX file.
        exporter: ``"dynamo"`` or ``"torchscript"``.

    Raises:
        CheckpointError: The source is no checkpoint.
        ExportError: The export fails, or differs from PyTorch by more than the tolerance.
    """
    import torch

    from . import exporters
    from .checkpoint import load_network

    network = load_network(source)
    axes = {0: "batch"}
    interface = exporters.Interface((INPUT,), (OUTPUT,), {INPUT: axes, OUTPUT: axes})
    images = torch.from_numpy(load_digits().calibration.images)
    exporters.export(network, [images[:2]], interface, path, exporter)
    batches = [[images[:size]] for size in CHECKED_BATCHES]
    return exporters.check(network, path, interface, batches)


@click.command(cls=Command)
@click.argument(
    "checkpoint", type=click.Path(path_type=pathlib.Path, dir_okay=False, exists=True)
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=pathlib.Path, dir_okay=False),
    required=True,
    help="ONNX file to write.",
)
@click.option(
    "--exporter",
    type=click.Choice(["dynamo", "torchscript"]),
    default="dynamo",
    show_default=True,
    help="PyTorch's default exporter, or the older one, which traces.",
)
def main(checkpoint: pathlib.Path, output: pathlib.Path, exporter: str) -> None:
    """Export the network of CHECKPOINT to ONNX."""
    worst = export_digits(checkpoint, output, exporter)
    size_kb = output.stat().st_size / 1000
    click.echo(f"{output}: {size_kb:.0f} kB, differs from PyTorch by {worst:.1g}")


if __name__ == "__main__":
    main()

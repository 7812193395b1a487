"""Export a trained network to ONNX and compare the file with PyTorch.

    python -m graphopt.models.export out/student.pt -o out/student.onnx

Input ``images``, float32 [batch, 1, 6, 6], and output ``logits``, float32 [batch, 10]; the
batch is dynamic. The comparison runs two other batch sizes than the example's through
onnxruntime; the tolerance is ``exporters.TOLERANCE``.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from .command import Command, onnx_from_checkpoint, say_written
from .data import INPUT, load_digits

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OUTPUT", "export_digits", "export_network"]

OUTPUT = "logits"

CHECKED_BATCHES = (1, 5)
"""Batch sizes that are compared; the exporter saw 2. One is the size that exporters get wrong:
they take a dimension of 1 for a constant."""


def export_digits(
    source: pathlib.Path, path: pathlib.Path, exporter: str = "dynamo", optimize: bool = True
) -> float:
    """Write the network of a checkpoint as ONNX; return its difference from PyTorch.

    Args:
        source: The checkpoint.
        path: The ONNX file.
        exporter: ``"dynamo"`` or ``"torchscript"``.
        optimize: Let the exporter simplify the graph.

    Raises:
        CheckpointError: The source is no checkpoint.
        ExportError: The export fails, or differs from PyTorch by more than the tolerance.
    """
    from .checkpoint import load_network

    return export_network(load_network(source), path, exporter, optimize)


def export_network(
    network: nn.Module, path: pathlib.Path, exporter: str = "dynamo", optimize: bool = True
) -> float:
    """Write a network for the digits as ONNX; see ``export_digits``."""
    import torch

    from . import exporters

    axes = {0: "batch"}
    interface = exporters.Interface((INPUT,), (OUTPUT,), {INPUT: axes, OUTPUT: axes})
    images = torch.from_numpy(load_digits().calibration.images)
    exporters.export(network, [images[:2]], interface, path, exporter, optimize)
    batches = [[images[:size]] for size in CHECKED_BATCHES]
    return exporters.check(network, path, interface, batches)


@click.command("export", cls=Command)
@onnx_from_checkpoint
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
    say_written(output, f"differs from PyTorch by {worst:.1g}")


if __name__ == "__main__":
    main()

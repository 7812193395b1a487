"""Export MiniLM, a sentence-embedding network with real weights, to ONNX.

    python -m graphopt.models.export_minilm -o minilm.onnx --exporter torchscript

Inputs ``in0`` (token ids) and ``in1`` (attention mask), both int64 [batch, sequence]; output
``states``, float32 [batch, sequence, 384]: the embedding of a sentence is the mean of the
states of its tokens. Weights and configuration come from the folder that ``fetch`` unpacked,
through ``safetensors`` alone: nothing here can reach a network.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from .cache import CACHE
from .command import Command
from .errors import ExportError, FetchError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .exporters import Interface

__all__ = ["encoder", "export", "interface"]

INPUTS = ("in0", "in1")
OUTPUT = "states"


def encoder(folder: pathlib.Path = CACHE / "minilm") -> nn.Module:
    """Return the encoder in evaluation mode; keywords ``input_ids`` and ``attention_mask``.

    Raises:
        FetchError: The folder does not hold the weights.
        ExportError: transformers is not installed.
    """
    config, weights = folder / "config.json", folder / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise FetchError(
                "missing", f"{path} is not there.", hint="Run python -m graphopt.models.fetch."
            )
    try:
        import safetensors.torch
        import transformers
    except ImportError as error:
        raise ExportError(
            "missing", f"{error.name} is not installed.", hint="pip install 'graphopt[real]'"
        ) from error
    network = transformers.BertModel(
        transformers.BertConfig.from_json_file(config), add_pooling_layer=False
    )
    # The pooler is a head for another task. Positions are a constant, which old files hold.
    state = {
        name: tensor
        for name, tensor in safetensors.torch.load_file(weights).items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
    network.load_state_dict(state)
    network.train(False)
    module: nn.Module = network
    return module


def interface() -> Interface:
    """Return the names and dynamic dimensions of the exported model."""
    from .exporters import Interface

    axes = {0: "batch", 1: "sequence"}
    return Interface(INPUTS, (OUTPUT,), dict.fromkeys((*INPUTS, OUTPUT), axes))


def tokens(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int64 ids and mask, [batch, length] each; the last line ends in padding."""
    import torch

    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1000, 20000, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, length - 5 :] = 0
    return ids * mask, mask


def export(
    path: pathlib.Path,
    folder: pathlib.Path = CACHE / "minilm",
    exporter: str = "dynamo",
    optimize: bool = True,
) -> float:
    """Write the model to ``path``; return its largest difference from PyTorch.

    Args:
        path: The file.
        folder: Where the weights are.
        exporter: ``"dynamo"`` or ``"torchscript"``.
        optimize: Let the exporter simplify the graph.

    Raises:
        FetchError: The folder does not hold the weights.
        ExportError: The export fails, or differs from PyTorch.
    """
    from . import exporters

    module = exporters.Flat(encoder(folder), ("input_ids", "attention_mask")).eval()
    names = interface()
    exporters.export(module, tokens(2, 24), names, path, exporter, optimize)
    return exporters.check(module, path, names, [tokens(1, 7), tokens(3, 40)])


@click.command("export_minilm", cls=Command)
@click.option(
    "-o", "--output", type=click.Path(path_type=pathlib.Path), default=CACHE / "minilm.onnx"
)
@click.option(
    "--folder",
    type=click.Path(path_type=pathlib.Path),
    default=CACHE / "minilm",
    show_default=True,
    help="Where fetch has unpacked the weights.",
)
@click.option(
    "--exporter",
    type=click.Choice(["dynamo", "torchscript"]),
    default="dynamo",
    show_default=True,
)
@click.option("--raw", is_flag=True, help="Leave the graph as the translation made it.")
def main(output: pathlib.Path, folder: pathlib.Path, exporter: str, raw: bool) -> None:
    """Export MiniLM to ONNX and compare the file with PyTorch."""
    worst = export(output, folder, exporter, optimize=not raw)
    click.echo(f"{output}  {output.stat().st_size / 2**20:.0f} MiB, differs by {worst:.1g}")


if __name__ == "__main__":
    main()

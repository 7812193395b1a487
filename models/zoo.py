"""Benchmark graphs: well-known architectures with random weights, as exporters leave them.

    python -m graphopt.models.zoo resnet50 bert --kinds ts,dyn

``ts`` is the older exporter without constant folding, ``dyn`` the new one without optimizing:
nothing has been tidied up, all of it is left to do. Weights are the architecture's own
initialization, seeded, so these files say nothing about accuracy (but MiniLM's: they are
real, see ``fetch``). Files that exist are kept.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from . import export_minilm
from .cache import CACHE
from .command import Command
from .errors import ExportError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .exporters import Interface

__all__ = ["FOLDER", "KINDS", "NAMES", "build"]

FOLDER = CACHE / "zoo"
"""Where the files are kept."""

KINDS = {"ts": "torchscript", "dyn": "dynamo"}
"""Ending of the file -> exporter."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make one network.

    Attributes:
        config: Name of its configuration class in transformers.
        model: Name of its network class.
        inputs: Keyword of each input -> how it looks (see ``_inputs``).
        results: How many results are outputs.
        options: Arguments of the configuration.
        model_options: Arguments of the network class.
        part: Attribute of the network that is exported alone; empty: all of it.
        real: The weights are those of ``export_minilm``, not random.
    """

    config: str
    model: str
    inputs: Mapping[str, str]
    results: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    part: str = ""
    real: bool = False


_IMAGE = {"pixel_values": "image"}
_TEXT = {"input_ids": "ids", "attention_mask": "mask"}

RECIPES: dict[str, Recipe] = {
    "bert": Recipe(
        "BertConfig", "BertModel", _TEXT, model_options={"add_pooling_layer": False}
    ),
    "convnext": Recipe("ConvNextConfig", "ConvNextModel", _IMAGE, 2),
    "gpt2": Recipe(
        "GPT2Config",
        "GPT2LMHeadModel",
        _TEXT,
        options={
            "n_layer": 6,
            "n_head": 8,
            "n_embd": 512,
            "vocab_size": 8192,
            "use_cache": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "llama": Recipe(
        "LlamaConfig",
        "LlamaForCausalLM",
        _TEXT,
        # Four query heads share one key/value head, as in the larger ones of the family.
        options={
            "num_hidden_layers": 6,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 8192,
            "use_cache": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "minilm": Recipe("", "", _TEXT, real=True),
    "mobilenetv2": Recipe("MobileNetV2Config", "MobileNetV2Model", _IMAGE, 2),
    "resnet18": Recipe(
        "ResNetConfig",
        "ResNetModel",
        _IMAGE,
        2,
        options={
            "depths": [2, 2, 2, 2],
            "hidden_sizes": [64, 128, 256, 512],
            "layer_type": "basic",
        },
    ),
    "resnet50": Recipe("ResNetConfig", "ResNetModel", _IMAGE, 2),
    # 30 s of speech: 3,000 frames, of which the convolutions keep every second.
    "speech": Recipe(
        "WhisperConfig",
        "WhisperModel",
        {"input_features": "frames"},
        options={"encoder_layers": 4, "d_model": 384, "encoder_attention_heads": 6},
        part="encoder",
    ),
    # With scaled_dot_product_attention, torch 2.13 cannot decompose its windows' reshape.
    "swin": Recipe(
        "SwinConfig", "SwinModel", _IMAGE, 2, options={"attn_implementation": "eager"}
    ),
    "vit": Recipe("ViTConfig", "ViTModel", _IMAGE, 2),
}
"""Name -> recipe. Sizes are the published base sizes where nothing is said."""

NAMES = tuple(sorted(RECIPES))


def build(name: str, kind: str, folder: pathlib.Path = FOLDER, seed: int = 0) -> pathlib.Path:
    """Return the path of a benchmark graph, which is made where it is missing.

    Args:
        name: One of ``NAMES``.
        kind: ``"ts"`` or ``"dyn"``.
        folder: Where it is kept.
        seed: Seed of the weights.

    Raises:
        ExportError: It cannot be exported, or the file differs from the network.
    """
    path = folder / f"{name}.{kind}.onnx"
    if path.exists():
        return path
    import torch

    from . import exporters

    torch.manual_seed(seed)
    recipe = RECIPES[name]
    module, interface = _module(recipe)
    draft = path.with_suffix(".draft")
    exporters.export(
        module, _inputs(recipe, 2, 24, seed), interface, draft, KINDS[kind], optimize=False
    )
    try:
        # Another batch and another length than the example's: the dimensions are dynamic.
        exporters.check(module, draft, interface, [_inputs(recipe, 3, 17, seed + 1)])
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _module(recipe: Recipe) -> tuple[nn.Module, Interface]:
    """Return the network and its interface."""
    from . import exporters

    inner = export_minilm.encoder() if recipe.real else _random(recipe)
    names = tuple(f"in{index}" for index in range(len(recipe.inputs)))
    outputs = tuple(f"out{index}" for index in range(recipe.results))
    axes = {0: "batch"}
    if "ids" in recipe.inputs.values():
        axes[1] = "sequence"
    flat = exporters.Flat(inner.eval(), tuple(recipe.inputs), recipe.results).eval()
    return flat, exporters.Interface(names, outputs, dict.fromkeys((*names, *outputs), axes))


def _random(recipe: Recipe) -> nn.Module:
    """Return the network with random weights, from torch's global generator."""
    try:
        import transformers
    except ImportError as error:
        raise ExportError(
            "missing", "transformers is not installed.", hint="pip install 'graphopt[real]'"
        ) from error
    config = getattr(transformers, recipe.config)(**recipe.options)
    network = getattr(transformers, recipe.model)(config, **recipe.model_options)
    inner: nn.Module = getattr(network, recipe.part) if recipe.part else network
    return inner


def _inputs(recipe: Recipe, batch: int, length: int, seed: int) -> list[torch.Tensor]:
    """Return one tensor an input: images, frames, or token ids and their mask."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = {
        "image": lambda: torch.randn(batch, 3, 224, 224, generator=generator),
        "frames": lambda: torch.randn(batch, 80, 3000, generator=generator),
        "ids": lambda: torch.randint(1000, (batch, length), generator=generator),
        "mask": lambda: _mask(batch, length),
    }
    return [made[kind]() for kind in recipe.inputs.values()]


def _mask(batch: int, length: int) -> torch.Tensor:
    """Return int64 [batch, length]: 1 for a token, 0 for padding; the last line is shorter."""
    import torch

    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - 5 :] = 0
    return mask


@click.command("zoo", cls=Command)
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--kinds", default="ts,dyn", show_default=True, help="Exporters, by commas.")
@click.option(
    "--folder", type=click.Path(path_type=pathlib.Path), default=FOLDER, show_default=True
)
def main(names: tuple[str, ...], kinds: str, folder: pathlib.Path) -> None:
    """Make the benchmark graphs NAMES (all of them: give none)."""
    chosen = kinds.split(",")
    for kind in chosen:
        if kind not in KINDS:
            raise click.BadParameter(f"{kind!r}; valid: {', '.join(KINDS)}.")
    for name in names or NAMES:
        for kind in chosen:
            start = time.monotonic()
            path = build(name, kind, folder)
            size = path.stat().st_size / 2**20
            click.echo(f"{path}  {size:.0f} MiB  {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()

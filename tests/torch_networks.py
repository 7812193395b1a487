"""Architectures of the field in PyTorch, small, as their papers wire them: what exporters see.

Each takes a width, so that the same wiring is there in a size for every day and in the size of
the field. Weights are random; BatchNormalization has statistics of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import torch
from graphopt.models import exporters
from torch import nn
from torch.nn import functional


def conv_bn(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """Return Conv, BatchNormalization and ReLU, of the same size as the input."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Down, up with ConvTranspose, skips by Concat (Ronneberger et al. 2015)."""

    def __init__(self, width: int, depth: int = 2) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            nn.Sequential(conv_bn(i, o), conv_bn(o, o))
            for i, o in zip([3, *sizes[:-1]], sizes, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(o, i, 2, stride=2)
            for i, o in zip(sizes[-2::-1], sizes[:0:-1], strict=True)
        )
        self.merge = nn.ModuleList(conv_bn(2 * size, size) for size in sizes[-2::-1])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give [N, 2, H, W]."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


class Shuffle(nn.Module):
    """Half of the channels pass by, then both halves are shuffled (Ma et al. 2018)."""

    def __init__(self, width: int, blocks: int = 3) -> None:
        super().__init__()
        half = width // 2
        self.stem = conv_bn(3, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv_bn(half, half, 1),
                nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
                nn.BatchNorm2d(half),
                conv_bn(half, half, 1),
            )
            for _ in range(blocks)
        )
        self.head = nn.Sequential(conv_bn(width, 2 * width, 1), nn.AdaptiveAvgPool2d(1))
        self.classes = nn.Linear(2 * width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give [N, 5]."""
        x = self.stem(x)
        for block in self.blocks:
            left, right = x.chunk(2, dim=1)
            x = torch.cat([left, block(right)], dim=1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.classes(self.head(x).flatten(1))


class Dense(nn.Module):
    """Every layer reads all before it, concatenated (Huang et al. 2017)."""

    def __init__(self, width: int, layers: int = 4, blocks: int = 2) -> None:
        super().__init__()
        channels = 2 * width
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks, self.between = nn.ModuleList(), nn.ModuleList()
        for _ in range(blocks):
            block = nn.ModuleList()
            for _ in range(layers):
                block.append(
                    nn.Sequential(
                        nn.BatchNorm2d(channels),
                        nn.ReLU(),
                        nn.Conv2d(channels, 4 * width, 1, bias=False),
                        nn.BatchNorm2d(4 * width),
                        nn.ReLU(),
                        nn.Conv2d(4 * width, width, 3, padding=1, bias=False),
                    )
                )
                channels += width
            self.blocks.append(block)
            narrow = nn.Conv2d(channels, channels // 2, 1, bias=False)
            norm = nn.BatchNorm2d(channels)
            self.between.append(nn.Sequential(norm, nn.ReLU(), narrow, nn.AvgPool2d(2)))
            channels //= 2
        self.norm = nn.BatchNorm2d(channels)
        self.classes = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give [N, 5]."""
        x = self.stem(x)
        for block, between in zip(self.blocks, self.between, strict=True):
            for layer in block:
                x = torch.cat([x, layer(x)], dim=1)
            x = between(x)
        return self.classes(functional.relu(self.norm(x)).mean((2, 3)))


class ResNeXt(nn.Module):
    """Residual bottlenecks around a Conv in groups (Xie et al. 2017)."""

    def __init__(self, width: int, blocks: int = 3, groups: int = 8) -> None:
        super().__init__()
        self.stem = conv_bn(3, 2 * width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv_bn(2 * width, width, 1),
                conv_bn(width, width, groups=groups),
                nn.Conv2d(width, 2 * width, 1, bias=False),
                nn.BatchNorm2d(2 * width),
            )
            for _ in range(blocks)
        )
        self.classes = nn.Linear(2 * width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give [N, 5]."""
        x = self.stem(x)
        for block in self.blocks:
            x = functional.relu(x + block(x))
        return self.classes(x.mean((2, 3)))


class Recurrent(nn.Module):
    """Tokens, two layers that read both ways, the last state, classes."""

    def __init__(self, width: int, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.table = nn.Embedding(50, width)
        self.layers = kind(width, width, 2, batch_first=True, bidirectional=True)
        self.hidden = nn.Linear(2 * width, width)
        self.classes = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give [N, 5]."""
        y, _ = self.layers(self.table(x))
        return self.classes(functional.relu(self.hidden(y[:, -1])))


@dataclasses.dataclass(frozen=True)
class Made:
    """How to make one network.

    Attributes:
        make: Takes a width.
        small, large: Widths: for every day, and of the field.
        side: Pixels of an image in both sizes; 0: it takes tokens.
    """

    make: Callable[[int], nn.Module]
    small: int
    large: int
    side: tuple[int, int] = (16, 64)


NETWORKS = {
    "unet": Made(UNet, 16, 64),
    "unet-deep": Made(functools.partial(UNet, depth=4), 4, 32),
    "shuffle": Made(Shuffle, 32, 128),
    "dense": Made(Dense, 16, 32),
    "resnext": Made(ResNeXt, 32, 128),
    "lstm": Made(functools.partial(Recurrent, kind=nn.LSTM), 16, 256, (0, 0)),
    "gru": Made(functools.partial(Recurrent, kind=nn.GRU), 16, 256, (0, 0)),
}


def module_of(name: str, large: bool = False) -> nn.Module:
    """Return the network, seeded, in evaluation mode; what it answers depends on the input."""
    made = NETWORKS[name]
    torch.manual_seed(0)
    module = made.make(made.large if large else made.small)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
    return module.eval()


def inputs_of(name: str, batch: int, large: bool = False, seed: int = 0) -> torch.Tensor:
    """Return one input of the network: images or tokens."""
    generator = torch.Generator().manual_seed(seed)
    side = NETWORKS[name].side[large]
    if side:
        # Of different contrast, or the mean of many pixels is the same for all.
        contrast = torch.linspace(0.5, 2.0, batch).reshape(-1, 1, 1, 1)
        return contrast * torch.randn(batch, 3, side, side, generator=generator)
    return torch.randint(50, (batch, 12), generator=generator)


def exported(
    name: str, exporter: str, folder: pathlib.Path, large: bool = False
) -> pathlib.Path:
    """Write the network as its exporter leaves it, nothing tidied up; return the path."""
    path = folder / f"{name}.{exporter}.onnx"
    dynamic = {0: "batch"}
    # torch.export takes the length of an LSTM's input for a constant.
    interface = exporters.Interface(("x",), ("y",), {"x": dynamic, "y": dynamic})
    example = [inputs_of(name, 2, large)]
    exporters.export(
        module_of(name, large), example, interface, path, exporter, optimize=False
    )
    return path

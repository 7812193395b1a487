"""The networks for handwritten digits: the one this project started from, student, teacher.

All take float32 images [N, 1, 6, 6] and give float32 logits [N, 10].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from graphopt.errors import nearest

from .errors import TrainingError

__all__ = ["NETWORKS", "Net", "ResidualBlock", "StudentNet", "TeacherNet", "create"]

CLASSES = 10
SIDE = 6
"""Pixels on a side of an image."""


class Net(nn.Module):
    """Two convolutions and two linear layers.

    ``Conv2d(1, 32, 3, padding=1) -> Conv2d(32, 64, 3, padding=1) -> view(-1, 64 * 6 * 6) ->
    Linear(2304, 128) -> Linear(128, 10)``, as named when the project began. Nothing is named
    between the layers, so nothing is: the network is one linear map of its input, and can
    reach no more than a linear classifier does. ``activation=True`` puts a ReLU after every
    layer but the last; ``study`` measures both.

    Args:
        channels: Output channels of the two convolutions.
        hidden: Outputs of the first linear layer.
        activation: Whether there are ReLUs.
    """

    def __init__(
        self,
        channels: tuple[int, int] = (32, 64),
        hidden: int = 128,
        activation: bool = False,
    ) -> None:
        super().__init__()
        first, second = channels
        self.flat = second * SIDE * SIDE
        self.conv1 = nn.Conv2d(1, first, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(self.flat, hidden)
        self.fc2 = nn.Linear(hidden, CLASSES)
        self.activation: nn.Module = nn.ReLU() if activation else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of ``images``."""
        x = self.activation(self.conv1(images))
        x = self.activation(self.conv2(x))
        x = self.activation(self.fc1(x.view(-1, self.flat)))
        logits: torch.Tensor = self.fc2(x)
        return logits


class StudentNet(Net):
    """``Net`` at half its width, with ReLU: 79,242 parameters instead of 315,146."""

    def __init__(self) -> None:
        super().__init__(channels=(16, 32), hidden=64, activation=True)


class ResidualBlock(nn.Module):
    """``ReLU(x + BN(conv(ReLU(BN(conv(x))))))``, the basic block of arXiv:1512.03385."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give float32 [N, channels, H, W], as ``x``."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(x + self.bn2(self.conv2(y)))


class TeacherNet(nn.Module):
    """Wider and deeper than ``Net``: 64 channels, BatchNorm and ReLU, two residual blocks."""

    def __init__(self, channels: int = 64, blocks: int = 2, hidden: int = 256) -> None:
        super().__init__()
        self.flat = channels * SIDE * SIDE
        self.stem = nn.Conv2d(1, channels, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.fc1 = nn.Linear(self.flat, hidden)
        self.fc2 = nn.Linear(hidden, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of ``images``."""
        x = self.blocks(functional.relu(self.bn(self.stem(images))))
        x = functional.relu(self.fc1(x.view(-1, self.flat)))
        logits: torch.Tensor = self.fc2(x)
        return logits


def _net_relu() -> Net:
    return Net(activation=True)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "net": Net,
    "net-relu": _net_relu,
    "student": StudentNet,
    "teacher": TeacherNet,
}
"""Name on the command line -> what makes the network."""


def create(name: str, seed: int) -> nn.Module:
    """Return a new network; its initial weights depend on ``seed`` alone.

    Raises:
        TrainingError: There is no such network.
    """
    if name not in NETWORKS:
        raise TrainingError(
            "network", f"There is no network {name!r}.", hint=nearest(name, NETWORKS)
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETWORKS[name]()

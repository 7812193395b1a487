"""Attention in PyTorch, as decoders of the field write it, small: what exporters see."""

from __future__ import annotations

import torch
from torch import nn

HEADS, WIDTH = 4, 8


def _angles(length: int) -> torch.Tensor:
    """Return float32 [length, WIDTH / 2]."""
    inverse = 1.0 / 10000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    return torch.arange(length)[:, None] * inverse


class GptJ(nn.Module):
    """Neighbours rotated as in GPT-J: tables repeated, every second number negated."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(HEADS * WIDTH, HEADS * WIDTH) for _ in range(3))
        self.register_buffer("sin", _angles(64).sin())
        self.register_buffer("cos", _angles(64).cos())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give [batch, length, HEADS * WIDTH]."""
        split = (*x.shape[:2], HEADS, WIDTH)
        q, k, v = (layer(x).view(split) for layer in (self.q, self.k, self.v))
        positions = torch.arange(x.shape[1])[None]
        sin, cos = self.sin[positions], self.cos[positions]
        q, k = (self._rotated(one, sin, cos).permute(0, 2, 1, 3) for one in (q, k))
        scores = q @ k.transpose(-1, -2) / WIDTH**0.5
        y = scores.softmax(-1) @ v.permute(0, 2, 1, 3)
        return y.permute(0, 2, 1, 3).reshape(x.shape)

    @staticmethod
    def _rotated(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        sin, cos = (one[:, :, None, :].repeat_interleave(2, 3) for one in (sin, cos))
        return x * cos + turned * sin


class Llama(GptJ):
    """Neighbours rotated as in the first LLaMA: pairs, each number computed apart."""

    @staticmethod
    def _rotated(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
        a, b = x.reshape(*x.shape[:-1], WIDTH // 2, 2).unbind(-1)
        sin, cos = sin[:, :, None], cos[:, :, None]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class Cached(nn.Module):
    """A step of a decoder: keys and values so far come in, and go out with the new ones."""

    def __init__(self, shared: int = HEADS) -> None:
        super().__init__()
        self.shared = shared
        self.q = nn.Linear(HEADS * WIDTH, HEADS * WIDTH)
        self.k, self.v = (nn.Linear(HEADS * WIDTH, shared * WIDTH) for _ in range(2))
        self.out = nn.Linear(HEADS * WIDTH, HEADS * WIDTH)

    def forward(
        self, x: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give [batch, length, HEADS * WIDTH], and all keys and values."""
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, HEADS, WIDTH).transpose(1, 2)
        k = self.k(x).view(batch, length, self.shared, WIDTH).transpose(1, 2)
        v = self.v(x).view(batch, length, self.shared, WIDTH).transpose(1, 2)
        k, v = torch.cat((past_key, k), dim=2), torch.cat((past_value, v), dim=2)
        keys, values = self._repeated(k), self._repeated(v)
        scores = q @ keys.transpose(2, 3) * WIDTH**-0.5
        y = (scores.softmax(-1) @ values).transpose(1, 2).reshape(batch, length, -1)
        return self.out(y), k, v

    def _repeated(self, x: torch.Tensor) -> torch.Tensor:
        batch, shared, length, width = x.shape
        repeats = HEADS // shared
        if repeats == 1:
            return x
        wide = x[:, :, None].expand(batch, shared, repeats, length, width)
        return wide.reshape(batch, HEADS, length, width)

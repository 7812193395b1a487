"""What is remembered of the channels of a tensor: their extremes and their energy."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["ChannelStatistics"]

_Floats: TypeAlias = npt.NDArray[np.float64]

MAX_FEEDS = 64
"""Feeds whose extremes are kept one by one; with more than this the mean of what dynamic
quantization does hardly moves."""


class ChannelStatistics:
    """Statistics of a tensor, one entry a channel of its last axis.

    Attributes:
        count: Rows seen: elements of a channel.
        low, high: float32 ``[C]``, extremes over all rows.
        energy: float64 ``[C]``, sum of squares over all rows.
        total: float64 ``[C]``, sum over all rows.
        by_feed: Index of a feed -> (lowest, highest) of each channel in it, float32 ``[C]``;
            of the first ``MAX_FEEDS`` feeds.
    """

    def __init__(self) -> None:
        self.count = 0
        self.low = self.high = np.zeros(0, np.float32)
        self.energy = self.total = np.zeros(0)
        self.by_feed: dict[int, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = {}

    def update(self, values: npt.NDArray[Any], feed: int = 0) -> None:
        """Take in an array ``[..., C]`` of floating-point numbers."""
        if values.size == 0:
            return
        rows = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        low, high = rows.min(axis=0), rows.max(axis=0)
        single = ChannelStatistics()
        single.count = len(rows)
        single.low, single.high = low, high
        single.energy = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        single.total = rows.sum(axis=0, dtype=np.float64)
        if feed < MAX_FEEDS:
            single.by_feed[feed] = (low, high)
        self.merge(single)

    def merge(self, other: ChannelStatistics) -> None:
        """Add the statistics of other rows."""
        if not other.count:
            return
        for feed, (low, high) in other.by_feed.items():
            if feed in self.by_feed:
                own_low, own_high = self.by_feed[feed]
                low, high = np.minimum(own_low, low), np.maximum(own_high, high)
            self.by_feed[feed] = (low, high)
        if not self.count:
            self.low, self.high = other.low, other.high
            self.energy, self.total = other.energy, other.total
        else:
            self.low = np.minimum(self.low, other.low)
            self.high = np.maximum(self.high, other.high)
            self.energy = self.energy + other.energy
            self.total = self.total + other.total
        self.count += other.count

    @property
    def is_finite(self) -> bool:
        """Whether it has seen something, and no NaN or Inf."""
        return self.count > 0 and bool(np.isfinite(self.energy).all())

    @property
    def mean(self) -> _Floats:
        """Mean of each channel."""
        return self.total / max(self.count, 1)

    def mean_square_range(self, scale: npt.NDArray[np.floating[Any]]) -> float:
        """Return the mean over feeds of the squared range of ``x / scale``, 0 included.

        Args:
            scale: ``[C]``, > 0.
        """
        squares = [
            (max(float((high / scale).max()), 0.0) - min(float((low / scale).min()), 0.0)) ** 2
            for low, high in self.by_feed.values()
        ]
        return float(np.mean(squares)) if squares else 0.0

"""Latency of several models, measured so that the ratio between them can be trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

__all__ = ["Latency", "summarize"]


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long one model takes.

    Attributes:
        median_ms: Median time of a run.
        minimum_ms: Shortest time of a run.
        quartiles_ms: First and third quartile.
        ratio: Median of (time of this model / time of the first) over the rounds.
        ratio_quartiles: First and third quartile of it.
        repetitions: Rounds measured.
    """

    median_ms: float
    minimum_ms: float
    quartiles_ms: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]
    repetitions: int

    @property
    def speedup(self) -> float:
        """How many times faster than the first model."""
        return 1.0 / self.ratio


def summarize(times: Sequence[Sequence[float]]) -> list[Latency]:
    """Return the figures of ``times``: seconds, [models][rounds]."""
    table = np.asarray(times)
    ratios = table / table[0]
    result = []
    for row, ratio in zip(table * 1e3, ratios, strict=True):
        low, median, high = np.quantile(row, (0.25, 0.5, 0.75)).tolist()
        ratio_low, ratio_median, ratio_high = np.quantile(ratio, (0.25, 0.5, 0.75)).tolist()
        result.append(
            Latency(
                median,
                float(row.min()),
                (low, high),
                ratio_median,
                (ratio_low, ratio_high),
                table.shape[1],
            )
        )
    return result

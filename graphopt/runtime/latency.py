"""Latency of several models, measured so that the ratio between them can be trusted."""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Latency", "summarize"]


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long one model takes.

    Attributes:
        median_ms: Median time of a run.
        minimum_ms: Shortest time of a run.
        quartiles_ms: First and third quartile of the time of a run.
        ratio: Median over the rounds of (time of this model / time of the first model).
        ratio_quartiles: First and third quartile of that.
        repetitions: Rounds measured.
    """

    median_ms: float
    minimum_ms: float
    quartiles_ms: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]
    repetitions: int


def summarize(times: np.ndarray) -> list[Latency]:
    """Return the figures of ``times``: seconds of a run, float64 [models, rounds]."""
    return [
        Latency(
            median_ms=float(np.median(row)),
            minimum_ms=float(row.min()),
            quartiles_ms=_quartiles(row),
            ratio=float(np.median(ratio)),
            ratio_quartiles=_quartiles(ratio),
            repetitions=times.shape[1],
        )
        for row, ratio in zip(times * 1e3, times / times[0], strict=True)
    ]


def _quartiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.25, 0.75)).tolist()
    return low, high

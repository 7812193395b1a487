"""Which range of a tensor's values its integers are spread over.

A wide range clips nothing and rounds everything coarsely; a narrow one the other way round.
Each method answers from the statistics alone, so all of them cost one pass over the data:

* ``minmax``: nothing is clipped.
* ``average``: the mean over the rows of their smallest and largest value ("moving average").
* ``percentile``: what lies outside is a given share of the values.
* ``entropy``: least Kullback-Leibler divergence between the values and their integers
  (Migacz, "8-bit inference with TensorRT", GTC 2017).
* ``mse``: least mean squared error.
* ``auto``: of all these, the one with the least mean squared error.

No method is worse than ``minmax``: where its mean squared error is larger, ``minmax`` is used.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

import numpy as np

from graphopt.calibration.qparams import Degenerate, IntType, QParams, from_range
from graphopt.calibration.range_methods import METHODS, Values
from graphopt.calibration.statistics import TensorStatistics

__all__ = ["Range", "RangeMethod", "choose_range", "noise_to_signal", "range_of"]

RangeMethod: TypeAlias = Literal["minmax", "average", "percentile", "entropy", "mse", "auto"]


@dataclasses.dataclass(frozen=True)
class Range:
    """A range that was chosen.

    Attributes:
        low, high: Its ends.
        method: The method whose range it is; ``minmax`` where the one asked for was worse.
        mse: Mean squared error that its integers cause.
    """

    low: float
    high: float
    method: str
    mse: float


def choose_range(
    stats: TensorStatistics,
    method: RangeMethod,
    kind: IntType,
    *,
    is_symmetric: bool = False,
    percentile: float = 99.99,
) -> Range:
    """Return the range for a tensor.

    Args:
        stats: What is known of its values.
        method: How to choose.
        kind: The integers to spread over the range.
        is_symmetric: Whether the range will be made symmetric.
        percentile: Share of the values inside the range, in percent (``percentile`` only).

    Raises:
        Degenerate: The tensor took no finite value, or nothing but 0.
    """
    if stats.count == stats.not_finite:
        raise Degenerate("it took no finite value")
    values = Values(stats, kind, is_symmetric)
    # Raises what is wrong with the widest range.
    from_range(values.low, values.high, kind, is_symmetric=is_symmetric)
    names = list(METHODS) if method == "auto" else list(dict.fromkeys(["minmax", method]))
    ranges = [METHODS[name](values, percentile / 100) for name in names]
    errors = values.mse(
        np.array([low for low, _ in ranges]), np.array([high for _, high in ranges])
    )
    # With the same error the later one: it was asked for.
    best = len(names) - 1 - int(np.argmin(errors[::-1]))
    if method == "auto":
        best = int(np.argmin(errors))
    low, high = ranges[best]
    return Range(low, high, names[best], float(errors[best]))


def range_of(
    stats: TensorStatistics,
    method: RangeMethod,
    kind: IntType,
    *,
    is_symmetric: bool = False,
    percentile: float = 99.99,
) -> tuple[float, float]:
    """Return the range that one method alone gives, be it worse than ``minmax`` or not.

    Args:
        stats: What is known of its values; one of them at least is finite and not 0.
        method: Any but ``auto``.
        kind: As for ``choose_range``.
        is_symmetric: As for ``choose_range``.
        percentile: As for ``choose_range``.
    """
    return METHODS[method](Values(stats, kind, is_symmetric), percentile / 100)


def noise_to_signal(stats: TensorStatistics, qparams: QParams) -> float:
    """Return the energy of the error that ``qparams`` causes over that of the values.

    Args:
        stats: What is known of the values.
        qparams: One scale for all of them.
    """
    values = Values(stats, qparams.kind, is_symmetric=False)
    signal = float(np.dot(values.centers * values.centers, values.counts)) / values.total
    return values.mse_of(qparams) / signal if signal else 0.0

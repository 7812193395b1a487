"""Second moments of the channels of a tensor: what rounding a weight costs depends on them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Gram", "SecondMoments"]


class SecondMoments:
    """A sum of ``x x^T`` over rows, which can be added to another.

    Attributes:
        matrix: float64 ``[..., K, K]``; empty before the first row.
        count: Rows seen.
    """

    def __init__(self, rank: int) -> None:
        self.matrix = np.zeros((0,) * rank)
        self.count = 0

    def merge(self, other: Self) -> None:
        """Add what ``other`` has seen."""
        if other.count:
            self.add(other.matrix, other.count)

    def add(self, matrix: npt.NDArray[np.float64], count: int) -> None:
        """Add the sum over ``count`` rows."""
        # In place: the matrix of a wide layer is as large as its weight, twice.
        if self.count:
            self.matrix += matrix
        else:
            self.matrix = matrix.copy()
        self.count += count

    @property
    def is_finite(self) -> bool:
        """Whether it has seen something, and no NaN or Inf."""
        return self.count > 0 and bool(np.isfinite(self.matrix).all())


class Gram(SecondMoments):
    """Sum of ``x x^T`` over the rows of a tensor ``[..., K]``: ``[K, K]``."""

    def __init__(self) -> None:
        super().__init__(2)

    def update(self, values: npt.NDArray[Any], feed: int = 0) -> None:
        """Take in an array ``[..., K]`` of floating-point numbers."""
        del feed
        if values.size == 0:
            return
        rows = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        self.add((rows.T @ rows).astype(np.float64), len(rows))

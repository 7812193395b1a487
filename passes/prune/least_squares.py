"""Least squares from moments: no activation is kept, only sums of their products.

With rows ``u = [x, 1]`` of what goes into a layer and ``y`` of what should come out, all that
is needed is ``G = sum u u^T``, ``R = sum u y^T`` and ``sum y^2``: float64 ``[K+1, K+1]``,
``[K+1, M]`` and one number. A part of the rows is held out, and of several solutions the one
that is best on those is taken, the weights as they were among them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Fit", "Moments", "fit"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the pull to the old weights that are tried, times the mean square of an input."""

BLOCK = 4096
"""Rows that are multiplied at a time: float32 sums of so few products are exact enough to be
added up in float64."""


class Moments:
    """Sums over the rows of one layer.

    Attributes:
        gram: ``sum u u^T``, float64 ``[K+1, K+1]``.
        cross: ``sum u y^T``, float64 ``[K+1, M]``.
        power: ``sum y^2``.
        count: Rows seen.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.gram = np.zeros((inputs + 1, inputs + 1))
        self.cross = np.zeros((inputs + 1, outputs))
        self.power = 0.0
        self.count = 0

    def update(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Take in rows ``[n, K]`` and what they should give ``[n, M]``."""
        for start in range(0, len(rows), BLOCK):
            x = rows[start : start + BLOCK].astype(np.float32, copy=False)
            y = targets[start : start + BLOCK].astype(np.float32, copy=False)
            self.gram[:-1, :-1] += x.T @ x
            self.cross[:-1] += x.T @ y
            total = x.sum(axis=0, dtype=np.float64)
            self.gram[-1, :-1] += total
            self.gram[:-1, -1] += total
            self.gram[-1, -1] += len(x)
            self.cross[-1] += y.sum(axis=0, dtype=np.float64)
            self.power += float(np.square(y, dtype=np.float64).sum())
            self.count += len(x)

    def error(self, weight: np.ndarray, bias: np.ndarray) -> float:
        """Return the mean square error of a solution, over rows and outputs."""
        solution = np.concatenate([weight, bias[:, None]], axis=1)
        both = float(np.sum((solution @ self.gram) * solution))
        mixed = float(np.sum(solution.T * self.cross))
        return max(both - 2 * mixed + self.power, 0.0) / max(self.count * len(weight), 1)

    @property
    def is_finite(self) -> bool:
        """Whether it has seen something, and no NaN or Inf."""
        return self.count > 0 and bool(
            np.isfinite(self.gram).all() and np.isfinite(self.cross).all()
        )


@dataclasses.dataclass(frozen=True)
class Fit:
    """The weights that were chosen for a layer.

    Attributes:
        weight: float64 ``[M, K]``.
        bias: float64 ``[M]``.
        method: ``"as it was"``, ``"bias"`` or ``"least squares"``.
        error_before, error: Mean square error on the rows held out, before and now, as a share
            of the mean square of what should come out.
    """

    weight: np.ndarray
    bias: np.ndarray
    method: str
    error_before: float
    error: float


def fit(
    moments: Moments, held_out: Moments, weight: np.ndarray, bias: np.ndarray, free_bias: bool
) -> Fit:
    """Return the best weights on ``held_out`` of those that ``moments`` lead to.

    Args:
        moments: What is solved for.
        held_out: What the solutions are compared on.
        weight: The weights as they are, float64 ``[M, K]``; solutions are pulled towards them.
        bias: The bias as it is, float64 ``[M]``.
        free_bias: Whether the layer has a place for another bias.
    """
    scale = held_out.power / max(held_out.count * len(weight), 1) or 1.0
    before = held_out.error(weight, bias) / scale
    best = Fit(weight, bias, "as it was", before, before)
    for method, new_weight, new_bias in _solutions(moments, weight, bias, free_bias):
        error = held_out.error(new_weight, new_bias) / scale
        if error < best.error:
            best = Fit(new_weight, new_bias, method, before, error)
    return best


def _solutions(
    moments: Moments, weight: np.ndarray, bias: np.ndarray, free_bias: bool
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    found: list[tuple[str, np.ndarray, np.ndarray]] = []
    count = moments.gram[-1, -1]
    if free_bias:
        shift = (moments.cross[-1] - weight @ moments.gram[-1, :-1]) / count
        found.append(("bias", weight, shift))
    size = moments.gram.shape[0] if free_bias else moments.gram.shape[0] - 1
    gram, cross = moments.gram[:size, :size], moments.cross[:size]
    if not free_bias:
        # What the fixed bias gives is no longer to be explained.
        cross = cross - np.outer(moments.gram[:size, -1], bias)
    old = np.concatenate([weight, bias[:, None]], axis=1)[:, :size]
    power = float(np.trace(moments.gram[:-1, :-1])) / max(weight.shape[1], 1)
    # In the metric of the differences to the old weights: what is left of the targets.
    rest = cross - gram @ old.T
    # The matrix is the largest thing in memory: its diagonal is written in place.
    diagonal = np.einsum("ii->i", gram)
    unpulled = diagonal.copy()
    for strength in STRENGTHS:
        pull = np.full(size, strength * power)
        if free_bias:
            # A bias is not pulled; a little keeps the matrix regular.
            pull[-1] = 1e-9 * max(power, count)
        diagonal[:] = unpulled + pull
        try:
            solution = old + np.linalg.solve(gram, rest).T
        except np.linalg.LinAlgError:
            continue
        finally:
            diagonal[:] = unpulled
        if not np.isfinite(solution).all():
            continue
        new_bias = solution[:, -1] if free_bias else bias
        found.append(("least squares", solution[:, : weight.shape[1]], new_bias))
    return found

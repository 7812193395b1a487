"""Least squares from moments: no activation is kept, only sums of their products.

With rows ``u = [x, 1]`` of what goes into a layer and ``y`` of what should come out, all that
is needed is ``G = sum u u^T`` and ``R = sum u y^T``: float64 ``[K+1, K+1]`` and ``[K+1, M]``.
A few rows are held out and kept as they are; of several solutions the one that is best on
those is taken, the weights as they were among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from .gram import Gram

__all__ = ["HELD_OUT", "Fit", "Moments", "Rows", "chunks", "fit", "needed_bytes"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the pull to the old weights that are tried, times the mean square of an input."""

BIAS = np.inf
"""The pull that leaves the weights as they are, and only a bias to be found."""

FIXED = 1e30
"""The pull of a bias that must stay; far more than any sum of squares in float32."""

HELD_OUT = 2048
"""Rows that are held out at most: enough to tell five solutions apart."""

CHUNK = 4096
CHUNK_BYTES = 1 << 24
"""Rows, and bytes of them, that are multiplied at a time: float32 sums of so few products are
exact enough to be added up in float64."""


def chunks(count: int, width: int) -> Iterator[slice]:
    """Divide ``count`` rows of ``width`` float32 into parts to be multiplied at a time."""
    step = max(1, min(CHUNK, CHUNK_BYTES // (4 * width)))
    for start in range(0, count, step):
        yield slice(start, start + step)


def needed_bytes(outputs: int, inputs: int) -> int:
    """Return what fitting a layer takes beside the activations of one run.

    The sums, the rows held out, and five matrices of the size of the weight: the weights as
    they were, twice, the products with what should come out, what is left of those, a
    solution.
    """
    held = 4 * HELD_OUT * (inputs + outputs)
    return Gram.bytes_of(inputs + 1) + held + 5 * 8 * (inputs + 1) * outputs


class Moments:
    """Sums over the rows of one layer.

    Attributes:
        gram: ``sum u u^T``, ``[K+1, K+1]``.
        cross: ``sum u y^T``, float64 ``[K+1, M]``.
        count: Rows seen.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.gram = Gram(inputs + 1)
        self.cross = np.zeros((inputs + 1, outputs))
        self.count = 0

    def update(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Take in rows ``[n, K]`` and what they should give ``[n, M]``."""
        for part in chunks(len(rows), rows.shape[1] + 1):
            x = np.ones((len(rows[part]), rows.shape[1] + 1), np.float32)
            x[:, :-1] = rows[part]
            self.gram.add(x)
            self.cross += x.T @ targets[part].astype(np.float32, copy=False)
            self.count += len(x)

    @property
    def is_finite(self) -> bool:
        """Whether it has seen something, and no NaN or Inf."""
        return self.count > 0 and self.gram.is_finite and bool(np.isfinite(self.cross).all())


class Rows:
    """Rows that are held out.

    Attributes:
        inputs, outputs: What goes in and what should come out, float32 ``[n, K]``, ``[n, M]``.
    """

    def __init__(self) -> None:
        self._inputs: list[np.ndarray] = []
        self._outputs: list[np.ndarray] = []

    def update(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Take in rows ``[n, K]`` and what they should give ``[n, M]``."""
        self._inputs.append(rows.astype(np.float32))
        self._outputs.append(targets.astype(np.float32))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(self._inputs, self._outputs, strict=True)

    @property
    def power(self) -> float:
        """Mean square of what should come out."""
        total = sum(float(np.square(y, dtype=np.float64).sum()) for y in self._outputs)
        return total / max(sum(y.size for y in self._outputs), 1)

    def error(self, weight: np.ndarray, bias: np.ndarray) -> float:
        """Return the mean square error of a solution, over rows and outputs."""
        total = count = 0.0
        for x, y in self:
            off = x @ weight.T.astype(np.float32) + bias.astype(np.float32) - y
            total += float(np.square(off, dtype=np.float64).sum())
            count += y.size
        return total / max(count, 1)

    @property
    def is_finite(self) -> bool:
        """Whether it has seen something, and no NaN or Inf."""
        both = [*self._inputs, *self._outputs]
        return bool(both) and all(np.isfinite(one).all() for one in both)


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
    moments: Moments, held_out: Rows, weight: np.ndarray, bias: np.ndarray, free_bias: bool
) -> Fit:
    """Return the weights that ``moments`` lead to, or those there are.

    What is best on the rows held out decides; what is chosen is then solved for all rows.

    Args:
        moments: What is solved for; ``held_out`` is added.
        held_out: What the solutions are compared on.
        weight: The weights as they are, float64 ``[M, K]``; solutions are pulled towards them.
        bias: The bias as it is, float64 ``[M]``.
        free_bias: Whether the layer has a place for another bias.
    """
    scale = held_out.power or 1.0
    before = held_out.error(weight, bias) / scale
    old = np.concatenate([weight, bias[:, None]], axis=1).T
    best, strength = before, 0.0
    rest = moments.cross - moments.gram.times(old)
    for one in (*([BIAS] if free_bias else []), *STRENGTHS):
        solution = _solution(moments, old, rest, one, free_bias)
        if solution is not None:
            error = held_out.error(solution[:-1].T, solution[-1]) / scale
            if error < best:
                best, strength = error, one
    if strength:
        for rows, targets in held_out:
            moments.update(rows, targets)
        rest = moments.cross - moments.gram.times(old)
        solution = _solution(moments, old, rest, strength, free_bias)
        if solution is not None:
            method = "bias" if strength == BIAS else "least squares"
            return Fit(solution[:-1].T, solution[-1], method, before, best)
    return Fit(weight, bias, "as it was", before, before)


def _solution(
    moments: Moments, old: np.ndarray, rest: np.ndarray, strength: float, free_bias: bool
) -> np.ndarray | None:
    """Return weights and bias for one pull to the ``old`` ones, ``[K+1, M]``, if there are.

    ``rest`` is what the old ones leave of the products with what should come out.
    """
    if strength == BIAS:
        solution = old.copy()
        solution[-1] += rest[-1] / moments.count
        return solution
    power = float(moments.gram.diagonal[:-1].mean())
    pull = np.full(len(old), strength * power)
    # A bias is not pulled, a little keeps the matrix regular; or it stays where it is.
    pull[-1] = 1e-9 * max(power, moments.count) if free_bias else FIXED
    try:
        solution = moments.gram.solve(pull, rest)
    except np.linalg.LinAlgError:
        return None
    solution += old
    if not free_bias:
        solution[-1] = old[-1]
    return solution if np.isfinite(solution).all() else None

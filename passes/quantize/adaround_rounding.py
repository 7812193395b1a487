"""Decides which way to round each weight, up or down, for the least error of a product.

Each column is a problem of its own: minimize ``e^T M e`` over ``h`` of zeros and ones, with
``e = h - rest`` in steps of the column and M the second moments of the inputs (equation 13 of
the reference). The paper relaxes it (equations 21 to 25) and descends for thousands of steps;
here the rows are decided in turn, of few rows the best few ways are kept, and then single
decisions are changed until none pays: less error on all layers that were tried, in a fraction
of the time.

Reference: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
ICML 2020, section 3, equation 13.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .beam_rounding import decide
from .in_turn import round_in_turn

__all__ = ["adaround"]

_Array: TypeAlias = npt.NDArray[np.float32]

SWEEPS = 4
"""Sweeps over the decisions at the end; five times as many gain 0.1 dB at most."""
MOST_KEPT = 128
"""Rows up to which several ways are kept: their time grows with the square of the rows."""
BLOCK = 64
"""Rows decided before what they change is added to all others: products of matrices are ten
times as fast as a vector at a time."""


def adaround(
    weight: npt.NDArray[np.floating[Any]],
    gram: npt.NDArray[np.floating[Any]],
    scale: npt.NDArray[np.floating[Any]],
    *,
    limit: int = 127,
) -> npt.NDArray[np.int8]:
    """Return integers ``q``, each ``floor(W / scale)`` or one more, with a small error.

    The error is ``|X (W - q * scale)|^2 = tr(E^T X^T X E)``, which needs the second moments
    of X alone: samples are seen once, and memory does not depend on how many there are.

    Args:
        weight: ``[K, N]``, or ``[G, K, N]`` for G products of their own.
        gram: ``X^T X``, ``[K, K]`` or ``[G, K, K]``.
        scale: > 0, broadcast against ``weight``, the same for a whole column.
        limit: Largest magnitude of an integer.

    Returns:
        int8, the shape of ``weight``.
    """
    steps_of = np.asarray(weight / scale, np.float64)
    floor = np.clip(np.floor(steps_of), -limit, limit - 1)
    rest = np.asarray(np.clip(steps_of - floor, 0.0, 1.0), np.float32)
    if weight.shape[-2] <= MOST_KEPT:
        up = decide(rest, gram)
    else:
        up = round_in_turn(rest, gram, lambda row, _: (row >= 0.5).astype(np.float32))
    # Within the range of float32, whatever the samples are scaled by.
    largest = np.abs(gram).max(axis=(-2, -1), keepdims=True)
    moments = np.asarray(gram / np.where(largest > 0, largest, 1), np.float32)
    return np.asarray(floor + _descend(up, rest, moments)).astype(np.int8)


def _descend(up: _Array, rest: _Array, moments: _Array) -> _Array:
    """Turn each decision that lessens the error, row by row, until none does."""
    up = up.copy()
    pull = moments @ (up - rest)
    diagonal = np.diagonal(moments, axis1=-2, axis2=-1)[..., None]
    rows = up.shape[-2]
    for _ in range(SWEEPS):
        has_turned = False
        for start in range(0, rows, BLOCK):
            block = slice(start, min(start + BLOCK, rows))
            near, own = moments[..., block, block], diagonal[..., block, :]
            before, now = up[..., block, :].copy(), up[..., block, :]
            force = pull[..., block, :].copy()
            for row in range(now.shape[-2]):
                change = 1 - 2 * now[..., row, :]
                gain = 2 * change * force[..., row, :] + own[..., row, :]
                change[gain >= 0] = 0
                if change.any():
                    now[..., row, :] += change
                    force += near[..., :, row, None] * change[..., None, :]
            changes = now - before
            if changes.any():
                has_turned = True
                pull += moments[..., :, block] @ changes
        if not has_turned:
            break
    return up

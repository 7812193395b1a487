"""Learns which way to round each weight, up or down, for the least error of a product.

Reference: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
ICML 2020, section 3, equations 21 to 25.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["adaround"]

_Array: TypeAlias = npt.NDArray[np.float32]

ZETA, GAMMA = 1.1, -0.1
"""Stretch of the sigmoid, so that it reaches 0 and 1 (equation 23)."""
BETA = (20.0, 2.0)
"""Exponent of the regularizer, from the start to the end (equation 24): at first it leaves
what is undecided alone, at last it pushes all of it to 0 or 1."""
WARM_UP = 0.2
"""Share of the steps before the regularizer sets in."""
WEIGHT = 1.0
"""Weight of the regularizer against the error in units of the mean second moment."""
RATE = 0.05
"""Step of Adam. The gradient is that of all samples at once, so that larger steps than the
paper's are stable, and hundreds of them do."""
SWEEPS = 4
"""Sweeps over the weights at the end, each of which turns those that pay by themselves."""


def adaround(
    weight: npt.NDArray[np.floating[Any]],
    gram: npt.NDArray[np.floating[Any]],
    scale: npt.NDArray[np.floating[Any]],
    *,
    limit: int = 127,
    steps: int = 300,
) -> npt.NDArray[np.int8]:
    """Return integers ``q``, each ``floor(W / scale)`` or one more, with a small error.

    The error is ``|X (W - q * scale)|^2 = tr(E^T X^T X E)``, which needs the second moments
    of X alone: samples are seen once, and memory does not depend on how many there are.

    Args:
        weight: ``[K, N]``, or ``[G, K, N]`` for G products of their own.
        gram: ``X^T X``, ``[K, K]`` or ``[G, K, K]``.
        scale: > 0, broadcast against ``weight``.
        limit: Largest magnitude of an integer.
        steps: Steps of the descent.

    Returns:
        int8, the shape of ``weight``.
    """
    steps_of = np.asarray(weight / scale, np.float64)
    floor = np.clip(np.floor(steps_of), -limit, limit - 1)
    rest = np.asarray(np.clip(steps_of - floor, 0.0, 1.0), np.float32)
    moments = np.asarray(gram, np.float32)
    # A column's scale is a factor of its error and moves no minimum: all is in steps.
    mean_moment = np.diagonal(moments, axis1=-2, axis2=-1).mean(axis=-1)[..., None, None]
    moments = np.divide(moments, np.where(mean_moment > 0, mean_moment, np.float32(1)))
    # h(V) = rest at the start.
    v = -np.log((ZETA - GAMMA) / (rest - GAMMA) - 1)
    mean, square = np.zeros_like(v), np.zeros_like(v)
    for step in range(steps):
        sigmoid = 1 / (1 + np.exp(-v))
        stretched = sigmoid * np.float32(ZETA - GAMMA) + np.float32(GAMMA)
        h = np.clip(stretched, 0, 1)
        slope = 2 * (moments @ (h - rest))
        progress = (step / steps - WARM_UP) / (1 - WARM_UP)
        if progress >= 0:
            beta = BETA[1] + (BETA[0] - BETA[1]) * (1 - progress)
            away = 2 * h - 1
            slope -= np.float32(WEIGHT * 2 * beta) * (
                np.sign(away) * np.abs(away) ** np.float32(beta - 1)
            )
        inside = (stretched > 0) & (stretched < 1)
        slope = slope * inside * (sigmoid * (1 - sigmoid) * np.float32(ZETA - GAMMA))
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope * slope
        corrected = np.sqrt(square / np.float32(1 - 0.999 ** (step + 1))) + np.float32(1e-8)
        v = v - np.float32(RATE / (1 - 0.9 ** (step + 1))) * mean / corrected
    up = 1 / (1 + np.exp(-v)) * (ZETA - GAMMA) + GAMMA >= 0.5
    return np.asarray(floor + _descend(up, rest, moments)).astype(np.int8)


def _descend(up: npt.NDArray[np.bool_], rest: _Array, moments: _Array) -> _Array:
    """Turn each rounding that lessens the error (equation 13), row by row, until none does."""
    h = up.astype(np.float32)
    pull = moments @ (h - rest)
    diagonal = np.diagonal(moments, axis1=-2, axis2=-1)
    for _ in range(SWEEPS):
        turned = False
        for row in range(h.shape[-2]):
            change = 1 - 2 * h[..., row, :]
            gain = 2 * change * pull[..., row, :] + diagonal[..., row, None]
            change = np.where(gain < 0, change, np.float32(0))
            if change.any():
                turned = True
                h[..., row, :] += change
                pull += moments[..., :, row, None] * change[..., None, :]
        if not turned:
            break
    return h

"""Rounds a matrix so that its product with typical inputs changes least.

Reference: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, section 3, algorithm 1.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .in_turn import round_in_turn

__all__ = ["gptq_round", "output_error"]

_Floats: TypeAlias = npt.NDArray[np.float64]


def gptq_round(
    weight: npt.NDArray[np.floating[Any]],
    gram: _Floats,
    scale: npt.NDArray[np.floating[Any]],
    *,
    limit: int = 127,
    damping: float = 0.01,
) -> npt.NDArray[np.int8]:
    """Return integers ``q`` with a small ``|X (W - q * scale)|``.

    The rows are rounded one after the other, those of the strongest inputs first; the error
    of each is made up for by the rows that are still to come, as far as their inputs go along
    with its own.

    Args:
        weight: ``[K, N]``.
        gram: ``X^T X``, ``[K, K]``.
        scale: > 0, ``[N]``, or ``[K, N]`` where rows have scales of their own.
        limit: Largest magnitude of an integer.
        damping: Share of the mean of the diagonal that is added to the diagonal.

    Returns:
        int8 ``[K, N]``.
    """
    scales = np.broadcast_to(np.asarray(scale, np.float64), weight.shape)

    def nearest(values: _Floats, row: npt.NDArray[np.intp]) -> _Floats:
        return np.clip(np.rint(values / scales[row]), -limit, limit) * scales[row]

    found = round_in_turn(np.asarray(weight, np.float64), gram, nearest, damping=damping)
    return np.rint(found / scales).astype(np.int8)


def output_error(error: npt.NDArray[np.floating[Any]], gram: _Floats) -> float:
    """Return ``|X E|^2`` for an error ``E`` ``[K, N]`` of the weight."""
    error = np.asarray(error, np.float64)
    return float(np.vdot(error, gram @ error))

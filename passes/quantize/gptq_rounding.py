"""Rounds a matrix so that its product with typical inputs changes least.

Reference: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, section 3, algorithm 1.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["gptq_round", "output_error"]

_Floats: TypeAlias = npt.NDArray[np.float64]

BLOCK = 128
"""Rows rounded before their errors are spread over all later rows: the paper's B."""


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
    rows = len(weight)
    scales = np.broadcast_to(np.asarray(scale, np.float64), weight.shape)
    order = np.argsort(-np.diag(gram), kind="stable")
    upper = _inverse_factor(gram[np.ix_(order, order)], damping)
    left = np.asarray(weight, np.float64)[order]
    scales = scales[order]
    integers = np.zeros(weight.shape, np.int8)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        errors = np.zeros((stop - start, weight.shape[1]))
        for row in range(start, stop):
            q = np.clip(np.rint(left[row] / scales[row]), -limit, limit)
            integers[order[row]] = q
            error = (left[row] - q * scales[row]) / upper[row, row]
            errors[row - start] = error
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], error)
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return integers


def _inverse_factor(gram: _Floats, damping: float) -> _Floats:
    """Return the upper triangular U with ``U^T U = inverse(gram)``."""
    gram = gram.copy()
    diagonal = np.diag(gram).copy()
    # An input that is always 0 says nothing about its row: any rounding is as good.
    diagonal[diagonal == 0] = 1.0
    np.fill_diagonal(gram, diagonal + damping * diagonal.mean())
    # inverse = L^-T L^-1 with gram = L L^T; the factor wanted is that of the inverse.
    inverse = np.linalg.inv(gram)
    inverse = (inverse + inverse.T) / 2
    return np.asarray(np.linalg.cholesky(inverse).T)


def output_error(error: npt.NDArray[np.floating[Any]], gram: _Floats) -> float:
    """Return ``|X E|^2`` for an error ``E`` ``[K, N]`` of the weight."""
    error = np.asarray(error, np.float64)
    return float(np.vdot(error, gram @ error))

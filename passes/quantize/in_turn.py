"""Rounds the rows of a matrix one after the other, each making up for those before it.

Reference: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, section 3, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["round_in_turn"]

_Floats: TypeAlias = npt.NDArray[np.floating[Any]]
_F = TypeVar("_F", np.float32, np.float64)

BLOCK = 128
"""Rows rounded before their errors are spread over all later rows: the paper's B."""


def round_in_turn(
    values: npt.NDArray[_F],
    gram: _Floats,
    nearest: Callable[[npt.NDArray[_F], npt.NDArray[np.intp]], npt.NDArray[_F]],
    *,
    damping: float = 0.01,
) -> npt.NDArray[_F]:
    """Return what ``values`` ``V`` are rounded to, ``R``, with a small ``|X (V - R)|``.

    The rows of the strongest inputs come first; the error of each is made up for by the rows
    that are still to come, as far as their inputs go along with its own.

    Args:
        values: ``[..., K, N]``.
        gram: ``X^T X``, ``[..., K, K]``.
        nearest: Rounds rows ``[..., N]`` whose numbers are ``[...]``.
        damping: Share of the mean of the diagonal, zeros aside, that is added to it.

    Returns:
        An array like ``values``.
    """
    rows = values.shape[-2]
    order = np.argsort(-np.diagonal(gram, axis1=-2, axis2=-1), axis=-1, kind="stable")
    sorted_gram = np.take_along_axis(gram, order[..., :, None], -2)
    sorted_gram = np.take_along_axis(sorted_gram, order[..., None, :], -1)
    upper = _inverse_factor(sorted_gram, damping).astype(values.dtype)
    left = np.take_along_axis(values, order[..., None], -2)
    found = np.empty_like(left)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        errors = np.empty_like(left[..., start:stop, :])
        for row in range(start, stop):
            found[..., row, :] = nearest(left[..., row, :], order[..., row])
            error = left[..., row, :] - found[..., row, :]
            error /= upper[..., row, row, None]
            errors[..., row - start, :] = error
            later = upper[..., row, row + 1 : stop, None]
            left[..., row + 1 : stop, :] -= later * error[..., None, :]
        left[..., stop:, :] -= upper[..., start:stop, stop:].swapaxes(-1, -2) @ errors
    result = np.empty_like(found)
    np.put_along_axis(result, np.broadcast_to(order[..., None], found.shape), found, -2)
    return result


def _inverse_factor(gram: _Floats, damping: float) -> npt.NDArray[np.float64]:
    """Return the upper triangular U with ``U^T U = inverse(gram)``."""
    gram = np.array(gram, np.float64)
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    alive = np.maximum(np.count_nonzero(diagonal, axis=-1, keepdims=True), 1)
    mean = diagonal.sum(axis=-1, keepdims=True) / alive
    # An input that is always 0 says nothing about its row: any rounding is as good.
    mean = np.where(mean > 0, mean, 1.0)
    at = np.arange(gram.shape[-1])
    gram[..., at, at] = np.where(diagonal == 0, mean, diagonal) + damping * mean
    # inverse = L^-T L^-1 with gram = L L^T; the factor wanted is that of the inverse.
    inverse = np.linalg.inv(gram)
    inverse = (inverse + inverse.swapaxes(-1, -2)) / 2
    return np.asarray(np.linalg.cholesky(inverse).swapaxes(-1, -2))

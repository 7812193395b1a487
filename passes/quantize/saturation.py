"""Which layers would saturate on CPUs without VNNI, and what they would compute there.

AVX2, and AVX512 without VNNI, multiply uint8 with int8 by ``VPMADDUBSW``: the products of two
neighbours along the sum are added in 16 bits, with saturation. 255 * 127 * 2 does not fit, so
that a model which is right on a CPU with VNNI is wrong on another. With weights of magnitude
64 or less no pair can reach the limit: 255 * 64 * 2 = 32640.

The neighbours are those of the order in which the kernels sum up: the rows of a matrix; for a
convolution kernel row, kernel column, channel. Depthwise convolutions have kernels of their
own without pair sums.

Reference: onnxruntime 1.31, core/mlas/lib/x86_64/QgemmU8S8KernelAvx2.asm (VPMADDUBSW);
core/providers/cpu/quantization/qlinearconv.cc (im2col of channels-last images).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.calibration.qparams import QParams

from .patch_gram import Geometry, patches

__all__ = ["SAFE_LIMIT", "PairSums", "saturating_product"]

_Integers: TypeAlias = npt.NDArray[np.int32]

SAFE_LIMIT = 64
"""Largest magnitude of a weight with which no pair of products saturates."""
_LOW, _HIGH = -(1 << 15), (1 << 15) - 1
MAX_ROWS = 256
"""Rows of a feed that are looked at."""
_BLOCK = 1 << 22  # pair sums computed at a time


def saturating_product(x: npt.NDArray[np.uint8], w: npt.NDArray[np.int8]) -> _Integers:
    """Return ``x @ w`` as a CPU without VNNI computes it.

    Args:
        x: ``[M, K]``.
        w: ``[K, N]``, its rows in the order of the kernel.

    Returns:
        int32 ``[M, N]``.
    """
    total = np.zeros((len(x), w.shape[1]), np.int32)
    for rows, pairs in _pair_sums(x.astype(np.int32), w.astype(np.int32)):
        total[rows] += np.clip(pairs, _LOW, _HIGH)
    return total


def _pair_sums(x: _Integers, w: _Integers) -> Iterator[tuple[slice, _Integers]]:
    """Yield rows, and their sums of two products ``[rows, N]``, pair by pair."""
    if len(w) % 2:
        x, w = np.pad(x, ((0, 0), (0, 1))), np.pad(w, ((0, 1), (0, 0)))
    step = max(1, _BLOCK // max(1, w.shape[1]))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        for k in range(0, len(w), 2):
            yield rows, x[rows, k, None] * w[k] + x[rows, k + 1, None] * w[k + 1]


class PairSums:
    """Counts the pair sums of a layer that saturate, over streamed inputs.

    Args:
        weight: int8 ``[groups, K, N]`` in the order of the kernel.
        qparams: How the input is quantized.
        geometry: Of a Conv; ``None`` for a product.

    Attributes:
        saturated: Pair sums that did not fit into 16 bits.
    """

    def __init__(
        self, weight: npt.NDArray[np.int8], qparams: QParams, geometry: Geometry | None
    ) -> None:
        odd = weight.shape[1] % 2
        self._weight = np.pad(weight.astype(np.int32), ((0, 0), (0, odd), (0, 0)))
        self._qparams = qparams
        self._geometry = geometry
        self.saturated = 0

    def update(self, values: npt.NDArray[Any], feed: int = 0) -> None:
        """Take in an input of the layer."""
        del feed
        if values.size == 0:
            return
        for weight, x in zip(self._weight, self._rows(values), strict=True):
            self.saturated += _beyond_limit(x, weight)

    def merge(self, other: PairSums) -> None:
        """Add what ``other`` has counted."""
        self.saturated += other.saturated

    def _rows(self, values: npt.NDArray[Any]) -> _Integers:
        """Return the integers that the kernel multiplies, ``[groups, rows, K]``."""
        if self._geometry is None:
            rows = values.reshape(-1, values.shape[-1])
            rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).astype(int)]
            grouped = rows[None]
        else:
            found = patches(values, self._geometry, MAX_ROWS)
            groups = self._geometry.groups
            split = found.reshape(len(found), groups, -1, *found.shape[2:])
            grouped = np.moveaxis(split, 2, -1).reshape(len(found), groups, -1)
            grouped = grouped.transpose(1, 0, 2)
        integers = self._qparams.quantize(grouped).astype(np.int32)
        # onnxruntime makes int8 activations uint8.
        integers -= self._qparams.kind.minimum
        odd = self._weight.shape[1] - integers.shape[2]
        return np.pad(integers, ((0, 0), (0, 0), (0, odd)))


def _beyond_limit(x: _Integers, w: _Integers) -> int:
    """Return how many pair sums of ``x @ w`` do not fit into 16 bits."""
    if not len(x):
        return 0
    top = x.max(axis=0)[:, None]
    # x >= 0, so that most pairs can be ruled out by the largest inputs alone.
    high = np.maximum(w, 0) * top
    low = np.minimum(w, 0) * top
    pairs, columns = np.nonzero(
        (high[0::2] + high[1::2] > _HIGH) | (low[0::2] + low[1::2] < _LOW)
    )
    count = 0
    step = max(1, _BLOCK // len(x))
    for start in range(0, len(pairs), step):
        part, column = pairs[start : start + step], columns[start : start + step]
        sums = (
            x[:, 2 * part] * w[2 * part, column] + x[:, 2 * part + 1] * w[2 * part + 1, column]
        )
        count += int(np.count_nonzero((sums > _HIGH) | (sums < _LOW)))
    return count

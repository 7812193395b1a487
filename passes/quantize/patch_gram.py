"""Second moments of the patches that a Conv multiplies its weight with."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.gram import SecondMoments

__all__ = ["Geometry", "Moments", "PatchGram", "patches"]

MAX_ROWS = 4096
"""Patches of one feed that are looked at: an image has more than its moments need."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where a Conv takes its patches.

    Attributes:
        kernel, strides, dilations: One entry a spatial axis.
        pads: Zeros in front of each spatial axis, then behind each.
        groups: Groups of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int = 1


def patches(
    x: npt.NDArray[Any], geometry: Geometry, max_rows: int = MAX_ROWS
) -> npt.NDArray[Any]:
    """Return patches of ``x`` ``[N, C, spatial...]`` as ``[rows, C, kernel...]``.

    Args:
        x: The input of the Conv.
        geometry: Of the Conv.
        max_rows: Where there are more, so many of them, evenly spread.
    """
    rank = len(geometry.kernel)
    pads = list(zip(geometry.pads[:rank], geometry.pads[rank:], strict=True))
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    spans = [(k - 1) * d + 1 for k, d in zip(geometry.kernel, geometry.dilations, strict=True)]
    if any(size < span for size, span in zip(x.shape[2:], spans, strict=True)):
        return np.zeros((0, x.shape[1], *geometry.kernel), x.dtype)
    spatial = tuple(range(2, 2 + rank))
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=spatial)
    strides = [slice(None, None, stride) for stride in geometry.strides]
    dilations = [slice(None, None, dilation) for dilation in geometry.dilations]
    view = view[(slice(None), slice(None), *strides, *dilations)]
    sizes = (view.shape[0], *view.shape[2 : 2 + rank])
    count = int(np.prod(sizes))
    chosen = np.arange(count) if count <= max_rows else np.arange(max_rows) * count // max_rows
    image, *position = np.unravel_index(chosen, sizes)
    index: tuple[Any, ...] = (image, slice(None), *position)
    return np.asarray(view[index])


class PatchGram(SecondMoments):
    """Sum of ``p p^T`` over patches p, by group: ``[groups, K, K]``, K channels x kernel."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(3)
        self.geometry = geometry

    def update(self, values: npt.NDArray[Any], feed: int = 0) -> None:
        """Take in an array ``[N, C, spatial...]``."""
        del feed
        if values.size == 0:
            return
        rows = patches(np.asarray(values, np.float32), self.geometry)
        if not len(rows):
            return
        rows = rows.reshape(len(rows), self.geometry.groups, -1).transpose(1, 0, 2)
        self.add((rows.transpose(0, 2, 1) @ rows).astype(np.float64), rows.shape[1])


class Moments:
    """Second moments of one tensor for all the layers that read it.

    Attributes:
        parts: Geometry of a Conv -> its patches; a product reads patches of one channel
            vector each.
    """

    def __init__(self) -> None:
        self.parts: dict[Geometry | None, PatchGram] = {}

    def want(self, geometry: Geometry | None) -> None:
        """Ask for the moments of a Conv, or, with ``None``, of a product."""
        pixels = Geometry((), (), (), ())
        self.parts.setdefault(geometry, PatchGram(geometry or pixels))

    def update(self, values: npt.NDArray[Any], feed: int) -> None:
        """Take in an array."""
        for geometry, part in self.parts.items():
            rows = values if geometry else values.reshape(-1, values.shape[-1])
            part.update(rows, feed)

    def merge(self, other: Moments) -> None:
        """Add what ``other`` has taken in."""
        for geometry, part in self.parts.items():
            part.merge(other.parts[geometry])

"""Small pictures of inputs that are images, as PNG files inside the page."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

__all__ = ["picture_of"]

_LEAST = 8
"""Pixels of a side that make an image; less is some other tensor of the same rank."""
_WIDEST, _HIGHEST = 320, 160
"""Pixels of a picture; larger images are thinned out."""


def picture_of(array: np.ndarray) -> str:
    """Return the first image of ``array`` as a data URI; empty where it holds none.

    An image has one or three channels, first or last: ``[N, C, H, W]``, ``[N, H, W, C]``. Its
    values are stretched from black to white, so that any scale and normalization shows.
    """
    image = _image(array)
    if image is None:
        return ""
    step = max(1, -(-image.shape[0] // _HIGHEST), -(-image.shape[1] // _WIDEST))
    image = image[::step, ::step].astype(np.float64) / 2  # the span of float64 is twice that
    finite = np.isfinite(image)
    if not finite.any():
        return ""
    low, high = image[finite].min(), image[finite].max()
    scaled = np.where(finite, image - low, 0) / ((high - low) or 1)
    encoded = base64.b64encode(_png((255 * scaled).astype(np.uint8)))
    return f"data:image/png;base64,{encoded.decode()}"


def _image(array: np.ndarray) -> np.ndarray | None:
    """Return the first image, [H, W, C] with C 1 or 3."""
    if array.ndim != 4 or array.dtype.kind not in "fiu" or not array.shape[0]:
        return None
    first = array[0]
    if first.shape[0] in (1, 3):
        first = first.transpose(1, 2, 0)
    elif first.shape[2] not in (1, 3):
        return None
    return first if min(first.shape[:2]) >= _LEAST else None


def _png(pixels: np.ndarray) -> bytes:
    """Return a PNG file of ``pixels``: uint8 [H, W, C], C 1 (grey) or 3 (colour).

    Format: https://www.w3.org/TR/png-3/ (one IDAT chunk, no filter).
    """
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )

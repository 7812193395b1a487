"""Whether numbers survive as float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.rewrite import Reason

__all__ = ["LARGEST", "round_to_half"]

LARGEST = float(np.finfo(np.float16).max)
"""65504."""
MAX_NOISE = 1e-6
"""Energy of the error over that of the numbers: 60 dB. Numbers of ordinary size keep 70 and
more; those around 1e-5, which float16 has few bits for, lose it."""


def round_to_half(data: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | Reason:
    """Return ``data`` as float16, or why that would lose too much.

    Args:
        data: Any shape, not empty.
    """
    low, high = float(data.min(initial=0.0)), float(data.max(initial=0.0))
    if not (np.isfinite(low) and np.isfinite(high)):
        return Reason("it holds NaN or Inf")
    if max(-low, high) > LARGEST:
        return Reason(f"{max(-low, high):g} is beyond 65504, the largest float16")
    half = data.astype(np.float16)
    noise, signal = _energies(data, half)
    if noise > MAX_NOISE * signal:
        kept = 10 * np.log10(signal / noise)
        return Reason(f"float16 would keep {kept:.0f} dB: its numbers are too small")
    return half


def _energies(data: npt.NDArray[Any], half: npt.NDArray[np.float16]) -> tuple[float, float]:
    """Return the energies of the error and of the numbers, a part at a time."""
    noise = signal = 0.0
    flat, rounded = data.reshape(-1), half.reshape(-1)
    for start in range(0, flat.size, 1 << 20):
        # In float64: the squares of numbers below 1e-19 are no float32.
        part = flat[start : start + (1 << 20)].astype(np.float64)
        error = rounded[start : start + (1 << 20)].astype(np.float64) - part
        noise += float(np.vdot(error, error))
        signal += float(np.vdot(part, part))
    return noise, signal

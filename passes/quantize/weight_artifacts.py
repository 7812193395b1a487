"""How a pass that rounds weights tells the scales to the pass that makes them integers.

A weight that was rounded keeps its type: float32, every element an integer times its scale.
The scale cannot be told from the elements again with certainty, so it is published; so is what
was lost, which cannot be seen any more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.qparams import QParams, channel_absmax, symmetric
from graphopt.passbase import Context

from .linear import finite_array
from .weights import noise_to_signal

__all__ = ["publish_scales", "rounding_noise", "weight_scales"]

_KEY = "quantize/scales"


def publish_scales(
    context: Context, weight: ir.Value, qparams: QParams, original: npt.NDArray[Any]
) -> None:
    """Publish the scales that ``weight`` was rounded with.

    Args:
        context: What the passes share.
        weight: The weight as it is now.
        qparams: Its scales.
        original: What it was before, in the same layout.
    """
    data = finite_array(weight)
    signal = float(np.sum(np.square(original, dtype=np.float64)))
    noise = float(np.sum(np.square(data - original, dtype=np.float64)))
    published = (qparams, noise / signal if signal else 0.0)
    context.artifacts.setdefault(_KEY, {})[weight.name or ""] = published


def weight_scales(context: Context, weight: ir.Value, axis: int | None) -> QParams:
    """Return symmetric int8 parameters for a weight: those it was rounded with, if any.

    Args:
        context: What the passes share.
        weight: A constant.
        axis: Its channel axis; ``None`` for one scale.

    Raises:
        ModelError: It holds NaN or Inf.
    """
    data = finite_array(weight)
    known, _ = context.artifacts.get(_KEY, {}).get(weight.name or "", (None, 0.0))
    # Another pass may have changed the weight since.
    if (
        isinstance(known, QParams)
        and known.axis == axis
        and (axis is None or known.scale.shape == (data.shape[axis],))
        and np.array_equal(known.round_trip(data), data)
    ):
        return known
    return symmetric(channel_absmax(data, axis), axis)


def rounding_noise(context: Context, weight: ir.Value, qparams: QParams) -> float:
    """Return what integers cost a weight: energy of the error over that of the weight.

    Where it was rounded before, what that cost is counted.
    """
    known, noise = context.artifacts.get(_KEY, {}).get(weight.name or "", (None, 0.0))
    if known is not None and np.array_equal(known.scale, qparams.scale):
        return float(noise)
    return noise_to_signal(finite_array(weight), qparams)

"""How a pass that rounds weights tells the scales to the pass that makes them integers.

A weight that was rounded keeps its type: float32, every element an integer times its scale.
The scale cannot be told from the elements again with certainty, so it is published.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.calibration.qparams import QParams, channel_absmax, symmetric
from graphopt.passbase import Context

from .linear import finite_array

__all__ = ["publish_scales", "weight_scales"]

_KEY = "quantize/scales"


def publish_scales(context: Context, weight: ir.Value, qparams: QParams) -> None:
    """Publish the scales that ``weight`` was rounded with."""
    context.artifacts.setdefault(_KEY, {})[weight.name or ""] = qparams


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
    known = context.artifacts.get(_KEY, {}).get(weight.name or "")
    # Another pass may have changed the weight since.
    if (
        isinstance(known, QParams)
        and known.axis == axis
        and (axis is None or known.scale.shape == (data.shape[axis],))
        and np.array_equal(known.round_trip(data), data)
    ):
        return known
    return symmetric(channel_absmax(data, axis), axis)

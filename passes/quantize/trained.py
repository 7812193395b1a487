"""How a model that came quantized was quantized: scales for ``quantize-static`` to keep."""

from __future__ import annotations

import dataclasses

import numpy as np

from graphopt.calibration.qparams import IntType, QParams
from graphopt.passbase import Context

__all__ = ["Trained", "as_kind", "publish_trained", "trained"]

_KEY = "quantize/trained"


@dataclasses.dataclass(frozen=True)
class Trained:
    """Scales that were in a model.

    Attributes:
        activations: Name of a value -> how it was quantized.
        weights: Name of a constant -> how it was quantized, as int8.
    """

    activations: dict[str, QParams] = dataclasses.field(default_factory=dict)
    weights: dict[str, QParams] = dataclasses.field(default_factory=dict)


def publish_trained(context: Context, found: Trained) -> None:
    """Publish scales."""
    context.artifacts[_KEY] = found


def trained(context: Context) -> Trained:
    """Return the scales that were published; empty where there are none."""
    found = context.artifacts.get(_KEY)
    return found if isinstance(found, Trained) else Trained()


def as_kind(qparams: QParams, kind: IntType) -> QParams:
    """Return the same grid of numbers, counted by integers of another type."""
    shift = kind.minimum - qparams.kind.minimum
    zero_point = np.asarray(qparams.zero_point.astype(np.int32) + shift, kind.dtype)
    return QParams(qparams.scale, zero_point, qparams.axis)

"""The scales and zero points of a static quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.calibration.qparams import (
    Degenerate,
    IntType,
    QParams,
    channel_absmax,
    from_range,
    symmetric,
)
from graphopt.passbase import Context

from .linear import finite_array
from .saturation import SAFE_LIMIT
from .trained import as_kind, trained
from .units import Weight
from .weight_artifacts import weight_scales
from .weights import noise_to_signal

if TYPE_CHECKING:
    from .quantize_static import QuantizeStatic

__all__ = ["StaticScales"]


class StaticScales:
    """Chooses scales: those that the model was trained with, or were published, or the best.

    Args:
        options: The pass.
        context: Knows the scales that weights were rounded with, or trained with.

    Attributes:
        kind: Integers of activations.
        trained: How the model was quantized when it came.
        protected: Weights of layers whose sums would saturate on CPUs without VNNI.
    """

    def __init__(self, options: QuantizeStatic, context: Context) -> None:
        self._options = options
        self._context = context
        self.kind = IntType(options.activations)
        self.trained = trained(context)
        self.protected: set[ir.Value] = set()

    def trained_ranges(self) -> dict[str, tuple[float, float]]:
        """Return the ranges of the activations that the model was trained with."""
        return {name: _ends(qparams) for name, qparams in self.trained.activations.items()}

    def activation(
        self, name: str, ends: tuple[float, float], bounds: tuple[float, float] | None
    ) -> QParams:
        """Return how an activation is quantized.

        Args:
            name: Its name.
            ends: Its range.
            bounds: Of the Relu or Clip in front of it, which the Q has to stand for.
        """
        known = self.trained.activations.get(name)
        if known is not None:
            known = as_kind(known, self.kind)
            if bounds is None or _is_inside(_ends(known), bounds):
                return known
        if bounds is None:
            return from_range(*ends, self.kind, is_symmetric=self._options.symmetric)
        low, high = max(ends[0], bounds[0]), min(ends[1], bounds[1])
        return _within(from_range(low, high, self.kind), bounds)

    def weight(self, weight: Weight) -> QParams:
        """Return how a weight is quantized."""
        value = weight.value
        known = self.trained.weights.get(value.name or "")
        data = finite_array(value)
        axis = weight.axis if self._options.per_channel else None
        if value in self.protected:
            qparams = symmetric(channel_absmax(data, axis), axis, SAFE_LIMIT)
        elif known is not None and np.array_equal(known.round_trip(data), data):
            qparams = known
        else:
            qparams = weight_scales(self._context, value, axis)
        return as_kind(qparams, IntType(self._options.weights))

    def constant(self, value: ir.Value) -> QParams:
        """Return how a constant operand of Add, Mul or Concat is quantized."""
        data = finite_array(value)
        known = self.trained.weights.get(value.name or "")
        if (
            known is not None
            and known.axis is None
            and np.array_equal(known.round_trip(data), data)
        ):
            return as_kind(known, self.kind)
        return from_range(float(data.min()), float(data.max()), self.kind)

    def constant_noise(self, value: ir.Value, *, is_factor: bool) -> float:
        """Return the energy of the error of a constant operand over its own.

        A factor scales what it is multiplied with, element by element, so that the small ones
        count as much as the large ones.
        """
        data = np.atleast_1d(finite_array(value))
        try:
            qparams = self.constant(value)
        except Degenerate:
            return 1.0
        if not is_factor:
            return noise_to_signal(data, qparams)
        factors = data[data != 0]
        return float(np.mean(np.square(qparams.round_trip(factors) / factors - 1)))


def _ends(qparams: QParams) -> tuple[float, float]:
    """Return the smallest and the largest number that has an integer."""
    zero, scale = int(qparams.zero_point), float(qparams.scale)
    return (qparams.kind.minimum - zero) * scale, (qparams.kind.maximum - zero) * scale


def _is_inside(ends: tuple[float, float], bounds: tuple[float, float]) -> bool:
    """Whether a range lies within bounds, as far as float32 tells."""
    low, high = np.float32(ends[0]), np.float32(ends[1])
    return bool(np.float32(bounds[0]) <= low and high <= np.float32(bounds[1]))


def _within(qparams: QParams, bounds: tuple[float, float]) -> QParams:
    """Return ``qparams`` with the integers all inside the bounds of a Clip.

    Then the Q saturates where the Clip would, and the Clip can go.
    """
    low, high = bounds
    kind, zero = qparams.kind, float(qparams.zero_point)
    scale = float(qparams.scale)
    below, above = zero - kind.minimum, kind.maximum - zero
    if below:
        scale = min(scale, -low / below)
    if above:
        scale = min(scale, high / above)
    return QParams(np.array(scale, np.float32), qparams.zero_point)

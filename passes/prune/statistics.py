"""Re-estimation of BatchNormalization: the statistics of what the smaller model gives it.

Sums over the rows of every channel are all that is kept. From those of the rows held out
follows how far the old statistics, a new mean, and a new mean and variance miss what the
original returned; the best of them stay.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.edit import Edit

from .layers import put_constant

__all__ = ["ChannelMoments", "Norm", "norm_of"]


class ChannelMoments:
    """Sums over rows, one entry a channel.

    Attributes:
        count: Rows seen.
        x, xx, xy, y, yy: Sums of what goes in, of what should come out and of their products:
            float64 ``[C]``.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.x, self.xx, self.xy, self.y, self.yy = np.zeros((5, channels))

    def update(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Take in rows ``[n, C]`` and what should come of them ``[n, C]``."""
        x, y = rows.astype(np.float64), targets.astype(np.float64)
        self.count += len(x)
        self.x += x.sum(axis=0)
        self.y += y.sum(axis=0)
        for total, a, b in ((self.xx, x, x), (self.xy, x, y), (self.yy, y, y)):
            total += np.einsum("ij,ij->j", a, b)

    def error(self, scale: np.ndarray, shift: np.ndarray) -> float:
        """Return the square error of ``scale * x + shift``, as a share of that of zero."""
        found = (
            scale**2 * self.xx
            + 2 * scale * shift * self.x
            + self.count * shift**2
            - 2 * scale * self.xy
            - 2 * shift * self.y
            + self.yy
        )
        return max(float(found.sum()), 0.0) / (float(self.yy.sum()) or 1.0)

    @property
    def is_finite(self) -> bool:
        """Whether it has seen something, and no NaN or Inf."""
        return self.count > 0 and bool(np.isfinite(self.xx + self.yy).all())


@dataclasses.dataclass(frozen=True, eq=False)
class Norm:
    """A BatchNormalization with constant statistics.

    Attributes:
        node: The node.
    """

    node: ir.Node

    @property
    def x(self) -> ir.Value:
        """What goes in."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def y(self) -> ir.Value:
        """What comes out."""
        return self.node.outputs[0]

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return ``x`` ``[N, C, ...]`` as ``[rows, C]``."""
        return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])

    def parameter(self, index: int) -> np.ndarray:
        """Return an input: 1 scale, 2 shift, 3 mean, 4 variance; float64 ``[C]``."""
        tensor = tensor_of(self.node.inputs[index])
        assert tensor is not None
        return tensor.numpy().astype(np.float64)

    def affine(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what these statistics multiply a channel by and add to it."""
        epsilon = attribute(self.node, "epsilon", 1e-5)
        scale = self.parameter(1) / np.sqrt(variance + epsilon)
        return scale, self.parameter(2) - scale * mean

    def set(self, edit: Edit, mean: np.ndarray, variance: np.ndarray) -> None:
        """Give the node other statistics."""
        for index, data in ((3, mean), (4, variance)):
            tensor = tensor_of(self.node.inputs[index])
            assert tensor is not None
            put_constant(edit, self.node, index, data.astype(tensor.dtype.numpy()))


def norm_of(node: ir.Node) -> Norm | str:
    """Return the normalization that ``node`` is, or why its statistics stay."""
    if node.domain or node.op_type != "BatchNormalization":
        return "it is no BatchNormalization"
    if attribute(node, "training_mode", 0) or len(node.outputs) > 1:
        return "it is in training mode"
    if node.inputs[0] is None or node.inputs[0].is_initializer():
        return "its first input is an initializer"
    if any(tensor_of(value) is None for value in node.inputs[1:5]):
        return "its statistics are not constant"
    return Norm(node)

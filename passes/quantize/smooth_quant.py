"""Move the spread of activations into the weights, so that 8 bits are enough for both.

Before -> after (W is MatMul's or Gemm's; s has one entry a channel of x)::

    y = MatMul(x, W)                       ->   y = MatMul(Mul(x, 1 / s), diag(s) W)
    x = LayerNormalization(t, g, b)        ->   x = LayerNormalization(t, g / s, b / s)
    y = MatMul(x, W)                            y = MatMul(x, diag(s) W)

One scale holds for all of x, so a single channel with large values leaves few steps for the
others. Dividing it and multiplying its row of W changes nothing in the product and makes both
easier to round. Operators that read the same x share s. Where a LayerNormalization makes x and
nothing but these operators reads it, s goes into its weights and costs nothing; elsewhere,
also where x feeds a residual, a Mul is inserted.

The choice of s: the energy of the error of ``x @ W`` is estimated, for 8-bit x with one scale
and int8 W with one an output channel, as

    mean(D^2) / 12 * sum_j s_j^2 |W_j|^2  +  sum_n d_n^2 / 12 * sum_j E[x_j^2] / s_j^2

    D = range(x / s) / 255 in a feed,   d_n = max_j |s_j W_jn| / 127

and the best is taken of ``s_j = max|x_j|^a / max|W_j|^(1 - a)`` with a from 0.3 to 1 (the
paper's equation 4) and of ``s_j = max(max|x_j| / t, 1)`` with t among the quantiles of
``max|x_j|``.

Preconditions, per group of operators that read the same x:
    1. Selected by ``include`` and ``exclude``; in the main graph; read by ``quantize-dynamic``
       as products with a constant float32 matrix.
    2. No other operator uses their weights.
    3. On the samples x is finite and not only 0.
    4. The estimated error falls by ``min_gain_db`` at least.

Numerics: close; each product is rounded twice more. Measured: 2e-6 of the largest output.
Scope: main graph.   Leaves alone: Conv.
Reference: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models", ICML 2023, section 4, equations 3 and 4.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.channels import ChannelStatistics
from graphopt.calibration.collect import accumulate
from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewriter import Rewriter

from .linear import Linear, finite_array
from .linear_groups import linear_groups, set_weight
from .selection import label

__all__ = ["SmoothQuant"]

logger = logging.getLogger(__name__)

_Floats: TypeAlias = npt.NDArray[np.float64]

_POWERS = np.arange(0.3, 1.01, 0.05)
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97)


@dataclasses.dataclass(frozen=True)
class SmoothQuant(Pass):
    """Scale the channels of activations; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators to smooth (an operator type, or a glob for the name of
            a node or of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        min_gain_db: Least fall of the estimated error, in dB, that is worth a Mul.
    """

    name: ClassVar[str] = "smooth-quant"
    promise: ClassVar[Promise] = Promise.CLOSE
    needs_samples: ClassVar[bool] = True

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_gain_db: float = 1.0

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Choose a scale for each activation, then apply them one by one."""
        rewriter = context.rewriter(model, self)
        # 1. and 2.
        groups = linear_groups(model, self, rewriter)
        samples = context.required_samples(self)
        statistics = (
            accumulate(model, {name: ChannelStatistics() for name in groups}, samples, context)
            if groups
            else {}
        )
        count = 0
        for name, group in groups.items():
            scale = self._scale(group, statistics[name], rewriter)
            if scale is None:
                continue
            rewrite = functools.partial(_smooth, group=group, scale=scale)
            if rewriter.apply(self.name, group[0].node, rewrite) is not None:
                count += 1
        summary = f"smoothed {count} of {len(groups)} activations"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)

    def _scale(
        self, group: list[Linear], stats: ChannelStatistics, rewriter: Rewriter
    ) -> npt.NDArray[np.float32] | None:
        """Return the best s for a group, ``None`` if none is worth it."""
        anchor = group[0].node
        # 3.
        if not stats.is_finite or not stats.energy.any():
            rewriter.skip(self.name, anchor, "its activation is not finite, or nothing but 0")
            return None
        weight = np.concatenate([linear.matrix() for linear in group], axis=1)
        plain = _error(stats, weight, np.ones(len(weight)))
        best, scale = plain, np.ones(len(weight))
        for candidate in _candidates(stats, weight):
            error = _error(stats, weight, candidate)
            if error < best:
                best, scale = error, candidate
        # 4.
        gain = 10 * np.log10(plain / best) if best else 0.0
        if gain < self.min_gain_db:
            rewriter.skip(self.name, anchor, f"smoothing would gain {gain:.1f} dB only")
            return None
        logger.debug("%s: %r gains %.1f dB", self.name, label(anchor), gain)
        return scale.astype(np.float32)


def _candidates(
    stats: ChannelStatistics, weight: npt.NDArray[np.float32]
) -> Iterator[_Floats]:
    x = np.maximum(-stats.low, stats.high).astype(np.float64)
    w = np.abs(weight).max(axis=1).astype(np.float64)
    # Channels that are always 0, or are multiplied with zeros, can have any scale.
    alive = (x > 0) & (w > 0)
    x, w = np.where(alive, x, 1.0), np.where(alive, w, 1.0)
    if not alive.any():
        return
    for power in _POWERS:
        yield _tame(x**power / w ** (1 - power), alive)
    for quantile in _QUANTILES:
        yield _tame(np.maximum(x / np.quantile(x[alive], quantile), 1.0), alive)


def _tame(scale: _Floats, alive: npt.NDArray[np.bool_]) -> _Floats:
    """Return ``scale`` around 1, between 1e-5 and 1e5: products stay far from overflow."""
    scale = scale / np.exp(np.log(scale[alive]).mean())
    return np.where(alive, np.clip(scale, 1e-5, 1e5), 1.0)


def _error(stats: ChannelStatistics, weight: npt.NDArray[np.float32], scale: _Floats) -> float:
    """Return the estimated energy of the error of a row of ``x @ W`` (module docstring)."""
    x_step = stats.mean_square_range(scale) / 255**2
    squares = np.einsum("kn,kn->k", weight, weight, dtype=np.float64)
    w_steps = np.abs(weight * scale[:, None]).max(axis=0) / 127
    energy = stats.energy / stats.count
    of_x = x_step * float(np.sum(scale**2 * squares))
    of_w = float(np.sum(w_steps**2)) * float(np.sum(energy / scale**2))
    return (of_x + of_w) / 12


def _smooth(edit: Edit, group: list[Linear], scale: npt.NDArray[np.float32]) -> None:
    x, anchor = group[0].x, group[0].node
    for linear in group:
        factors = scale[None, :] if linear.is_transposed else scale[:, None]
        set_weight(edit, linear, (linear.stored() * factors).astype(np.float32))
    norm = x.producer()
    readers = {linear.node for linear in group}
    if norm is not None and set(x.consumers()) <= readers and _has_own_weights(norm):
        for value in norm.inputs[1:3]:
            if value is not None:
                edit.set_tensor(value, (finite_array(value) / scale).astype(np.float32))
        edit.note(f"scaled the {len(scale)} channels of {norm.op_type} {label(norm)!r}")
        return
    inverse = edit.constant(np.float32(1) / scale, f"{x.name}_smooth", near=anchor)
    (smooth,) = edit.node(
        "Mul", [x, inverse], before=anchor, like=[x], name=f"{label(anchor)}_smooth"
    )
    for linear in group:
        edit.set_input(linear.node, 0, smooth)
    edit.note(f"scaled {len(scale)} channels by a Mul")


def _has_own_weights(norm: ir.Node) -> bool:
    """Whether ``norm`` is a LayerNormalization whose weights nothing else uses."""
    if norm.op_type != "LayerNormalization" or norm.domain:
        return False
    if any(value.uses() for value in norm.outputs[1:]) or norm.outputs[0].is_graph_output():
        return False
    for value in norm.inputs[1:3]:
        if value is None:
            continue
        tensor = tensor_of(value)
        if tensor is None or not value.is_initializer() or len(value.uses()) != 1:
            return False
        if len(tensor.shape) != 1 or tensor.dtype != ir.DataType.FLOAT:
            return False
    return True

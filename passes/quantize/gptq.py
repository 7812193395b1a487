"""Round weights to the int8 grid so that the products, not the weights, change least.

Before -> after::

    y = MatMul(x, W)   ->   y = MatMul(x, W'),   W' = s * q,   q integer in -127..127

Rounding each weight to its nearest integer is best for the weight. For ``x @ W`` it pays to
round some the other way, so that errors cancel on the inputs that occur: the rows of W are
rounded one by one, and the error of each is made up for in the rows to come, weighted by the
second moments ``X^T X`` of the inputs on the samples. The weight stays float32 and the scales
are published for ``quantize-dynamic`` and ``quantize-static``, which turn it into just these
integers.

Preconditions, per operator:
    1. Selected by ``include`` and ``exclude``; in the main graph; read by ``quantize-dynamic``
       as a product with a constant float32 matrix.
    2. No operator that reads another activation uses its weight.
    3. On the samples its input is finite and not only 0.
    4. The error of the products falls; otherwise the weight is left as it is.

Numerics: lossy; a weight may be off by more than half a step, its products are off by less.
Scope: main graph.   Leaves alone: Conv, tables.
Reference: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, algorithm 1.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.collect import accumulate
from graphopt.calibration.gram import Gram
from graphopt.calibration.qparams import QParams, channel_absmax, symmetric
from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason

from .gptq_rounding import gptq_round, output_error
from .linear import Linear
from .linear_groups import linear_groups, set_weight
from .weight_artifacts import publish_scales

__all__ = ["Gptq"]

logger = logging.getLogger(__name__)

MEMORY_BYTES = 1 << 29
"""Second moments kept at a time; where they take more, the samples are run again."""


@dataclasses.dataclass(frozen=True)
class Gptq(Pass):
    """Round weights by what it does to products; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators (an operator type, or a glob for the name of a node or
            of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        damping: Share of the mean second moment added to each input's own: the larger, the
            closer to plain rounding.
    """

    name: ClassVar[str] = "gptq"
    promise: ClassVar[Promise] = Promise.LOSSY
    needs_samples: ClassVar[bool] = True
    after: ClassVar[frozenset[str]] = frozenset({"smooth-quant"})

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {self.damping:g}")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Measure the inputs, then round the weights one by one."""
        rewriter = context.rewriter(model, self)
        # 1. and 2.
        groups = linear_groups(model, self, rewriter)
        samples = context.required_samples(self)
        # All of them before the first is changed, so that each is rounded for the inputs that
        # the float model gives it, and does not depend on which others are rounded.
        rounded: list[_Rounded] = []
        for part in _portions(groups):
            grams = accumulate(model, {name: Gram() for name in part}, samples, context)
            for name, group in part.items():
                for linear in group:
                    found = self._round(linear, grams[name])
                    if isinstance(found, Reason):
                        rewriter.skip(self.name, linear.node, found.text)
                    else:
                        rounded.append(found)
        count = 0
        for one in rounded:
            rewrite = functools.partial(_apply, one=one, context=context)
            count += rewriter.apply(self.name, one.linear.node, rewrite) is not None
        summary = f"rounded {count} of {sum(map(len, groups.values()))} weights"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)

    def _round(self, linear: Linear, gram: Gram) -> _Rounded | Reason:
        # 3.
        if not gram.is_finite or not gram.matrix.any():
            return Reason("its activation is not finite, or nothing but 0")
        weight = linear.matrix()
        qparams = symmetric(channel_absmax(weight, 1), 1)
        plain = output_error(qparams.round_trip(weight) - weight, gram.matrix)
        integers = gptq_round(weight, gram.matrix, qparams.scale, damping=self.damping)
        error = output_error(qparams.dequantize(integers) - weight, gram.matrix)
        # 4.
        if error >= plain:
            return Reason("plain rounding loses no more")
        return _Rounded(linear, integers, qparams, 10 * float(np.log10(plain / error)))


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """A weight that was rounded.

    Attributes:
        linear: Its operator.
        integers: int8 ``[K, N]``.
        qparams: One scale a column.
        gain_db: By how much the error of the products falls.
    """

    linear: Linear
    integers: npt.NDArray[np.int8]
    qparams: QParams
    gain_db: float


def _apply(edit: Edit, one: _Rounded, context: Context) -> None:
    linear, qparams = one.linear, one.qparams
    data = qparams.dequantize(one.integers)
    stored = np.ascontiguousarray(data.T if linear.is_transposed else data)
    original = linear.stored()
    scales = QParams(qparams.scale, qparams.zero_point, linear.channel_axis)
    publish_scales(context, set_weight(edit, linear, stored), scales, original)
    edit.note(f"the error of its products falls by {one.gain_db:.1f} dB")


def _portions(groups: Mapping[str, list[Linear]]) -> Iterator[dict[str, list[Linear]]]:
    """Yield the groups in portions whose second moments fit into memory together."""
    portion: dict[str, list[Linear]] = {}
    size = 0
    for name, group in groups.items():
        needed = 8 * len(group[0].matrix()) ** 2
        if portion and size + needed > MEMORY_BYTES:
            yield portion
            portion, size = {}, 0
        portion[name] = group
        size += needed
    if portion:
        yield portion

"""Round weights up or down, whichever keeps the answers of their layer.

Before -> after (also Gemm and MatMul)::

    y = Conv(x, W, B)   ->   y = Conv(x, W', B),   W' = s * q,   q = floor(W / s) or one more

Each weight is rounded to one of the two integers next to it, chosen such that
``|W x - W' x|^2`` over the samples is small (equation 13). It depends on them through the
second moments of x alone, which are streamed, so that the choice is made in numpy without
seeing a sample again: rows in turn, each making up for those before it, with the best few ways
kept where the rows are few; then one weight at a time as long as that pays. The paper's
relaxation (equations 21 to 25) was tried: less gain in 2 to 14 times the time.
The weight stays float32 and the scales are published for ``quantize-static``, which turns it
into just these integers.

Preconditions, per layer:
    1. Selected by ``include`` and ``exclude``; in the main graph.
    2. Conv (without ``auto_pad``), Gemm or MatMul with a constant weight that nothing else
       uses.
    3. An output is the sum of ``max_inputs`` products at most: moments take the square.
    4. On the samples its input is finite and not only 0.
    5. The error falls; otherwise the weight is left as it is.

Numerics: lossy; a weight is off by a step at most, its products by less than with half a step.
Scope: main graph.   Leaves alone: tables.
Reference: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
ICML 2020, equation 13; Frantar et al., "GPTQ", ICLR 2023, algorithm 1.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.collect import accumulate
from graphopt.calibration.qparams import QParams, channel_absmax, symmetric
from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason

from .adaround_rounding import adaround
from .layer_weights import own_weight, read_layer, set_constant
from .patch_gram import Moments, PatchGram
from .product_layer import ProductLayer, read_geometry
from .selection import Selection
from .units import Unit
from .weight_artifacts import publish_scales

__all__ = ["AdaRound"]

logger = logging.getLogger(__name__)

_Array: TypeAlias = npt.NDArray[Any]

MEMORY_BYTES = 1 << 29
"""Second moments kept at a time; where they take more, the samples are run again."""


@dataclasses.dataclass(frozen=True)
class AdaRound(Pass):
    """Round weights by what it does to their layer; see the module docstring.

    Attributes:
        include: Patterns of operators (an operator type, or a glob for the name of a node or
            of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        max_inputs: Products summed up in an output, at most.
    """

    name: ClassVar[str] = "adaround"
    promise: ClassVar[Promise] = Promise.LOSSY
    needs_samples: ClassVar[bool] = True
    after: ClassVar[frozenset[str]] = frozenset({"equalize-layers", "smooth-quant"})

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_inputs: int = 2304

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Measure the inputs, then round the weights one by one."""
        rewriter = context.rewriter(model, self)
        selection = Selection(self.include, self.exclude)
        selection.check(model.graph)
        layers: list[ProductLayer] = []
        for node in model.graph:
            layer = self._read(node, selection)
            if isinstance(layer, Reason):
                rewriter.skip(self.name, node, layer.text)
            elif layer is not None:
                layers.append(layer)
        samples = context.required_samples(self)
        task = context.progress.track("rounding", len(layers))
        # All of them before the first is changed: each is rounded for the inputs that the
        # float model gives it.
        rounded: list[tuple[ProductLayer, _Rounded]] = []
        for part in _portions(layers):
            empty: dict[str, Moments] = {}
            for layer in part:
                empty.setdefault(layer.x.name or "", Moments()).want(layer.geometry)
            found = accumulate(model, empty, samples, context)
            for layer in part:
                moments = found[layer.x.name or ""].parts[layer.geometry]
                result = self._round(layer, moments)
                task.advance()
                if isinstance(result, Reason):
                    rewriter.skip(self.name, layer.unit.node, result.text)
                else:
                    rounded.append((layer, result))
        task.close()
        count = 0
        for layer, result in rounded:
            rewrite = functools.partial(_apply, layer=layer, one=result, context=context)
            count += rewriter.apply(self.name, layer.unit.node, rewrite) is not None
        summary = f"rounded {count} of {len(layers)} weights"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)

    def _read(self, node: ir.Node, selection: Selection) -> ProductLayer | Reason | None:
        unit = read_layer(node)
        # 2.
        if not isinstance(unit, Unit):
            return unit
        # 1.
        if refusal := selection.refusal(node):
            return Reason(refusal)
        # 2.
        if not own_weight(unit):
            return Reason("another operator uses its weight")
        geometry = read_geometry(unit)
        if isinstance(geometry, Reason):
            return geometry
        layer = ProductLayer(unit, geometry)
        # 3.
        if layer.inputs > self.max_inputs:
            return Reason(f"its outputs are sums of {layer.inputs} products")
        return layer

    def _round(self, layer: ProductLayer, moments: PatchGram) -> _Rounded | Reason:
        # 4.
        if not (moments.is_finite and moments.matrix.any()):
            return Reason("its activation is not finite, or nothing but 0")
        w = layer.array()
        qparams = symmetric(channel_absmax(w, layer.axis), layer.axis)
        weight = layer.as_products(w)
        scale = layer.as_products(
            np.broadcast_to(qparams.scale.reshape(layer.column), w.shape)
        )
        integers = adaround(weight, moments.matrix, scale)

        def error(q: _Array) -> float:
            off = (q * scale - weight).astype(np.float64)
            return float(np.vdot(off, moments.matrix @ off))

        plain, found = error(layer.as_products(qparams.quantize(w))), error(integers)
        # 5.
        if found >= plain:
            return Reason("plain rounding loses no more")
        gain = 10 * float(np.log10(plain / found)) if found else np.inf
        return _Rounded(layer.as_stored(integers), qparams, gain)


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """A weight that was rounded: int8 as it is stored, and by how much the error fell."""

    integers: npt.NDArray[np.int8]
    qparams: QParams
    gain_db: float


def _apply(edit: Edit, layer: ProductLayer, one: _Rounded, context: Context) -> None:
    data = np.ascontiguousarray(one.qparams.dequantize(one.integers))
    weight = layer.unit.weight
    assert weight is not None
    ((user, index),) = [(use.node, use.idx) for use in weight.value.uses()]
    original = layer.array()
    publish_scales(context, set_constant(edit, user, index, data), one.qparams, original)
    edit.note(f"the error of its answers falls by {one.gain_db:.1f} dB")


def _portions(layers: Sequence[ProductLayer]) -> Iterator[list[ProductLayer]]:
    """Yield the layers in portions whose second moments fit into memory together."""
    portion: list[ProductLayer] = []
    size = 0
    for layer in layers:
        groups = 1 if layer.geometry is None else layer.geometry.groups
        needed = 8 * groups * layer.inputs**2
        if portion and size + needed > MEMORY_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(layer)
        size += needed
    if portion:
        yield portion

"""Equalize the channels between two layers, so that one scale fits all of them.

Before -> after (s has one entry a channel of a; f is Relu or the like)::

    a = Conv(x, W1, B1)           ->   a' = Conv(x, W1 / s, B1 / s)
    y = Conv(f(a), W2, B2)             y  = Conv(f(a'), W2 * s, B2)

A channel with large weights in W1 has large activations, and leaves few of the 256 integers
to the other channels of a; where a weight has one scale for all channels
(``quantize-static{per-channel=false}``) so it does in W1. With

    s_i = sqrt(r1_i r2_i) / r2_i,   r1_i = max|W1 of output i|,  r2_i = max|W2 of input i|

(equation 11) both weights end up with the range ``sqrt(r1_i r2_i)`` in channel i. Layers in a
row share channels with two neighbours; all are gone over until nothing changes. No data are
needed.

Preconditions, per layer:
    1. Selected by ``include`` and ``exclude``; in the main graph.
    2. Conv, Gemm or MatMul (with the Add of its bias) with a constant weight, which nothing
       else uses; the same holds for all layers that read its result.
    3. Between them are only operators with ``f(s x) = s f(x)`` for s > 0: Relu, LeakyRelu,
       PRelu, pooling, Flatten of one pixel. Not Clip (Relu6): its bound would have to be
       scaled by channel, and what clips by channel cannot be left to a Q, which saturates at
       one bound, so that onnxruntime would run the layers around it in float. What was tried
       instead is told in docs/quantize.md.
    4. Nothing else reads the values in between, and none is a graph output.
    5. Some channel is scaled by ``min_factor`` at least.

Numerics: close; each weight is rounded once more. Measured: 4e-6 of the largest output.
Scope: main graph.   Leaves alone: layers in front of a residual Add, Relu6, gates.
Reference: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1, equations 9 to 11.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason

from .equalization import Pair, best_scales, read_pair
from .layer_weights import read_layer, scale_inputs, scale_outputs, set_constant
from .linear import finite_array
from .selection import Selection
from .units import Unit

__all__ = ["EqualizeLayers"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Equalize channels between layers; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators whose outputs are scaled (an operator type, or a glob
            for the name of a node or of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        min_factor: Largest scale of a channel, or the inverse of the smallest, from which on a
            pair is worth an edit.
    """

    name: ClassVar[str] = "equalize-layers"
    promise: ClassVar[Promise] = Promise.CLOSE

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_factor: float = 1.1

    def __post_init__(self) -> None:
        if not self.min_factor > 1:
            raise ValueError(f"min-factor must be above 1, got {self.min_factor:g}")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Find the pairs, choose all scales together, then apply them pair by pair."""
        rewriter = context.rewriter(model, self)
        selection = Selection(self.include, self.exclude)
        selection.check(model.graph)
        layers: dict[ir.Node, Unit] = {}
        for node in model.graph:
            layer = read_layer(node)
            if isinstance(layer, Unit):
                layers[node] = layer
            elif isinstance(layer, Reason):
                rewriter.skip(self.name, node, layer.text)
        pairs: list[Pair] = []
        for node, unit in layers.items():
            # 1. to 4.
            refusal = selection.refusal(node)
            pair = Reason(refusal) if refusal else read_pair(unit, layers)
            if isinstance(pair, Reason):
                rewriter.skip(self.name, node, pair.text)
            else:
                pairs.append(pair)
        count = 0
        for pair, scale in zip(pairs, best_scales(pairs), strict=True):
            # 5.
            if np.abs(np.log(scale)).max(initial=0.0) < np.log(self.min_factor):
                rewriter.skip(self.name, pair.first.node, "its channels are equal already")
                continue
            rewrite = functools.partial(_equalize, pair=pair, scale=scale)
            count += rewriter.apply(self.name, pair.first.node, rewrite) is not None
        summary = f"equalized {count} of {len(layers)} layers"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)


def _equalize(edit: Edit, pair: Pair, scale: npt.NDArray[np.float64]) -> None:
    first = _again(pair.first)
    _set_weight(edit, first, scale_outputs(first, _data(first), 1 / scale))
    if first.bias is not None:
        user, index = first.bias
        bias = user.inputs[index]
        assert bias is not None
        data = finite_array(bias).astype(np.float64)
        set_constant(edit, user, index, (data / scale).astype(np.float32))
    for second in map(_again, pair.seconds):
        _set_weight(edit, second, scale_inputs(second, _data(second), scale))
    edit.note(f"scaled {len(scale)} channels by {scale.min():.2g} to {scale.max():.2g}")


def _again(unit: Unit) -> Unit:
    """Return ``unit`` as it is now: another pair may have given it another weight."""
    layer = read_layer(unit.node)
    assert isinstance(layer, Unit)
    return layer


def _data(unit: Unit) -> npt.NDArray[np.float64]:
    assert unit.weight is not None
    return finite_array(unit.weight.value).astype(np.float64)


def _set_weight(edit: Edit, unit: Unit, data: npt.NDArray[np.float64]) -> None:
    """Give the weight of ``unit``, which nothing else uses, other elements."""
    assert unit.weight is not None
    ((user, index),) = [(use.node, use.idx) for use in unit.weight.value.uses()]
    set_constant(edit, user, index, data.astype(np.float32))

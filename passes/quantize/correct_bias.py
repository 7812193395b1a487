"""Correct biases for what quantization shifts: the means of the channels stay.

Before -> after (D is what the mean of each channel was shifted by)::

    y = Conv(DQ(Q(x)), DQ(W8), DQ(B32))   ->   y = Conv(DQ(Q(x)), DQ(W8), DQ(B32 - D / s))

Rounding errors of weights and clipped activations do not cancel: they shift the mean of an
output channel, by

    D = E[y'] - E[y] = E[W' x'] - E[W x]

(equations 16 and 17), and a shift is passed on by all layers behind. Here both means are
measured on the samples: those of the float model in one run over them, those of the quantized
one level by level, each after the levels before it were corrected (the paper's appendix D,
"empirical bias correction"). Activations and weights are not touched and the speed stays.

Preconditions, per layer:
    1. ``quantize-static`` has quantized it earlier in the same pipeline.
    2. Conv, Gemm, or MatMul with an Add behind it whose other operand is a constant vector; a
       Conv or Gemm without a bias gets one. Selected by ``include`` and ``exclude``.
    3. The means are finite, and D is half a step of the bias at least in some channel.
For all layers together:
    4. On the samples the outputs come closer to those of the float model.

Numerics: lossy; the mean of each channel is off by half a step of the bias where the levels
above keep theirs.
Scope: main graph.   Leaves alone: products without a bias, dynamic quantization.
Reference: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2, equations 16 and 17, and appendix D.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.collect import accumulate
from graphopt.ledger import Ledger
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewrite import Reason
from graphopt.rewriter import Rewriter
from graphopt.samples import Samples

from .bias_edit import correct_bias, shift_in_steps
from .bias_layers import BiasLayer, ChannelMeans, levels, read_bias_layer
from .float_twin import FloatTwin, take_twin
from .selection import Selection

__all__ = ["CorrectBias"]

logger = logging.getLogger(__name__)

_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class CorrectBias(Pass):
    """Correct biases after quantization; see the module docstring for the contract.

    Attributes:
        include: Patterns of operators (an operator type, or a glob for the name of a node or
            of its output); empty: all.
        exclude: Patterns of operators to leave alone.
        samples: Samples to measure the means on, at most: each level of layers is a run over
            them.
    """

    name: ClassVar[str] = "correct-bias"
    promise: ClassVar[Promise] = Promise.LOSSY
    needs_samples: ClassVar[bool] = True
    after: ClassVar[frozenset[str]] = frozenset({"quantize-static"})

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    samples: int = 32

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be 1 at least, got {self.samples}")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Measure on a copy, level by level; then correct the model, layer by layer."""
        rewriter = context.rewriter(model, self)
        samples = context.required_samples(self).take(self.samples)
        twin = take_twin(context)
        # 1.
        layers = [] if twin is None else self._layers(model, twin, rewriter)
        if twin is None or not layers:
            return PassResult(
                model, modified=False, summary="nothing was quantized statically"
            )
        shifts = self._measure(model, twin, layers, samples, context)
        before, after = (
            _output_error(twin.model, one, samples, context)
            for one in (model, _corrected(model, shifts, context))
        )
        # 4.
        if not after < before:
            rewriter.skip(self.name, model.graph.name or "", "the outputs come no closer")
            return PassResult(model, modified=False, summary="the outputs come no closer")
        count = 0
        for layer in layers:
            # 3.
            shift = shifts.get(layer.node)
            if shift is None:
                rewriter.skip(self.name, layer.node, "its channels keep their means")
                continue
            rewrite = functools.partial(correct_bias, layer=layer, shift=shift)
            count += rewriter.apply(self.name, layer.node, rewrite) is not None
        gain = 10 * np.log10(before / max(after, 1e-30))
        summary = f"corrected {count} of {len(layers)} biases: {gain:.1f} dB closer"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, count > 0, summary)

    def _layers(self, model: ir.Model, twin: FloatTwin, rewriter: Rewriter) -> list[BiasLayer]:
        selection = Selection(self.include, self.exclude)
        selection.check(model.graph)
        layers = []
        for node in model.graph:
            layer = read_bias_layer(node) if node in twin.nodes else None
            # 2.
            if isinstance(layer, BiasLayer) and (refusal := selection.refusal(node)):
                layer = Reason(refusal)
            if isinstance(layer, BiasLayer):
                layers.append(layer)
            elif isinstance(layer, Reason):
                rewriter.skip(self.name, node, layer.text)
        return layers

    def _measure(
        self,
        model: ir.Model,
        twin: FloatTwin,
        layers: Sequence[BiasLayer],
        samples: Samples,
        context: Context,
    ) -> dict[ir.Node, _Floats]:
        """Return layer -> D, for those that are shifted."""
        float_names = {
            layer.node: twin.nodes[layer.user].outputs[0].name or "" for layer in layers
        }
        empty = {float_names[layer.node]: ChannelMeans(layer.axis) for layer in layers}
        real = accumulate(twin.model, empty, samples, context)
        shifts: dict[ir.Node, _Floats] = {}
        for level in levels(layers, model.graph):
            copy = _corrected(model, shifts, context)
            empty = {layer.result.name or "": ChannelMeans(layer.axis) for layer in level}
            found = accumulate(copy, empty, samples, context)
            for layer in level:
                shift = (
                    found[layer.result.name or ""].mean()
                    - real[float_names[layer.node]].mean()
                )
                # 3.
                if (
                    np.isfinite(shift).all()
                    and np.abs(shift_in_steps(layer, shift)).max() >= 0.5
                ):
                    shifts[layer.node] = shift
        return shifts


def _corrected(
    model: ir.Model, shifts: Mapping[ir.Node, _Floats], context: Context
) -> ir.Model:
    """Return a copy of ``model`` with corrected biases; it shares the other weights."""
    copy = model.clone()
    nodes = dict(zip(model.graph, copy.graph, strict=True))
    rewriter = Rewriter(copy, CorrectBias.name, Ledger())
    for node, shift in shifts.items():
        layer = read_bias_layer(nodes[node])
        assert isinstance(layer, BiasLayer)
        rewriter.apply(
            CorrectBias.name,
            layer.node,
            functools.partial(correct_bias, layer=layer, shift=shift),
        )
    return copy


def _output_error(
    real: ir.Model, quantized: ir.Model, samples: Samples, context: Context
) -> float:
    """Return the energy of the difference of the float outputs over their own, added up."""
    runtime = context.runtime
    noise: dict[str, float] = {}
    signal: dict[str, float] = {}
    with runtime.session(real) as one, runtime.session(quantized) as other:
        for feed in samples.feeds():
            expected, found = one.run(feed), other.run(feed)
            for name, value in expected.items():
                if value.dtype.kind == "f":
                    error = (found[name] - value).astype(np.float64)
                    noise[name] = noise.get(name, 0.0) + float(np.vdot(error, error))
                    energy = np.square(value, dtype=np.float64).sum()
                    signal[name] = signal.get(name, 0.0) + float(energy)
    return sum(noise[name] / signal[name] for name in noise if signal[name])

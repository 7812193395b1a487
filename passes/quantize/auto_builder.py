"""Builds the choices of a search for precisions."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.calibration.collect import collect
from graphopt.calibration.ranges import RangeMethod
from graphopt.calibration.statistics import TensorStatistics
from graphopt.ledger import Ledger
from graphopt.passbase import Context, Pass

from .auto_choice import Choice
from .auto_operators import linear_of, list_operators
from .gptq import Gptq
from .quantize_dynamic import QuantizeDynamic
from .quantize_static import STATISTICS, QuantizeStatic
from .selection import label
from .smooth_quant import SmoothQuant
from .static_planner import StaticPlanner

if TYPE_CHECKING:
    from graphopt.samples import Samples

__all__ = ["AutoBuilder"]

_BUILT = 4
"""Models that are kept after they were judged, since their speed may be asked for next."""


class AutoBuilder:
    """Builds the models of choices; what they have in common is made once.

    Args:
        model: The original; not edited.
        context: What the run shares. Its ledger gets nothing.
        calibration: Samples that ranges are taken from.
        recover: Whether products are smoothed, and weights rounded for them.

    Attributes:
        original: The original.
        method: How static quantization chooses the range of an activation.
    """

    def __init__(
        self, model: ir.Model, context: Context, calibration: Samples, *, recover: bool
    ) -> None:
        self.original = model
        self.method: RangeMethod = "minmax"
        self._context = context
        self._calibration = calibration
        self._recover = recover
        self._smooth = model.clone()
        if recover:
            self.run_passes(self._smooth, [SmoothQuant()], self._private())
        self._statistics = self._observe()
        private = self._private()
        planner = StaticPlanner(QuantizeStatic(), self._smooth, private)
        self._operators = list_operators(
            self._smooth, planner.regions.units, self._statistics, private
        )
        self._rounded, self._scales = self._smooth, self._private()
        if recover:
            self._rounded = self._smooth.clone()
            self.run_passes(self._rounded, [Gptq()], self._scales)
        self._models: dict[Choice, ir.Model] = {}

    def operators(self, schemes: Sequence[str]) -> dict[str, list[str]]:
        """Return scheme -> the operators that can be integer in it."""
        return {
            scheme: [op.name for op in self._operators if scheme in op.schemes]
            for scheme in schemes
        }

    def work(self, name: str) -> float:
        """Return the work that an operator saves in integer.

        A lookup saves none, and counts as much as the most: it comes cheap.
        """
        most = max(op.work for op in self._operators)
        return next(op.work for op in self._operators if op.name == name) or most or 1.0

    def use_method(self, method: RangeMethod) -> None:
        """Build with another range method from now on."""
        self.method = method
        self._models.clear()

    def kept_db(self) -> dict[str, tuple[str, float]]:
        """Return operator -> its type, and how many dB its product keeps in integer."""
        return {
            op.name: (op.op_type, float(-10 * np.log10(max(op.noise, 1e-30))))
            for op in self._operators
        }

    def passes(self, choice: Choice) -> list[Pass]:
        """Return the passes that carry out ``choice``, the original aside."""
        kept = tuple(glob.escape(name) for name in choice.kept)
        nodes = self.original.graph
        products = {label(node) for node in nodes if node.op_type in ("MatMul", "Gemm")}
        linear = tuple(glob.escape(name) for name in choice.kept if name in products)
        passes: list[Pass] = [SmoothQuant(), Gptq(exclude=linear)] if self._recover else []
        return [*passes, self._quantizer(choice.scheme, kept)]

    def build(self, choice: Choice) -> ir.Model:
        """Return the model of a choice; not to be edited."""
        model = self._models.pop(choice, None)
        if model is None:
            model = self._rounded.clone()
            kept = set(choice.kept)
            # What stays in float keeps the weight it had.
            for node in model.graph:
                linear = linear_of(node)
                if linear is not None and label(node) in kept:
                    name = linear.weight.name or ""
                    source = self._smooth.graph.initializers.get(name)
                    if source is not None and linear.weight.is_initializer():
                        linear.weight.const_value = source.const_value
            context = self._private()
            context.artifacts.update(self._scales.artifacts)
            context.artifacts[STATISTICS] = self._statistics
            escaped = tuple(glob.escape(name) for name in choice.kept)
            self.run_passes(model, [self._quantizer(choice.scheme, escaped)], context)
        self._models[choice] = model  # at the end: the first is the one to forget
        while len(self._models) > _BUILT:
            del self._models[next(iter(self._models))]
        return model

    def context_for(self, ledger: Ledger) -> Context:
        """Return a context in which ``passes`` do what was measured."""
        context = self._private()
        context.ledger = ledger
        return context

    @staticmethod
    def run_passes(model: ir.Model, passes: Sequence[Pass], context: Context) -> bool:
        """Run passes one after the other; return whether the model changed."""
        modified = False
        for pass_ in passes:
            modified |= pass_.run(model, context).modified
        return modified

    def _private(self) -> Context:
        known = getattr(self, "_statistics", {})
        context = dataclasses.replace(
            self._context,
            samples=self._calibration,
            ledger=Ledger(),
            guards=[],
            observers=[],
            artifacts={STATISTICS: known},
        )
        context.share(self._context.runtime)
        return context

    def _quantizer(self, scheme: str, kept: tuple[str, ...]) -> Pass:
        if scheme == "static":
            return QuantizeStatic(exclude=kept, method=self.method)
        return QuantizeDynamic(exclude=kept)

    def _observe(self) -> dict[str, TensorStatistics]:
        values = dict.fromkeys(
            StaticPlanner(QuantizeStatic(), self._smooth, self._private()).values()
        )
        for node in self._smooth.graph:
            linear = linear_of(node)
            if linear is not None:
                values[linear.x.name or ""] = None
        return collect(self._smooth, list(values), self._calibration, self._private())

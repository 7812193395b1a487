"""How long cut models take, measured in turn with the whole one."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt import model_io
from graphopt.analysis.coupling.graph import analyse
from graphopt.analysis.coupling.groups import find_groups
from graphopt.ledger import Ledger
from graphopt.passbase import Context
from graphopt.rewriter import Rewriter
from graphopt.runtime import Latency
from graphopt.samples import Samples

from .compaction import Compactor
from .ranking import Ranking

__all__ = ["Stopwatch"]

MAX_SECONDS = 20.0
"""One measurement ends after this time, whether its ratios are known to 1 % or not."""


class Stopwatch:
    """Measures cut models against the whole one.

    Args:
        model: The model, before anything is cut; it is not changed.
        context: Gives the runtime, the samples (synthetic ones where there are none) and the
            progress.
        untie: Option of the analysis that the rankings come from.
        repetitions: Rounds of each measurement, at least.
    """

    def __init__(
        self, model: ir.Model, context: Context, untie: bool, repetitions: int = 15
    ) -> None:
        self._model = model
        self._context = context
        self._untie = untie
        self._repetitions = repetitions
        samples = context.samples or Samples.synthetic(
            model_io.input_specs(model), seed=context.seed
        )
        self._feed = next(iter(samples.feeds()))
        self.progress = context.progress

    def measure(
        self, rankings: Sequence[Ranking], plans: Sequence[Mapping[str, int]], effort: int = 1
    ) -> list[Latency]:
        """Return the time of the model under each plan; ratios are to the whole model's.

        Args:
            rankings: Which indices go from each group.
            plans: Group -> how many indices it keeps; all of them where nothing is said.
            effort: Times the usual rounds and seconds.
        """
        with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
            folder = pathlib.Path(name)
            paths = [folder / "whole.onnx"]
            model_io.save(self._model, paths[0])
            for number, kept in enumerate(plans):
                paths.append(folder / f"{number}.onnx")
                model_io.save(self._cut(rankings, kept), paths[-1])
            return self._context.runtime.latency(
                paths,
                self._feed,
                effort * self._repetitions,
                max_seconds=effort * MAX_SECONDS,
            )[1:]

    def _cut(self, rankings: Sequence[Ranking], kept: Mapping[str, int]) -> ir.Model:
        copy = self._model.clone()
        dimensions = find_groups(analyse(copy, self._untie))
        groups = {group.name: group for group in dimensions.groups}
        compactor = Compactor(dimensions, Rewriter(copy, "measure", Ledger()))
        for one in rankings:
            name = one.group.name
            count = one.group.size - kept.get(name, one.group.size)
            if count:
                compactor.cut(groups[name], one.removed(count))
        return copy

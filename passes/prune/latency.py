"""Milliseconds of a model as a function of how much each group keeps, measured.

Each group is cut alone to a few counts, and the smaller models run in turn with the whole one;
what that says is weighed against what the multiplications say, by the noise of the
measurement. What several cuts save together is not the sum of what each saves, so a plan made
from the table is measured itself, and the target that it was made for is corrected.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphopt import model_io
from graphopt.analysis.coupling.graph import analyse
from graphopt.analysis.coupling.groups import Dimensions, find_groups
from graphopt.ledger import Ledger
from graphopt.passbase import Context
from graphopt.rewriter import Rewriter
from graphopt.runtime import Latency
from graphopt.samples import Samples

from .budget import Savings
from .compaction import Compactor
from .ranking import Ranking

__all__ = ["Stopwatch", "believed", "fit_to_latency"]

SHARES = (0.75, 0.5, 0.25)
"""Shares of a group that are measured; in between the time is taken to be linear."""

TOGETHER = 6
"""Models that are measured in turn: more would not stay in the caches of a CPU anyway."""

TRIES = 6
"""Plans that are measured until one is close to the target."""

DOUBT = 0.5
"""Standard deviation of what multiplications say about time, as a share of it.

Two of them reach from nothing (what is cut waits for memory) to twice as much (the rest fits a
cache). Chosen by that, not measured; the plans that are measured later correct the rest.
"""

CLOSE = 0.02
"""A plan this close to the target is good enough; measurements repeat within 1 to 3 %."""


class Stopwatch:
    """Measures cut models against the whole one.

    Args:
        model: The model, before anything is cut.
        dimensions: Its groups.
        context: Gives the runtime, the samples (synthetic ones where there are none) and the
            progress.
        untie: Option of the analysis that ``dimensions`` come from.
        repetitions: Rounds of each measurement.
    """

    def __init__(
        self,
        model: ir.Model,
        dimensions: Dimensions,
        context: Context,
        untie: bool,
        repetitions: int = 15,
    ) -> None:
        self._model = model
        self._dimensions = dimensions
        self._context = context
        self._untie = untie
        self._repetitions = repetitions
        samples = context.samples or Samples.synthetic(
            model_io.input_specs(model), seed=context.seed
        )
        self._feed = next(iter(samples.feeds()))

    def table(
        self,
        rankings: Sequence[Ranking],
        counts: Callable[[Ranking], Sequence[int]],
        expected: Mapping[str, Savings],
    ) -> dict[str, dict[int, float]]:
        """Return group -> count -> share of the time that keeping so many saves.

        Args:
            rankings: Which indices go from each group.
            counts: Which counts to measure.
            expected: Group -> what each count should save by its multiplications.
        """
        cuts = [(one, kept) for one in rankings for kept in counts(one)]
        task = self._context.progress.track("measuring cuts", len(cuts))
        found: dict[str, dict[int, float]] = {one.group.name: {} for one in rankings}
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            whole = pathlib.Path(folder) / "whole.onnx"
            model_io.save(self._model, whole)
            for start in range(0, len(cuts), TOGETHER):
                part = cuts[start : start + TOGETHER]
                paths = []
                for number, (one, kept) in enumerate(part):
                    path = pathlib.Path(folder) / str(number) / "cut.onnx"
                    path.parent.mkdir(exist_ok=True)
                    self._save_cut(one, kept, path)
                    paths.append(path)
                timed = self._time(whole, paths, self._repetitions)
                for (one, kept), latency in zip(part, timed, strict=True):
                    name = one.group.name
                    found[name][kept] = believed(latency, expected[name](kept))
                    task.advance()
        task.close()
        return found

    def _save_cut(self, ranking: Ranking, kept: int, path: pathlib.Path) -> None:
        """Write the model with one group cut; the model itself is cut and put back."""

        def keep(model: ir.Model, entry: object) -> str:
            del entry
            model_io.save(model, path)
            return "measured"

        rewriter = Rewriter(self._model, "measure", Ledger(), [keep])
        removed = ranking.removed(ranking.group.size - kept)
        Compactor(self._dimensions, rewriter).cut(ranking.group, removed)

    def _time(
        self, whole: pathlib.Path, others: Sequence[pathlib.Path], repetitions: int
    ) -> list[Latency]:
        runtime = self._context.runtime
        return runtime.latency([whole, *others], self._feed, repetitions, max_seconds=40)[1:]

    def measure(self, rankings: Sequence[Ranking], kept: Mapping[str, int]) -> float:
        """Return the time of the model cut as said, as a share of the whole one's."""
        copy = self._model.clone()
        dimensions = find_groups(analyse(copy, self._untie))
        by_name = {group.name: group for group in dimensions.groups}
        rewriter = Rewriter(copy, "measure", Ledger())
        compactor = Compactor(dimensions, rewriter)
        for one in rankings:
            count = one.group.size - kept[one.group.name]
            if count:
                compactor.cut(by_name[one.group.name], one.removed(count))
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            paths = [pathlib.Path(folder) / name for name in ("whole.onnx", "cut.onnx")]
            model_io.save(self._model, paths[0])
            model_io.save(copy, paths[1])
            # One plan is worth more rounds than one entry of the table.
            (found,) = self._time(paths[0], paths[1:], 2 * self._repetitions)
        return found.ratio


def believed(measured: Latency, expected: float) -> float:
    """Return the share of the time that a cut saves, from a measurement and an expectation.

    Both are weighted by how well they are known. One group of many saves a hundredth, which
    drowns in the noise of a busy machine; on a quiet one the measurement decides.
    """
    low, high = measured.ratio_quartiles
    # Standard error of a median (McGill, Tukey & Larsen 1978).
    error = max(0.93 * (high - low) / measured.repetitions**0.5, 1e-4)
    trust = max(DOUBT * abs(expected), 1e-4)
    share = trust**2 / (trust**2 + error**2)
    return float(share * (1.0 - measured.ratio) + (1.0 - share) * expected)


@dataclasses.dataclass(frozen=True)
class Reached:
    """A plan that was measured.

    Attributes:
        kept: Group -> how many indices it keeps.
        ratio: Its time as a share of the whole model's.
    """

    kept: dict[str, int]
    ratio: float


def fit_to_latency(
    target: float,
    plan_for: Callable[[float], dict[str, int]],
    measure: Callable[[dict[str, int]], float],
) -> Reached:
    """Return the measured plan that is closest to ``target`` and, if possible, not above it.

    Args:
        target: Time as a share of the whole model's.
        plan_for: Makes a plan that should take a given share, from the table.
        measure: Measures a plan.
    """
    tried = list(_tries(target, plan_for, measure))
    met = [one for one in tried if one.ratio <= target * (1 + CLOSE)]
    if met:
        return max(met, key=lambda one: one.ratio)
    return min(tried, key=lambda one: one.ratio)


def _tries(
    target: float,
    plan_for: Callable[[float], dict[str, int]],
    measure: Callable[[dict[str, int]], float],
) -> Iterator[Reached]:
    aim, seen = target, set[tuple[int, ...]]()
    for _ in range(TRIES):
        kept = plan_for(aim)
        if tuple(kept.values()) in seen:
            return
        seen.add(tuple(kept.values()))
        ratio = measure(kept)
        yield Reached(kept, ratio)
        if abs(ratio / target - 1) <= CLOSE:
            return
        # The table is wrong about what is saved by a factor, more or less.
        wrong = (1 - target) / max(1 - ratio, 0.01)
        aim = float(np.clip(1 - (1 - aim) * wrong, 0.01, 0.999))

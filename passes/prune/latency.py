"""A target of measured time: a table of what groups save, and plans that are measured.

Groups that are alike (the layers of a transformer, the blocks of a stage) are cut together, so
that what they save stands out from the noise; each saves its share of it. What is measured is
weighed against what the multiplications say. What cuts of different groups save together is
not the sum of what each saves, so plans made from the table are measured themselves, and the
share that is asked of the table is corrected until the measured one is near the target.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from graphopt.analysis.coupling.groups import Dimensions
from graphopt.runtime import Latency

from .allocation import Limits, allowed_counts
from .budget import Savings, options_of, solve
from .ranking import Ranking
from .stopwatch import Stopwatch

__all__ = ["alike", "believed", "fit_to_latency", "interpolated", "within_latency"]

logger = logging.getLogger(__name__)

SHARES = (0.75, 0.5, 0.25)
"""Shares of a group that are measured; in between the time is taken to be linear."""

DOUBT = 0.5
"""Standard deviation of what multiplications say about time, as a share of it.

Two of them reach from nothing (what is cut waits for memory) to twice as much (the rest fits a
cache). Chosen by that, not measured; the plans that are measured later correct the rest.
"""

TRIES = 8
"""Plans that are measured until one is close to the target."""

CLOSE = 0.02
"""A plan this close to the target is good enough; measurements repeat within 1 to 3 %."""

STEP = 3.0
"""The table is taken to be wrong by no more than this factor at a time."""


def within_latency(
    stopwatch: Stopwatch,
    dimensions: Dimensions,
    rankings: Sequence[Ranking],
    limits: Limits,
    target: float,
) -> dict[str, int]:
    """Return how many indices each group keeps so that a run takes ``target`` of its time.

    Args:
        stopwatch: What times are measured with.
        dimensions: The groups of the model.
        rankings: Which indices go from each group.
        limits: What may be cut, and how far.
        target: Time as a share of the whole model's. If no plan is faster than the whole
            model, nothing is cut.
    """
    whole = {one.group.name: one.group.size for one in rankings}
    if target >= 1 or not whole:
        # Nothing is asked for, or there is nothing to measure.
        return whole
    table = _table(stopwatch, dimensions, rankings, limits)
    options = {
        one.group.name: options_of(one, interpolated(one, table[one.group.name]), limits)
        for one in rankings
    }
    savings = {name: {one.kept: one.saving for one in mine} for name, mine in options.items()}

    def predicted(kept: Mapping[str, int]) -> float:
        return 1.0 - sum(savings[name][count] for name, count in kept.items())

    task = stopwatch.progress.track("measuring plans", TRIES)

    def measure(kept: dict[str, int]) -> float:
        # One plan is worth more rounds than one entry of the table.
        (found,) = stopwatch.measure(rankings, [kept], effort=2)
        task.advance()
        return found.ratio

    reached = fit_to_latency(target, lambda aim: solve(options, predicted, aim), measure)
    task.close()
    if not _is_met(reached, target):
        logger.warning(
            "the budget latency=%.3g is missed: the fastest plan that was measured takes %.3g",
            target,
            min(reached.ratio, 1.0),
        )
    return reached.kept if reached.ratio < 1 else whole


def _table(
    stopwatch: Stopwatch, dimensions: Dimensions, rankings: Sequence[Ranking], limits: Limits
) -> dict[str, dict[int, float]]:
    """Return group -> count -> share of the time that keeping so many saves."""
    classes = alike(dimensions, rankings)
    task = stopwatch.progress.track("measuring cuts", len(classes))
    table: dict[str, dict[int, float]] = {}
    for some in classes:
        names = [one.group.name for one in some]
        counts = _counts(some[0], limits)
        plans = [dict.fromkeys(names, count) for count in counts]
        found = stopwatch.measure(rankings, plans)
        row = {
            count: believed(latency, _counted(dimensions, some, count)) / len(some)
            for count, latency in zip(counts, found, strict=True)
        }
        table.update(dict.fromkeys(names, row))
        task.advance()
    task.close()
    return table


def alike(dimensions: Dimensions, rankings: Iterable[Ranking]) -> list[list[Ranking]]:
    """Divide groups into classes that save the same time: same shapes, same work."""
    found: dict[object, list[Ranking]] = {}
    for one in rankings:
        shapes = sorted(
            (node.op_type, member.axis, *member.site.tensor.shape.numpy())
            for member in one.group.members
            for node, _ in member.site.uses
        )
        work = _counted(dimensions, [one], one.group.size - len(one.order))
        key = (one.group.size, len(one.order), work, tuple(shapes))
        found.setdefault(key, []).append(one)
    return list(found.values())


def _counts(ranking: Ranking, limits: Limits) -> list[int]:
    """Return the counts that are measured."""
    allowed = allowed_counts(ranking.group, limits)
    near = {
        min(allowed, key=lambda kept: abs(kept - share * ranking.group.size))
        for share in SHARES
    }
    return sorted(near)


def _counted(dimensions: Dimensions, rankings: Iterable[Ranking], kept: int) -> float:
    """Return the share of the multiplications that is saved if each keeps ``kept``."""
    dead = np.zeros(dimensions.atom_count, bool)
    whole = dimensions.multiplications(dead) or 1
    for one in rankings:
        dead[one.group.atoms[one.removed(one.group.size - kept)]] = True
    return 1.0 - dimensions.multiplications(dead) / whole


def believed(measured: Latency, expected: float) -> float:
    """Return the share of the time that a cut saves, from a measurement and an expectation.

    Both are weighted by how well they are known: what drowns in the noise of a busy machine is
    taken from the multiplications; on a quiet one the measurement decides.
    """
    low, high = measured.ratio_quartiles
    # Standard error of a median (McGill, Tukey & Larsen 1978).
    error = max(0.93 * (high - low) / measured.repetitions**0.5, 1e-4)
    trust = max(DOUBT * abs(expected), 1e-4)
    share = trust**2 / (trust**2 + error**2)
    return float(share * (1.0 - measured.ratio) + (1.0 - share) * expected)


def interpolated(ranking: Ranking, measured: Mapping[int, float]) -> Savings:
    """Return savings between what was measured; a cut that seems to cost time saves none."""
    size = ranking.group.size
    counts = sorted({**measured, size: 0.0})
    known = [max(measured.get(count, 0.0), 0.0) for count in counts]
    if counts[0] > 1 and len(counts) > 1:
        slope = (known[0] - known[-1]) / (counts[-1] - counts[0])
        counts, known = [0, *counts], [known[0] + slope * counts[0], *known]
    # More removed never saves less.
    known = np.maximum.accumulate(known[::-1])[::-1].tolist()
    return lambda kept: float(np.interp(kept, counts, known))


@dataclasses.dataclass(frozen=True)
class Reached:
    """A plan that was measured.

    Attributes:
        aim: The share of the time that it should take by the table.
        kept: Group -> how many indices it keeps.
        ratio: Its time as a share of the whole model's.
    """

    aim: float
    kept: dict[str, int]
    ratio: float


def fit_to_latency(
    target: float,
    plan_for: Callable[[float], dict[str, int]],
    measure: Callable[[dict[str, int]], float],
) -> Reached:
    """Return the measured plan that is closest to ``target`` and, if possible, not above it.

    The target lies between an aim that is too slow and one that is fast enough, and every step
    brings the two together, however wrong the table is: plans of a lower aim cut more.

    Args:
        target: Time as a share of the whole model's.
        plan_for: Makes a plan that should take a given share, from the table.
        measure: Measures a plan; called ``TRIES`` times at most, never twice with one plan.
    """
    tried: list[Reached] = []
    ratios: dict[tuple[int, ...], float] = {}
    aim = target
    # A plan that comes again costs no measurement, but it says where the next is not.
    for _ in range(3 * TRIES):
        kept = plan_for(aim)
        key = tuple(kept.values())
        if key not in ratios:
            if len(ratios) == TRIES:
                break
            ratios[key] = measure(kept)
        tried.append(Reached(aim, kept, ratios[key]))
        if abs(ratios[key] / target - 1) <= CLOSE:
            break
        aim = _next_aim(target, tried)
    met = [one for one in tried if _is_met(one, target)]
    if met:
        return max(met, key=lambda one: one.ratio)
    return min(tried, key=lambda one: one.ratio)


def _is_met(reached: Reached, target: float) -> bool:
    return reached.ratio <= target * (1 + CLOSE)


def _next_aim(target: float, tried: Sequence[Reached]) -> float:
    whole = Reached(1.0, {}, 1.0)
    slow = min((one for one in [whole, *tried] if one.ratio > target), key=lambda r: r.aim)
    fast = max(
        (one for one in tried if one.ratio <= target), key=lambda r: r.aim, default=None
    )
    if fast is None:
        # The table is wrong about what is saved by a factor, more or less.
        wrong = (1 - target) / max(1 - slow.ratio, (1 - target) / STEP)
        return 1 - max(1 - slow.aim, 1e-3) * wrong
    # The line through both, but never so near to one of them that nothing is learnt.
    share = (slow.ratio - target) / (slow.ratio - fast.ratio)
    return slow.aim + (fast.aim - slow.aim) * float(np.clip(share, 0.1, 0.9))

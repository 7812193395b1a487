"""Which indices go: how many of each group, and the least important of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphopt.analysis.coupling.groups import Dimensions

from .allocation import Limits, allowed_counts, kept_count, select
from .budget import Savings, options_of, solve
from .latency import within_latency
from .plan import Entry, Plan
from .ranking import Choice, Measuring, Ranking, rank
from .stopwatch import Stopwatch

__all__ = ["Budget", "make_plan"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What may be left of the model, as shares; 0: no such target.

    Attributes:
        parameters: Elements of all constants.
        size: Bytes of all constants.
        macs: Multiplications of a run.
        latency: Measured time of a run.
    """

    parameters: float = 0.0
    size: float = 0.0
    macs: float = 0.0
    latency: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.parameters or self.size or self.macs or self.latency)


def make_plan(
    dimensions: Dimensions,
    ratio: float,
    criterion: Choice,
    limits: Limits,
    seed: int = 0,
    measuring: Measuring | None = None,
    budget: Budget | None = None,
    stopwatch: Stopwatch | None = None,
) -> Plan:
    """Return what to remove from every group; nothing is changed.

    Args:
        dimensions: The groups of the model.
        ratio: Share of the indices that every group loses, where there is no budget.
        criterion: How the importance of an index is measured.
        limits: What may be cut, and how far.
        seed: Seed of ``random``.
        measuring: What ``wanda`` and ``obs`` need.
        budget: What may be left of the model.
        stopwatch: What a budget of time is measured with.
    """
    budget = budget or Budget()
    groups, reasons = select(dimensions, limits, limits.maximum / 2 if budget else ratio)
    if budget:
        most = [(g, g.size - min(allowed_counts(g, limits), default=g.size)) for g in groups]
    else:
        most = [(group, group.size - kept_count(group, ratio, limits)) for group in groups]
    wanted = [(group, count) for group, count in most if count]
    rankings = {r.group.name: r for r in rank(dimensions, wanted, criterion, seed, measuring)}
    counts = {name: len(one.order) for name, one in rankings.items()}
    if budget:
        ordered = [rankings[group.name] for group, _ in wanted]
        kept = _within(budget, dimensions, ordered, limits, stopwatch)
        counts = {name: rankings[name].group.size - kept[name] for name in kept}
    entries: list[Entry] = []
    for group in dimensions.groups:
        count = counts.get(group.name, 0)
        if count:
            removed = rankings[group.name].removed(count)
            entries.append(Entry.of(group, removed.tolist()))
            continue
        none = (
            "it costs more than it saves under the budget"
            if budget
            else f"{ratio:.3g} of {group.size} indices rounds to none"
        )
        entries.append(Entry.of(group, reason=reasons.get(group.name, none)))
    return Plan(tuple(entries))


def _within(
    budget: Budget,
    dimensions: Dimensions,
    rankings: Sequence[Ranking],
    limits: Limits,
    stopwatch: Stopwatch | None,
) -> dict[str, int]:
    """Return how many indices each group keeps so that every target that can be met is."""
    kept = {one.group.name: one.group.size for one in rankings}
    for name, count in (
        ("parameters", dimensions.parameters),
        ("size", dimensions.size_bytes),
        ("macs", dimensions.multiplications),
    ):
        target = getattr(budget, name)
        if target:
            found, left = _counted(dimensions, rankings, limits, count, target)
            if left > target:
                logger.warning(
                    "the budget %s=%.3g is missed: %.3g is left", name, target, left
                )
            kept = {name: min(kept[name], found[name]) for name in kept}
    if budget.latency:
        assert stopwatch is not None, "time is measured with something"
        found = within_latency(stopwatch, dimensions, rankings, limits, budget.latency)
        kept = {name: min(kept[name], found[name]) for name in kept}
    return kept


def _counted(
    dimensions: Dimensions,
    rankings: Sequence[Ranking],
    limits: Limits,
    count: Callable[[np.ndarray], int],
    target: float,
) -> tuple[dict[str, int], float]:
    """Meet a target of what can be counted for any cut; return the share that is left too."""
    whole = count(np.zeros(dimensions.atom_count, bool)) or 1

    def share(kept: Mapping[str, int]) -> float:
        dead = np.zeros(dimensions.atom_count, bool)
        for one in rankings:
            gone = one.order[: one.group.size - kept[one.group.name]]
            dead[one.group.atoms[gone]] = True
        return count(dead) / whole

    options = {
        one.group.name: options_of(one, _counted_savings(dimensions, one, count), limits)
        for one in rankings
    }
    kept = solve(options, share, target)
    return kept, share(kept)


def _counted_savings(
    dimensions: Dimensions, ranking: Ranking, count: Callable[[np.ndarray], int]
) -> Savings:
    """Return what cutting one group saves: affine in how many indices it keeps."""
    size, dead = ranking.group.size, np.zeros(dimensions.atom_count, bool)
    whole = count(dead) or 1
    dead[ranking.group.atoms[ranking.order]] = True
    each = (1 - count(dead) / whole) / len(ranking.order)
    return lambda kept: (size - kept) * each

"""How much each group loses so that the whole meets a budget at the least cost.

Every group has a few counts it may keep; each costs something (see ``ranking``) and saves
something. For a price of what is saved the best count of every group follows by itself; the
price is found by bisection. That is the Lagrangian relaxation of the knapsack: it gives points
on the lower convex hull of all solutions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from .allocation import Limits, allowed_counts
from .ranking import Ranking

__all__ = ["Option", "Savings", "options_of", "solve"]

STEPS = 60
"""Bisections of the price: enough for any ratio of costs in float64."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A count that a group may keep.

    Attributes:
        kept: The count.
        error: What it costs.
        saving: What it saves, as a share of the whole.
    """

    kept: int
    error: float
    saving: float


Savings = Callable[[int], float]
"""Count that a group keeps -> what that saves, as a share of the whole."""


def options_of(ranking: Ranking, savings: Savings, limits: Limits) -> list[Option]:
    """Return what one group may keep, everything first."""
    group = ranking.group
    most = len(ranking.order)
    found = [Option(group.size, 0.0, 0.0)]
    for kept in allowed_counts(group, limits):
        if group.size - kept <= most and kept < group.size:
            error = float(ranking.errors[group.size - kept])
            found.append(Option(kept, error, savings(kept)))
    return found


def solve(
    options: Mapping[str, Sequence[Option]],
    reached: Callable[[dict[str, int]], float],
    target: float,
) -> dict[str, int]:
    """Return how many indices each group keeps.

    Args:
        options: Name of each group -> what it may keep.
        reached: What is left of the whole, as a share, for given counts; not increasing in
            what is removed.
        target: What may be left. Where it cannot be met, all is removed that may be.
    """
    low, high = 0.0, 1e-9
    kept = _best(options, high)
    while reached(kept) > target:
        low, high = high, high * 8
        kept = _best(options, high)
        if high > 1e18:
            return kept
    for _ in range(STEPS):
        middle = (low * high) ** 0.5 if low else high / 8
        at_middle = _best(options, middle)
        if reached(at_middle) <= target:
            high, kept = middle, at_middle
        else:
            low = middle
        if low and high / low < 1 + 1e-9:
            break
    return kept


def _best(options: Mapping[str, Sequence[Option]], price: float) -> dict[str, int]:
    """Return the counts that cost least when a share that is saved is worth ``price``."""
    return {
        name: min(mine, key=lambda one: (one.error - price * one.saving, -one.kept)).kept
        for name, mine in options.items()
    }

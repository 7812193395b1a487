"""Search strategies: they know numbers and whether those fail, and nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["bisect", "gallop", "minimize"]

T = TypeVar("T")


def bisect(low: int, high: int, fails: Callable[[int], bool]) -> int:
    """Return an ``n`` in ``(low, high]`` that fails while ``n - 1`` does not.

    Asks about numbers strictly between ``low``, which is known not to fail, and ``high``,
    which is known to; at most ``ceil(log2(high - low))`` times. Where failures come and go,
    any such step is as good as another.
    """
    while high - low > 1:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle
    return high


def gallop(low: int, fails: Callable[[int], bool], most: int = 1 << 40) -> tuple[int, int]:
    """Return ``(good, bad)`` with ``low <= good < bad``, doubling the step until one fails.

    For when the end is not known. ``low`` is known not to fail.

    Raises:
        ValueError: Nothing up to ``most`` fails.
    """
    step = 1
    while low + step <= most:
        if fails(low + step):
            return low, low + step
        low, step = low + step, 2 * step
    raise ValueError(f"nothing up to {most} fails")


def minimize(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Return a part of ``items`` that still fails, and of which no single item can go.

    Delta debugging: parts, then what is left without them, in ever smaller portions
    (A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
    TSE 28(2), 2002, algorithm ddmin). ``items`` as a whole is known to fail; its order stays.
    """
    kept = list(items)
    portions = 2
    while len(kept) > 1:
        size = -(-len(kept) // portions)
        starts = range(0, len(kept), size)
        parts = [kept[start : start + size] for start in starts]
        rests = [kept[:start] + kept[start + size :] for start in starts]
        found = next((part for part in parts if len(part) < len(kept) and fails(part)), None)
        if found is not None:
            kept, portions = found, 2
            continue
        # Two halves are each other's rest, and were tried.
        found = next((rest for rest in rests if fails(rest)), None) if portions > 2 else None
        if found is not None:
            kept, portions = found, max(portions - 1, 2)
        elif size == 1:
            break
        else:
            portions = min(2 * portions, len(kept))
    return kept

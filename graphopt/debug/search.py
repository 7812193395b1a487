"""Search strategies: they know numbers and whether those fail, and nothing of models."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["bisect", "gallop"]


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

"""The measurement of latency, as it runs in the child process.

Models take turns, so that what disturbs the machine disturbs all of them. Every second round
goes backwards, so that none always follows the same one. A model that runs for microseconds
is run several times in a row, as the clock and the caches ask for.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["Plan", "measure"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        repetitions: Rounds at least, as far as the time allows.
        max_repetitions: Rounds at most.
        precision: Stop when the median ratio of every model is known to this, relatively (95 %
            confidence).
        max_seconds: Stop after this time and ``min_repetitions``.
        min_repetitions: Rounds at least, however long they take.
        warm_up_seconds: How long every model is run before it counts.
        slice_seconds: A measurement is repeated until it takes this long, and divided.
    """

    repetitions: int = 30
    max_repetitions: int = 300
    precision: float = 0.01
    max_seconds: float = 20.0
    min_repetitions: int = 5
    warm_up_seconds: float = 0.2
    slice_seconds: float = 0.002


def measure(
    runs: Sequence[Callable[[int], Any]], plan: Plan, report: Callable[[Any], None]
) -> np.ndarray:
    """Time ``runs`` in turn.

    Args:
        runs: One a model; called with the number of the feed to use.
        plan: How long to measure.
        report: Called with (rounds done, rounds planned) ten times a second and at the end.

    Returns:
        Seconds of one run: float64 [models, rounds].
    """
    loops = [_warm_up(run, plan) for run in runs]
    times: list[list[float]] = []
    start = reported = time.perf_counter()
    # A collection in the middle of a run would be counted as the model's.
    gc.collect()
    gc.disable()
    try:
        while not _is_enough(times, time.perf_counter() - start, plan):
            index = len(times)
            row = [0.0] * len(runs)
            order = range(len(runs)) if index % 2 == 0 else range(len(runs) - 1, -1, -1)
            for at in order:
                row[at] = _time(runs[at], index, loops[at])
            times.append(row)
            if time.perf_counter() - reported > 0.1:
                reported = time.perf_counter()
                report((len(times), max(plan.repetitions, len(times))))
        report((len(times), len(times)))
    finally:
        gc.enable()
    return np.array(times).T.copy()


def _warm_up(run: Callable[[int], Any], plan: Plan) -> int:
    """Run a model until it is warm; return how often a measurement has to repeat it."""
    run(0)  # allocates, and is the slowest by far
    count, start, seconds = 0, time.perf_counter(), 0.0
    while count == 0 or seconds < plan.warm_up_seconds:
        run(count)
        count += 1
        seconds = time.perf_counter() - start
    return max(1, round(plan.slice_seconds * count / seconds))


def _time(run: Callable[[int], Any], index: int, loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        run(index)
    return (time.perf_counter() - start) / loops


def _is_enough(times: Sequence[Sequence[float]], seconds: float, plan: Plan) -> bool:
    count = len(times)
    if count < min(plan.repetitions, plan.min_repetitions):
        return False
    if count >= plan.max_repetitions or seconds >= plan.max_seconds:
        return True
    if count < plan.repetitions:
        return False
    # Looked at ever more rarely: the figures of n rounds take O(n).
    if count % max(10, count // 10):
        return False
    table = np.array(times)
    ratios = table / table[:, :1]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75), axis=0)
    # Standard error of a median: 0.93 interquartile ranges / sqrt(n) (McGill, Tukey & Larsen
    # 1978, "Variations of box plots"); 1.96 of them are 95 %.
    error = 1.96 * 0.93 * (high - low) / np.sqrt(count)
    return bool(np.all(error <= plan.precision * middle))

"""Which indices go: how many of each group, and the least important of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.groups import Dimensions, Group
from graphopt.passbase import Context
from graphopt.samples import Samples

from .allocation import Limits, select, uniform
from .importance import importance
from .plan import Entry, Plan
from .second_order import (
    Consumer,
    consumers_of,
    diagonals,
    grams,
    obs_order,
    sums_bytes,
    wanda,
)

__all__ = ["MEASURED", "Choice", "Measuring", "make_plan"]

Choice: TypeAlias = Literal[
    "l1", "l2", "geometric-median", "batchnorm", "random", "wanda", "obs"
]

MEASURED = frozenset({"wanda", "obs"})
"""Criteria that look at activations."""

assert set(get_args(Choice)) >= MEASURED


class Measuring:
    """What criteria that look at activations need.

    Args:
        model: The model, before anything is cut.
        samples: What it is run on.
        context: Gives the runtime, the seed and the progress.
        limit_bytes: What sums over activations may take at a time.
    """

    def __init__(
        self, model: ir.Model, samples: Samples, context: Context, limit_bytes: int
    ) -> None:
        self.model = model
        self.samples = samples
        self.context = context
        self.limit_bytes = limit_bytes


def make_plan(
    dimensions: Dimensions,
    ratio: float,
    criterion: Choice,
    limits: Limits,
    seed: int = 0,
    measuring: Measuring | None = None,
) -> Plan:
    """Return what to remove from every group; nothing is changed.

    Args:
        dimensions: The groups of the model.
        ratio: Share of the indices that every group loses.
        criterion: How the importance of an index is measured.
        limits: What may be cut, and how far.
        seed: Seed of ``random``.
        measuring: What ``wanda`` and ``obs`` need.
    """
    groups, reasons = select(dimensions, limits, ratio)
    kept = uniform(groups, ratio, limits)
    counts = [(group, group.size - kept[group.name]) for group in groups]
    wanted = [(group, count) for group, count in counts if count]
    removed = dict(_choose(dimensions, wanted, criterion, seed, measuring))
    entries: list[Entry] = []
    for group in dimensions.groups:
        if group.name in removed:
            entries.append(Entry.of(group, removed[group.name].tolist()))
            continue
        rounded = f"{ratio:.3g} of {group.size} indices rounds to none"
        entries.append(Entry.of(group, reason=reasons.get(group.name, rounded)))
    return Plan(tuple(entries))


def _choose(
    dimensions: Dimensions,
    wanted: Sequence[tuple[Group, int]],
    criterion: Choice,
    seed: int,
    measuring: Measuring | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each group and the indices that go, ascending."""
    if criterion not in MEASURED:
        for group, count in wanted:
            yield group.name, _lowest(importance(group, criterion, seed), count)  # type: ignore[arg-type]
        return
    assert measuring is not None, "activations are measured on something"
    readers = {group.name: consumers_of(dimensions, group) for group, _ in wanted}
    if criterion == "wanda":
        layers = [one.layer for group, _ in wanted for one in readers[group.name]]
        sizes = diagonals(measuring.model, layers, measuring.samples, measuring.context)
        for group, count in wanted:
            scores = wanda(group, readers[group.name], sizes)
            if scores is None:
                scores = importance(group, "l2")
            yield group.name, _lowest(scores, count)
        return
    for part in _batches(wanted, readers, measuring.limit_bytes):
        layers = [one.layer for group, _ in part for one in readers[group.name]]
        sums = grams(measuring.model, layers, measuring.samples, measuring.context)
        for group, count in part:
            chosen = obs_order(group, readers[group.name], sums, count)
            if chosen is None:
                chosen = _lowest(importance(group, "l2"), count)
            yield group.name, chosen


def _lowest(scores: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(scores, kind="stable")[:count])


def _batches(
    wanted: Sequence[tuple[Group, int]],
    readers: dict[str, list[Consumer]],
    limit_bytes: int,
) -> list[list[tuple[Group, int]]]:
    """Divide groups into parts whose sums fit in memory; one group is always a part."""
    parts: list[list[tuple[Group, int]]] = []
    room = 0
    for group, count in wanted:
        size = sum(sums_bytes(one.layer) for one in readers[group.name])
        if not parts or size > room:
            parts.append([])
            room = limit_bytes
        parts[-1].append((group, count))
        room -= size
    return parts

"""The order in which the indices of a group go, and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, cast

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.groups import Dimensions, Group
from graphopt.passbase import Context
from graphopt.samples import Samples

from .importance import Criterion, importance
from .second_order import (
    Consumer,
    consumers_of,
    diagonals,
    grams,
    obs_order,
    sums_bytes,
    wanda,
)

__all__ = ["MEASURED", "Choice", "Measuring", "Ranking", "rank"]

Choice: TypeAlias = Literal[
    "l1", "l2", "geometric-median", "batchnorm", "random", "wanda", "obs"
]

MEASURED = frozenset({"wanda", "obs"})
"""Criteria that look at activations."""


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What criteria that look at activations need.

    Attributes:
        model: The model, before anything is cut.
        samples: What it is run on.
        context: Gives the runtime, the seed and the progress.
        limit_bytes: What sums over activations may take at a time.
    """

    model: ir.Model
    samples: Samples
    context: Context
    limit_bytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """The order in which the indices of a group go.

    Attributes:
        group: The group.
        order: Indices, the first to go first; perhaps not all of them.
        errors: What removing the first ``k`` costs, ``[len(order) + 1]``, from 0: the share of
            the importance that goes, or, by ``obs``, of what the layers that read it return.
    """

    group: Group
    order: np.ndarray
    errors: np.ndarray

    def removed(self, count: int) -> np.ndarray:
        """Return the ``count`` indices that go, ascending."""
        return np.sort(self.order[:count])


def rank(
    dimensions: Dimensions,
    wanted: Sequence[tuple[Group, int]],
    criterion: Choice,
    seed: int = 0,
    measuring: Measuring | None = None,
) -> Iterator[Ranking]:
    """Yield the ranking of each group.

    Args:
        dimensions: The groups of the model.
        wanted: Groups, and how many of the indices of each may go at most.
        criterion: How the importance of an index is measured.
        seed: Seed of ``random``.
        measuring: What ``wanda`` and ``obs`` need.
    """
    if criterion not in MEASURED:
        for group, count in wanted:
            chosen = cast(Criterion, criterion)
            yield _by_scores(group, importance(group, chosen, seed), count)
        return
    assert measuring is not None, "activations are measured on something"
    readers = {group.name: consumers_of(dimensions, group) for group, _ in wanted}
    if criterion == "wanda":
        layers = [one.layer for group, _ in wanted for one in readers[group.name]]
        sizes = diagonals(measuring.model, layers, measuring.samples, measuring.context)
        for group, count in wanted:
            scores = wanda(group, readers[group.name], sizes)
            yield _by_scores(
                group, importance(group, "l2") if scores is None else scores, count
            )
        return
    for part in _batches(wanted, readers, measuring.limit_bytes):
        layers = [one.layer for group, _ in part for one in readers[group.name]]
        sums = grams(measuring.model, layers, measuring.samples, measuring.context)
        for group, count in part:
            found = obs_order(group, readers[group.name], sums, count)
            if found is None:
                yield _by_scores(group, importance(group, "l2"), count)
            else:
                yield Ranking(group, *found)


def _by_scores(group: Group, scores: np.ndarray, count: int) -> Ranking:
    order = np.argsort(scores, kind="stable")[:count]
    power = np.square(scores)
    errors = np.concatenate([[0.0], np.cumsum(power[order])]) / (power.sum() or 1.0)
    return Ranking(group, order, errors)


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

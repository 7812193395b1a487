"""How much each index of a group matters: one number an index, from the weights alone.

The slices of every weight that holds data of the index count, those that produce it and those
that consume it. The scores of one weight are divided by their mean before they are added, so
that a layer with large weights does not decide alone.
"""

from __future__ import annotations

import zlib
from typing import Literal, TypeAlias, get_args

import numpy as np

from graphopt.analysis.coupling.groups import Group, Member

__all__ = ["CRITERIA", "Criterion", "importance"]

Criterion: TypeAlias = Literal["l1", "l2", "geometric-median", "batchnorm", "random"]

CRITERIA: tuple[str, ...] = get_args(Criterion)


def importance(group: Group, criterion: Criterion, seed: int = 0) -> np.ndarray:
    """Return the importance of every index of ``group``: float64 ``[size]``, >= 0.

    Args:
        group: A group of interchangeable indices.
        criterion: ``l1``, ``l2``: norm of the slices. ``geometric-median``: distance to the
            other slices (He et al. 2019, arXiv 1811.00250). ``batchnorm``: absolute scale
            of the BatchNormalization that follows (Liu et al. 2017, arXiv 1708.06519);
            ``l2`` where there is none. ``random``: for comparison.
        seed: Seed of ``random``; the group's name is mixed in.
    """
    if criterion == "random":
        return np.random.default_rng([seed, zlib.crc32(group.name.encode())]).random(
            group.size
        )
    if criterion == "batchnorm":
        scales = [member for member in group.members if _is_batchnorm_scale(member)]
        if scales:
            return _total(group, scales, "l1")
        criterion = "l2"
    weights = [member for member in group.members if _is_weight(member)]
    return _total(group, weights or list(group.members), criterion)


def _is_weight(member: Member) -> bool:
    """Whether the constant has another axis than the one that is looked at."""
    return sum(axis.size != 1 for axis in member.site.axes) > 1


def _is_batchnorm_scale(member: Member) -> bool:
    return any(
        node.op_type == "BatchNormalization" and index == 1 for node, index in member.site.uses
    )


def _total(group: Group, members: list[Member], criterion: str) -> np.ndarray:
    total = np.zeros(group.size)
    for member in members:
        score = _score(member, group.size, criterion)
        mean = score.mean()
        if np.isfinite(mean) and mean > 0:
            total += score / mean
    return total / max(len(members), 1)


def _score(member: Member, size: int, criterion: str) -> np.ndarray:
    there = member.index >= 0
    index = member.index[there]
    data = np.moveaxis(member.site.tensor.numpy(), member.axis, 0)[there]
    data = data.reshape(len(index), -1).astype(np.float32, copy=False)
    if criterion == "geometric-median":
        return _distances(data, index, size)
    norm = np.abs(data) if criterion == "l1" else np.square(data)
    score = np.bincount(index, norm.sum(axis=1, dtype=np.float64), minlength=size)
    return score if criterion == "l1" else np.sqrt(score)


def _distances(data: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """Return the sum of the distances of every slice to all others."""
    order = np.argsort(index, kind="stable")
    cells = len(index) // size
    if cells * size != len(index):
        # Indices of different extent cannot be compared element by element.
        return np.sqrt(
            np.bincount(index, np.square(data).sum(axis=1, dtype=np.float64), minlength=size)
        )
    slices = data[order].reshape(size, -1).astype(np.float64)
    squares = np.square(slices).sum(axis=1)
    square = squares[:, None] + squares[None] - 2 * slices @ slices.T
    return np.asarray(np.sqrt(np.maximum(square, 0)).sum(axis=1))

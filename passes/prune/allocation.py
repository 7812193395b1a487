"""How many indices each group keeps."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Sequence

import numpy as np

from graphopt.analysis.coupling.cells import ALWAYS
from graphopt.analysis.coupling.groups import Dimensions, Group

from .weights import require_matches

__all__ = ["Limits", "allowed_counts", "kept_count", "select", "uniform"]

CONV_MULTIPLE = 16
"""Channels of a float Conv are processed in blocks of this many by onnxruntime on CPUs with
AVX-512: 64 -> 63 channels costs +33 % (measured, 1.31.1); MatMul has no such steps."""

TOLERANCE = 0.1
"""A count is rounded to a multiple only if that moves it by no more than this share."""

COARSE = 0.15
"""A factor of an axis that misses the ratio by more than this gives way to another one."""

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger"})


@dataclasses.dataclass(frozen=True)
class Limits:
    """What may be cut, and how far.

    Attributes:
        include: Patterns of node names, operators and weights; empty: all.
        exclude: The same; a group with a matching member is left alone.
        minimum: Indices that every group keeps.
        multiple_of: Kept counts are multiples of this; 0: what the kernels like.
        statistics: Cut axes that a normalization takes statistics over, too.
        maximum: Largest share of its indices that a group loses under a budget.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    minimum: int = 1
    multiple_of: int = 0
    statistics: bool = False
    maximum: float = 0.9


def select(
    dimensions: Dimensions, limits: Limits, ratio: float
) -> tuple[list[Group], dict[str, str]]:
    """Return the groups to cut, and why each of the others is left alone.

    Of the factors of one axis (heads and their width, say) only one is cut, that with the most
    weights: cutting several would remove far more of a weight than was asked.

    Raises:
        PipelineError: A pattern of ``limits`` matches nothing.
    """
    names = set().union(*map(_names, dimensions.groups))
    require_matches(names, include=limits.include, exclude=limits.exclude)
    reasons: dict[str, str] = {}
    candidates: list[Group] = []
    for group in dimensions.groups:
        reason = _why_not(group, limits)
        if reason:
            reasons[group.name] = reason
        else:
            candidates.append(group)
    rivals = _rivals(dimensions, candidates)
    position = {group.name: i for i, group in enumerate(candidates)}

    def order(group: Group) -> tuple[bool, int, int]:
        left = kept_count(group, ratio, limits)
        coarse = abs(left - group.size * (1 - ratio)) > COARSE * group.size
        return (coarse, -group.parameters * group.size, position[group.name])

    chosen: list[Group] = []
    taken: dict[str, str] = {}
    for group in sorted(candidates, key=order):
        rival = next((taken[n] for n in rivals.get(group.name, ()) if n in taken), None)
        if rival is None:
            chosen.append(group)
            taken[group.name] = group.name
        else:
            reasons[group.name] = f"it is a factor of the same axis as {rival!r}, which is cut"
    return sorted(chosen, key=lambda group: position[group.name]), reasons


def _why_not(group: Group, limits: Limits) -> str:
    if group.reason:
        return group.reason
    if group.statistics and not limits.statistics:
        return f"{group.statistics} (statistics=true cuts it all the same)"
    names = _names(group)
    for pattern in limits.exclude:
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return f"it is excluded by {pattern!r}"
    if limits.include and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in limits.include for name in names
    ):
        return "it is not included"
    if group.size <= limits.minimum:
        return f"it has no more than {limits.minimum} indices"
    if group.size <= _least(limits.minimum, limits.multiple_of):
        return f"its {group.size} indices leave no multiple of {limits.multiple_of} to keep"
    return ""


def _names(group: Group) -> set[str]:
    """Return the names a pattern may match: nodes, operators and weights of a group."""
    names: set[str] = set()
    for member in group.members:
        names.add(member.site.name)
        for node, _ in member.site.uses:
            names.update((node.name or "", node.op_type))
    return names


def _rivals(dimensions: Dimensions, groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return for every group those that are another factor of an axis of a weight."""
    owner = np.full(dimensions.atom_count, -1, np.int64)
    for number, group in enumerate(groups):
        owner[group.atoms] = number
    owner[ALWAYS] = -1
    pairs: set[tuple[int, int]] = set()
    for site in dimensions.coupling.sites:
        for axis in site.axes:
            if axis.size == 1:
                continue
            rows = dimensions.rows(axis)
            if rows.shape[1] < 2:
                continue
            owners = np.unique(np.sort(owner[rows], axis=1), axis=0)
            for row in owners.tolist():
                found = sorted({number for number in row if number >= 0})
                pairs.update((a, b) for a in found for b in found if a != b)
    result: dict[str, list[str]] = {}
    for a, b in sorted(pairs):
        result.setdefault(groups[a].name, []).append(groups[b].name)
    return result


def kept_count(group: Group, ratio: float, limits: Limits) -> int:
    """Return how many indices ``group`` keeps when ``ratio`` of them should go."""
    wanted = group.size * (1 - ratio)
    if limits.multiple_of:
        kept = round(wanted / limits.multiple_of) * limits.multiple_of
        return min(max(kept, _least(limits.minimum, limits.multiple_of)), group.size)
    for multiple in _multiples(group, limits):
        kept = round(wanted / multiple) * multiple
        fits = limits.minimum <= kept <= group.size and kept > 0
        if fits and abs(kept - wanted) <= TOLERANCE * group.size:
            return kept
    return min(max(round(wanted), limits.minimum, 1), group.size)


def _least(minimum: int, multiple: int) -> int:
    """Return the smallest count that may be kept; ``multiple`` 0: any may."""
    return -(-max(minimum, 1) // multiple) * multiple if multiple else minimum


def _multiples(group: Group, limits: Limits) -> list[int]:
    """Return the multiples to round to, the best first."""
    if limits.multiple_of:
        return [limits.multiple_of]
    cells = [
        member.cells
        for member in group.members
        for node, _ in member.site.uses
        if node.op_type in _CONVOLUTIONS
    ]
    if not cells:
        return [1]
    found = [
        max(wide // math.gcd(wide, cell) for cell in cells)
        for wide in (CONV_MULTIPLE, CONV_MULTIPLE // 2, CONV_MULTIPLE // 4)
    ]
    return [*dict.fromkeys(found), 1]


def allowed_counts(group: Group, limits: Limits) -> list[int]:
    """Return the counts that ``group`` may keep under a budget, descending, not all of it.

    Multiples that the kernels like where there are at least four of them to choose from.
    """
    least = max(limits.minimum, 1, math.ceil(group.size * (1 - limits.maximum) - 1e-9))
    for multiple in _multiples(group, limits):
        first = math.ceil(least / multiple) * multiple
        counts = list(range(first, group.size, multiple))
        if len(counts) >= 3 or multiple == 1 or limits.multiple_of:
            break
    # A finer choice than this changes nothing that can be measured.
    step = max(1, len(counts) // 32)
    return counts[::step][::-1]


def uniform(groups: Sequence[Group], ratio: float, limits: Limits) -> dict[str, int]:
    """Return how many indices each group keeps when every one loses the same share."""
    return {group.name: kept_count(group, ratio, limits) for group in groups}

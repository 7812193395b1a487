"""Which indices of a model carry nothing: nobody reads them, they are constant, or copies.

Everything here follows from the weights and the coupling analysis; the model is not run. Only
indices that stand alone are looked at: not heads, not their width, not what statistics are
taken over or what an operator combines in ways of its own.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.graph import Coupling, Site
from graphopt.analysis.coupling.groups import Dimensions, Group
from graphopt.analysis.coupling.rules import Axis

__all__ = ["Read", "Reads", "reads_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """A sum that an index ends in.

    Attributes:
        node: The node that sums.
        index: Its input that is a constant, or -1 where none is.
        axis: Number of the axis of that constant.
        site: The constant.
        position: For every position of the axis, the index of the group there, or -1.
    """

    node: ir.Node
    index: int
    axis: int = -1
    site: Site | None = None
    position: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def slices(self, size: int) -> np.ndarray:
        """Return what multiplies each index: ``[size, everything else]``."""
        assert self.site is not None
        data = np.moveaxis(self.site.tensor.numpy(), self.axis, 0)
        return _slices(data, self.position, size)


@dataclasses.dataclass(frozen=True)
class Reads:
    """How the indices of a group are used.

    Attributes:
        group: The group.
        reads: Every sum that its indices end in.
        producers: Its members that are no weight of such a sum: what the indices are made of.
    """

    group: Group
    reads: tuple[Read, ...]
    producers: tuple[tuple[Site, int, np.ndarray], ...]

    @property
    def by_weights(self) -> bool:
        """Whether every sum is with constant weights, with as many positions an index."""
        return all(
            read.site is not None and _even(read.position, self.group.size)
            for read in self.reads
        )

    def unread(self) -> np.ndarray:
        """Return which indices nothing depends on: every weight that reads them is zero."""
        size = self.group.size
        result = np.ones(size, bool)
        for read in self.reads:
            if read.site is None:
                return np.zeros(size, bool)
            result &= ~read.slices(size).any(axis=1)
        return result

    def copies(self) -> dict[int, int]:
        """Return index -> an earlier index that always has the same values."""
        size = self.group.size
        if not self.by_weights:
            return {}
        rows: list[list[bytes]] = [[] for _ in range(size)]
        for site, axis, position in self.producers:
            if not _even(position, size):
                return {}
            # + 0 makes -0.0 the same as 0.0.
            slices = _slices(np.moveaxis(site.tensor.numpy(), axis, 0), position, size) + 0
            for index in range(size):
                rows[index].append(slices[index].tobytes())
        first: dict[tuple[bytes, ...], int] = {}
        found: dict[int, int] = {}
        for index, row in enumerate(rows):
            earlier = first.setdefault(tuple(row), index)
            if earlier != index:
                found[index] = earlier
        return found


def _slices(data: np.ndarray, position: np.ndarray, size: int) -> np.ndarray:
    """Return the rows of ``data`` gathered by index: ``[size, everything else]``."""
    order = np.argsort(np.where(position < 0, size, position), kind="stable")
    return np.asarray(data[order[: int((position >= 0).sum())]].reshape(size, -1))


def _even(position: np.ndarray, size: int) -> bool:
    counts = np.bincount(position[position >= 0], minlength=size)
    return bool((counts == counts[0]).all())


def reads_of(dimensions: Dimensions, group: Group) -> Reads | None:
    """Return how the indices of ``group`` are used; ``None`` where that is not known."""
    if (
        group.reason
        or group.statistics
        or group.size < 2
        or not _stands_alone(dimensions, group)
    ):
        return None
    coupling = dimensions.coupling
    position = np.full(dimensions.atom_count, -1, np.int64)
    position[group.atoms] = np.arange(group.size)
    reads: list[Read] = []
    used: set[tuple[Site, int]] = set()
    sites = _sites_of_uses(coupling)
    for node, operands in coupling.contractions:
        touched = [
            (index, axis) for index, axis in operands if _occurs(dimensions, axis, position)
        ]
        if not touched:
            continue
        weights = [(index, axis) for index, axis in operands if (node, index) in sites]
        if not weights:
            reads.append(Read(node, -1))
            continue
        index, axis = weights[-1]
        if (index, axis) not in touched:
            # The channels of a depthwise convolution are not summed over.
            continue
        site = sites[node, index]
        number = next(i for i, one in enumerate(site.axes) if one is axis)
        where = position[dimensions.rows(axis)].max(axis=1)
        reads.append(Read(node, index, number, site, where))
        used.add((site, number))
    producers = tuple(
        (member.site, member.axis, member.index)
        for member in group.members
        if (member.site, member.axis) not in used
    )
    # A constant that both makes and takes the indices (a shared matrix) is not taken apart.
    if any(use.site in {site for site, _, _ in producers} for use in reads if use.site):
        return None
    return Reads(group, tuple(reads), producers)


def _stands_alone(dimensions: Dimensions, group: Group) -> bool:
    """Whether the indices are in rows of their own, and in nothing that combines them."""
    mine = np.zeros(dimensions.atom_count, bool)
    mine[group.atoms] = True
    if any(
        axis.rows is not None and mine[dimensions.rows(axis)].any()
        for axis in dimensions.coupling.mixed
    ):
        return False
    for axis in dimensions.axes_of(group):
        rows = dimensions.rows(axis)
        if rows.shape[1] > 1 and (rows[mine[rows].any(axis=1), 1:] != 0).any():
            return False
    return True


def _occurs(dimensions: Dimensions, axis: Axis, position: np.ndarray) -> bool:
    if axis.rows is None or axis.size == 1:
        return False
    return bool((position[dimensions.rows(axis)] >= 0).any())


def _sites_of_uses(coupling: Coupling) -> dict[tuple[ir.Node, int], Site]:
    return {use: site for site in coupling.sites for use in site.uses}

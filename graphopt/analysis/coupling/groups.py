"""Groups of interchangeable indices: the dimensions of a model that can be made smaller.

Atoms that occur in the same axes the same number of times differ in nothing but their values:
they are the indices of one *group*. A group is what importance is compared in, what a ratio
applies to, and what one application of the compaction cuts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.cells import ALWAYS, Rows
from graphopt.analysis.coupling.graph import Coupling, Site
from graphopt.analysis.coupling.rules import KERNEL, Axis, Fix

__all__ = ["Dimensions", "Group", "Member", "find_groups"]


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """An axis of a constant in which the indices of a group occur.

    Attributes:
        site: The constant.
        axis: Number of the axis.
        index: For every position of the axis, the index of the group there, or -1.
    """

    site: Site
    axis: int
    index: np.ndarray

    @property
    def cells(self) -> int:
        """Positions of the axis that one index takes, on average rounded down."""
        return int((self.index >= 0).sum()) // max(int(self.index.max()) + 1, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """One dimension of the model that can be made smaller, or why not.

    Attributes:
        name: ``constant:axis`` where the indices first occur; unique.
        atoms: The atoms of the indices, in the order of that axis: int32 ``[size]``.
        members: Constants that hold data of every index.
        reason: Why nothing may be removed; ``""`` where it may.
        statistics: Why removing an index changes the others; ``""`` where it does not.
        parameters: Elements of constants that belong to one index.
    """

    name: str
    atoms: np.ndarray
    members: tuple[Member, ...]
    reason: str
    statistics: str
    parameters: int

    @property
    def size(self) -> int:
        """Number of indices."""
        return len(self.atoms)


class Dimensions:
    """The groups of one analysis, and what they touch.

    Attributes:
        coupling: The analysis.
        groups: All groups whose indices hold weights of layers, free ones and frozen ones.
            An index that only vectors hold (a table of positions, a mask) is no group.
    """

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self._rows: dict[Axis, Rows] = {}
        axes = dict.fromkeys(
            axis
            for some in (
                *(site.axes for site in coupling.sites),
                *coupling.axes.values(),
                *(fix.axes for fix in coupling.fixes),
                *(term[2] for term in coupling.costs),
            )
            for axis in some
            if axis.rows is not None and axis.size != 1
        )
        for axis in axes:
            assert axis.rows is not None
            self._rows[axis] = coupling.cells.resolve(axis.rows)
        self._signature = self._sign(axes)
        self.groups = self._find()

    def rows(self, axis: Axis) -> Rows:
        """Return the atoms of an axis, resolved."""
        found = self._rows.get(axis)
        if found is None:
            assert axis.rows is not None
            found = self._rows[axis] = self.coupling.cells.resolve(axis.rows)
        return found

    def alive(self, axis: Axis, dead: np.ndarray) -> np.ndarray:
        """Return which indices of ``axis`` are left: bool ``[size]``.

        Args:
            axis: An axis of known length.
            dead: For every atom whether it is removed, bool ``[atoms]``.
        """
        return np.asarray(~dead[self.rows(axis)].any(axis=1))

    @functools.cached_property
    def atom_count(self) -> int:
        """Length of an array with one entry an atom."""
        return len(self.coupling.cells)

    def _sign(self, axes: Iterable[Axis]) -> np.ndarray:
        """Return a number for every atom that says in which axes it occurs, and how often."""
        signature = np.zeros(len(self.coupling.cells), np.uint64)
        for number, axis in enumerate(axes):
            rows = self._rows[axis]
            for column in range(rows.shape[1]):
                key = _mix(number * 16 + column)
                times = np.bincount(rows[:, column])
                there = np.nonzero(times)[0]
                signature[there] += times[there].astype(np.uint64) * key
        # What is frozen, for whatever reason, is not interchangeable with what is free.
        cells = self.coupling.cells
        for reason, atoms in cells.frozen_atoms().items():
            signature[atoms] += _mix(-1 - reason)
        signature[ALWAYS] = 0
        return signature

    def _find(self) -> list[Group]:
        cells = self.coupling.cells
        found: dict[int, list[tuple[Site, int]]] = {}
        order: dict[int, np.ndarray] = {}
        # Matrices first: a group is best known by the weight of a layer, and its indices
        # are in the order of that; vectors are often shared.
        for site in sorted(self.coupling.sites, key=lambda site: not _is_matrix(site)):
            for number, axis in enumerate(site.axes):
                if axis.size == 1:
                    continue
                rows = self.rows(axis)
                for column in range(rows.shape[1]):
                    atoms = rows[:, column]
                    _, first = np.unique(atoms, return_index=True)
                    atoms = atoms[np.sort(first)]
                    atoms = atoms[atoms != ALWAYS]
                    keys = self._signature[atoms]
                    for key in dict.fromkeys(keys.tolist()):
                        order.setdefault(key, atoms[keys == key])
                        found.setdefault(key, []).append((site, number))
        statistics = self._statistics()
        groups: list[Group] = []
        names: set[str] = set()
        # What is one index has no name to give away.
        for key, places in sorted(found.items(), key=lambda item: len(order[item[0]]) == 1):
            atoms = order[key]
            reason = cells.reasons(atoms[:1])[0]
            if reason == KERNEL or not _is_matrix(places[0][0]):
                continue
            members = self._members(atoms, places)
            groups.append(
                Group(
                    name=_unique(f"{places[0][0].name}:{places[0][1]}", names),
                    atoms=atoms,
                    members=members,
                    reason=reason or ("all of it is one index" if len(atoms) == 1 else ""),
                    statistics=statistics.get(int(atoms[0]), ""),
                    parameters=_parameters(members, len(atoms)),
                )
            )
        return groups

    def _members(
        self, atoms: np.ndarray, places: Sequence[tuple[Site, int]]
    ) -> tuple[Member, ...]:
        position = np.full(len(self.coupling.cells), -1, np.int64)
        position[atoms] = np.arange(len(atoms))
        position[ALWAYS] = -1
        return tuple(
            Member(site, number, position[self.rows(site.axes[number])].max(axis=1))
            for site, number in dict.fromkeys(places)
        )

    def _statistics(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for axis, reason in self.coupling.statistics:
            for atom in np.unique(self.rows(axis)).tolist():
                found.setdefault(atom, reason)
        return found

    @functools.cached_property
    def touched(self) -> dict[int, list[Axis]]:
        """Atom's signature -> every axis in which atoms of that signature occur."""
        touched: dict[int, list[Axis]] = {}
        for axis, rows in self._rows.items():
            for key in np.unique(self._signature[rows]).tolist():
                touched.setdefault(key, []).append(axis)
        return touched

    def axes_of(self, group: Group) -> set[Axis]:
        """Return the axes that become shorter when ``group`` is cut."""
        return set(self.touched.get(int(self._signature[group.atoms[0]]), ()))

    @functools.cached_property
    def fixes_of_axis(self) -> dict[Axis, list[Fix]]:
        """Axis -> what must be fixed when it becomes shorter."""
        found: dict[Axis, list[Fix]] = {}
        for fix in self.coupling.fixes:
            for axis in fix.axes:
                found.setdefault(axis, []).append(fix)
        return found

    @functools.cached_property
    def sites_of_axis(self) -> dict[Axis, list[Site]]:
        """Axis -> constants with that axis."""
        found: dict[Axis, list[Site]] = {}
        for site in self.coupling.sites:
            for axis in dict.fromkeys(site.axes):
                found.setdefault(axis, []).append(site)
        return found

    @functools.cached_property
    def values_of_axis(self) -> dict[Axis, list[ir.Value]]:
        """Axis -> computed values with that axis."""
        found: dict[Axis, list[ir.Value]] = {}
        for value, axes in self.coupling.axes.items():
            for axis in dict.fromkeys(axes):
                found.setdefault(axis, []).append(value)
        return found

    def parameters(self, dead: np.ndarray) -> int:
        """Return the number of elements of all constants that are left."""
        return sum(count for _, count in self._left(dead))

    def size_bytes(self, dead: np.ndarray) -> int:
        """Return the bytes of the elements of all constants that are left, but for strings."""
        sizes = ((site.tensor.dtype, count) for site, count in self._left(dead))
        # What a string takes is not known; no number of a budget is made of them.
        return math.ceil(sum(d.itemsize * n for d, n in sizes if d != ir.DataType.STRING))

    def _left(self, dead: np.ndarray) -> Iterable[tuple[Site, int]]:
        """Return every constant that is stored, and how many of its elements are left."""
        seen: dict[tuple[int, ...], tuple[Site, int]] = {}
        for site in self.coupling.sites:
            left = [1 if axis.size == 1 else self.alive(axis, dead) for axis in site.axes]
            key = (id(site.value), *(hash(np.asarray(mask).tobytes()) for mask in left))
            count = int(np.prod([np.sum(mask) for mask in left], dtype=np.int64))
            seen[key] = (site, count)
        return seen.values()

    def multiplications(self, dead: np.ndarray) -> int:
        """Return the multiplications of one run, as of ``Coupling.costs``."""
        total = 0
        cache: dict[Axis, int] = {}
        for _, times, axes in self.coupling.costs:
            product = times
            for axis in axes:
                if axis.rows is None or axis.size == 1:
                    continue
                if axis not in cache:
                    cache[axis] = int(self.alive(axis, dead).sum())
                product *= cache[axis]
            total += product
        return total


def _is_matrix(site: Site) -> bool:
    return sum(axis.size != 1 for axis in site.axes) > 1


def _mix(number: int) -> np.uint64:
    """Return a number that looks random (splitmix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    z = (number + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return np.uint64(z ^ (z >> 31))


def _unique(name: str, names: set[str]) -> str:
    number, unique = 1, name
    while unique in names:
        number += 1
        unique = f"{name}/{number}"
    names.add(unique)
    return unique


def _parameters(members: Sequence[Member], size: int) -> int:
    total = 0
    for member in members:
        others = 1
        for number, axis in enumerate(member.site.axes):
            if number != member.axis:
                others *= axis.size or 1
        total += int((member.index >= 0).sum()) * others
    return total // max(size, 1)


def find_groups(coupling: Coupling) -> Dimensions:
    """Return the groups of an analysed model."""
    return Dimensions(coupling)

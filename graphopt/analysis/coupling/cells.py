"""Which indices of which axes live or die together: the algebra of the analysis.

An *atom* is a thing that is kept or removed as a whole. The index ``i`` of an axis is alive
when **all** atoms of its row are alive; a plain channel has a row of one atom, and a channel
of a merged axis ``[heads, width]`` a row of two. Three operations say everything that the
operators need:

* ``unify``: two axes are the same, index by index;
* ``merge``: the product of two axes, as ``Reshape`` makes it of neighbours: rows side by side;
* ``split``: the reverse. An atom that is not yet a product becomes one, *everywhere* it is
  used: it is defined as the conjunction of two new atoms.

Concatenating and picking indices are ``numpy`` operations on the rows. All of it is sound in
the sense that axes that were unified have equal rows for every choice of dead atoms; where no
fine answer exists a coarse one is taken (more atoms become one), never a wrong one.

The cost is that of a few vectorised passes over the rows that meet: the sum of the *lengths*
of the axes that an operator couples, never of their products.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["ALWAYS", "Cells", "Rows", "concatenate"]

Rows = np.ndarray
"""int32 ``[length, columns]``: the atoms of every index; ``ALWAYS`` where a row is shorter."""

ALWAYS = 0
"""The atom that cannot die; fills up rows."""


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of axes laid end to end."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_widened(part, width) for part in parts])


class Cells:
    """The atoms of one analysis: a union-find with definitions and reasons for freezing."""

    def __init__(self) -> None:
        self._count = 1
        self._parent = np.zeros(1024, np.int32)
        # Children of a defined atom; 0: not defined.
        self._first = np.zeros(1024, np.int32)
        self._second = np.zeros(1024, np.int32)
        # Index into _reasons, 0: free. Valid at roots.
        self._frozen = np.zeros(1024, np.int32)
        self._reasons: list[str] = [""]
        self._reason_index: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return self._count

    def fresh(self, length: int) -> Rows:
        """Return the rows of an axis whose indices are independent: ``[length, 1]``."""
        first = self._count
        self._count += length
        while self._count > len(self._parent):
            for name in ("_parent", "_first", "_second", "_frozen"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        atoms = np.arange(first, self._count, dtype=np.int32)
        self._parent[first : self._count] = atoms
        return atoms[:, None]

    def frozen(self, length: int, reason: str) -> Rows:
        """Return the rows of an axis of which nothing may be removed."""
        atom = self.fresh(1)
        self._frozen[atom] = self._reason(reason)
        return np.repeat(atom, length, axis=0)

    def freeze(self, rows: Rows, reason: str) -> None:
        """Forbid the removal of any index of ``rows``; the first reason given is kept."""
        atoms = np.unique(self.resolve(rows))
        atoms = atoms[(atoms != ALWAYS) & (self._frozen[atoms] == 0)]
        self._frozen[atoms] = self._reason(reason)

    def reasons(self, atoms: np.ndarray) -> list[str]:
        """Return why each of the ``atoms`` is frozen; ``""`` for a free one."""
        return [self._reasons[i] for i in self._frozen[self.find(atoms)]]

    def is_frozen(self, atoms: np.ndarray) -> np.ndarray:
        """Return for each of the ``atoms`` whether it is frozen (``ALWAYS`` is)."""
        roots = self.find(atoms)
        return np.asarray((self._frozen[roots] != 0) | (roots == ALWAYS))

    def frozen_atoms(self) -> dict[int, np.ndarray]:
        """Return the frozen representatives by reason (a number)."""
        atoms = np.nonzero(self._frozen[: self._count])[0]
        roots = atoms[self._parent[atoms] == atoms]
        return {
            int(reason): roots[self._frozen[roots] == reason]
            for reason in np.unique(self._frozen[roots])
        }

    def find(self, atoms: np.ndarray) -> np.ndarray:
        """Return the representative of every atom; same shape."""
        parent = self._parent
        roots = parent[atoms]
        while True:
            above = parent[roots]
            if (above == roots).all():
                break
            roots = above
        parent[atoms] = roots
        return np.asarray(roots)

    def resolve(self, rows: Rows) -> Rows:
        """Return ``rows`` in representatives, definitions expanded, as narrow as possible.

        Frozen atoms say nothing beside a free one and are dropped there; a row without a free
        atom keeps one of its frozen ones, for the reason.
        """
        rows = self.find(rows)
        while True:
            first = self._first[rows]
            if not first.any():
                break
            columns = []
            for j in range(rows.shape[1]):
                defined = first[:, j] != 0
                if defined.any():
                    columns.append(np.where(defined, first[:, j], rows[:, j]))
                    columns.append(np.where(defined, self._second[rows[:, j]], ALWAYS))
                else:
                    columns.append(rows[:, j])
            rows = self.find(np.stack(columns, axis=1))
        return self._narrow(rows) if rows.shape[1] > 1 else rows

    def _narrow(self, rows: Rows) -> Rows:
        """Drop repeated atoms, frozen ones beside free ones, and columns left empty."""
        rows = rows.copy()
        for j in range(1, rows.shape[1]):
            rows[(rows[:, :j] == rows[:, j : j + 1]).any(axis=1), j] = ALWAYS
        frozen = self._frozen[rows] != 0
        if frozen.any():
            has_free = ((rows != ALWAYS) & ~frozen).any(axis=1)
            rows[frozen & has_free[:, None]] = ALWAYS
            # Only frozen ones: the first is enough.
            later = frozen & (np.cumsum(frozen, axis=1) > 1) & ~has_free[:, None]
            rows[later] = ALWAYS
        # Left-justified, in the order of the columns.
        order = np.argsort(rows == ALWAYS, axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
        used = (rows != ALWAYS).any(axis=0)
        return rows[:, used] if used.any() else rows[:, :1]

    def union(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make the atoms ``a`` and ``b`` the same, pair by pair; none may be defined."""
        a, b = self.find(a), self.find(b)
        while True:
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            low, high = np.minimum(a, b), np.maximum(a, b)
            # The lower representative wins, so that the result is independent of the order.
            frozen = self._frozen[high]
            np.minimum.at(self._parent, high, low)
            target = self.find(high)
            gains = (frozen != 0) & (self._frozen[target] == 0) & (target != ALWAYS)
            self._frozen[target[gains]] = frozen[gains]
            a, b = self.find(low), target

    def define(self, atoms: np.ndarray, rows: Rows) -> None:
        """Define each of the ``atoms`` as its row of two or more; no gaps in the rows.

        An atom given twice makes its two rows the same. What would define an atom by itself
        waits for the next round, or, when nothing else is left, becomes one atom.
        """
        unique, where, back = np.unique(atoms, return_index=True, return_inverse=True)
        if len(unique) < len(atoms):
            self.union(rows.ravel(), rows[where][back].ravel())
            atoms, rows = self.find(unique), self.find(rows[where])
        clash = np.isin(rows, atoms).any(axis=1)
        if clash.all():
            self.union(np.repeat(atoms, rows.shape[1]), rows.ravel())
            return
        atoms, rows = atoms[~clash], rows[~clash]
        frozen = self._frozen[atoms]
        for reason in np.unique(frozen[frozen != 0]):
            self.freeze(rows[frozen == reason], self._reasons[reason])
        while rows.shape[1] > 2:
            # Equal tails get one helper atom.
            _, where, back = np.unique(
                rows[:, -2:], axis=0, return_index=True, return_inverse=True
            )
            helper = self.fresh(len(where))[:, 0]
            self._first[helper], self._second[helper] = rows[where, -2], rows[where, -1]
            rows = np.concatenate([rows[:, :-2], helper[back.ravel()][:, None]], axis=1)
        self._first[atoms], self._second[atoms] = rows[:, 0], rows[:, 1]

    def unify(self, a: Rows, b: Rows) -> None:
        """Make two axes of the same length the same, index by index."""
        assert len(a) == len(b), "only axes of the same length can be the same"
        a, b = self.resolve(a), self.resolve(b)
        if a.shape[1] == b.shape[1] == 1 or not self._unify_factors(a, b):
            self._unify_rows(a, b)

    def _unify_rows(self, a: Rows, b: Rows) -> None:
        """Unify row by row, in any order."""
        while True:
            a, b = _same_width(self.resolve(a), self.resolve(b))
            if np.array_equal(a, b):
                return
            free_a, free_b = ~self.is_frozen(a), ~self.is_frozen(b)
            # As sets, without what cannot die.
            left = np.sort(np.where(free_a, a, ALWAYS), axis=1)
            right = np.sort(np.where(free_b, b, ALWAYS), axis=1)
            differ = np.not_equal(left, right).any(axis=1)
            if not differ.any():
                return
            fixed = differ & np.not_equal(free_a.any(axis=1), free_b.any(axis=1))
            if fixed.any():
                self._freeze_by(a[fixed], b[fixed])
            else:
                self._unify_free(a[differ], b[differ])

    def _freeze_by(self, a: Rows, b: Rows) -> None:
        """Freeze rows for the reason of the other one, which is frozen altogether."""
        b_is_fixed = self.is_frozen(b).all(axis=1, keepdims=True)
        fixed = np.where(b_is_fixed, b, a)
        other = np.where(b_is_fixed, a, b)
        reasons = self._frozen[fixed].max(axis=1)
        for reason in np.unique(reasons):
            text = self._reasons[reason] or "it meets an axis of which nothing can be removed"
            self.freeze(other[reasons == reason], text)

    def _unify_free(self, a: Rows, b: Rows) -> None:
        """Make some progress on rows that differ and have free atoms on both sides."""
        length_a, length_b = (a != ALWAYS).sum(axis=1), (b != ALWAYS).sum(axis=1)
        same = length_a == length_b
        if same.any():
            self.union(a[same].ravel(), b[same].ravel())
            return
        swap = (length_a > length_b)[:, None]
        short, long = np.where(swap, b, a), np.where(swap, a, b)
        atom, length = short[:, 0], np.maximum(length_a, length_b)
        # An atom cannot be defined by itself.
        single = np.equal((short != ALWAYS).sum(axis=1), 1)
        single &= ~np.equal(long, short[:, :1]).any(axis=1)
        if single.any():
            # One length at a time: equal atoms get definitions of equal shape.
            width = int(length[single].min())
            mine = single & (length == width)
            self.define(atom[mine], long[mine][:, :width])
            return
        both = np.concatenate([short, long], axis=1)
        both = np.where(both == ALWAYS, short[:, :1], both)
        self.union(np.repeat(atom, both.shape[1]), both.ravel())

    def _unify_factors(self, a: Rows, b: Rows) -> bool:
        """Unify two axes factor by factor, where both divide at the same stride."""
        for stride in sorted(_strides(a) | _strides(b), reverse=True):
            if len(a) % stride or not (_divides(a, stride) and _divides(b, stride)):
                continue
            major_a, minor_a = self.split(a, stride)
            major_b, minor_b = self.split(b, stride)
            self.unify(major_a, major_b)
            self.unify(minor_a, minor_b)
            return True
        return False

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Return the rows of the product of two axes, ``a`` the slower one."""
        return np.concatenate([np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))], axis=1)

    def split(self, rows: Rows, stride: int) -> tuple[Rows, Rows]:
        """Return the rows of the two factors of an axis.

        Args:
            rows: The axis, of a length that ``stride`` divides.
            stride: Length of the faster factor.

        Returns:
            The slower factor, of length ``len(rows) // stride``, and the faster one.
        """
        rows = self.resolve(rows)
        major = len(rows) // stride
        if major == 1 or stride == 1:
            nothing = np.zeros((1, 1), np.int32)
            return (nothing, rows) if major == 1 else (rows, nothing)
        # Pieces of different structure, as Concat lays them end to end, are split each by
        # itself: they have slower factors of their own and share the faster one.
        filled = (rows != ALWAYS).reshape(major, -1)
        starts = [0, *(np.nonzero((filled[1:] != filled[:-1]).any(axis=1))[0] + 1), major]
        slow, fast = [], []
        for start, stop in itertools.pairwise(starts):
            piece = rows[start * stride : stop * stride]
            one_slow, one_fast = self._split_piece(piece, stride)
            slow.append(one_slow)
            fast.append(one_fast)
        for other in fast[1:]:
            self.unify(fast[0], other)
        return concatenate(slow), fast[0]

    def _split_piece(self, rows: Rows, stride: int) -> tuple[Rows, Rows]:
        major = len(rows) // stride
        grid = rows.reshape(major, stride, -1)
        new: list[Rows] = []
        slow: list[np.ndarray] = []
        fast: list[np.ndarray] = []
        for j in range(grid.shape[2]):
            column = grid[:, :, j]
            if not column.any():
                continue
            by_slow = bool((column == column[:, :1]).all())
            by_fast = bool((column == column[:1]).all())
            if by_slow:
                slow.append(column[:, 0])
            if by_fast and (not by_slow or self.is_frozen(column[0, :1])[0]):
                fast.append(column[0])
            if not by_slow and not by_fast:
                new = new or [self.fresh(major), self.fresh(stride)]
                self._divide(column, new[0], new[1])
        slow += [rows[:, 0] for rows in new[:1]]
        fast += [rows[:, 0] for rows in new[1:]]
        reason = "it is one factor of an axis, and the other one says what can be removed"
        slow = slow or [self.frozen(major, reason)[:, 0]]
        fast = fast or [self.frozen(stride, reason)[:, 0]]
        return np.stack(slow, axis=1), np.stack(fast, axis=1)

    def _divide(self, column: np.ndarray, slow: Rows, fast: Rows) -> None:
        """Define the atoms of ``column`` ``[major, stride]`` as products of two factors."""
        products = self.merge(slow, fast)
        there = column.ravel() != ALWAYS
        if not there.all():
            # A row without an atom here must not be removed by the new factors.
            reason = "a Reshape divides an axis whose parts have no common factor"
            self.freeze(products[~there], reason)
        self._unify_rows(column.reshape(-1, 1)[there], products[there])

    def _reason(self, reason: str) -> int:
        index = self._reason_index.setdefault(reason, len(self._reasons))
        if index == len(self._reasons):
            self._reasons.append(reason)
        return index


def _same_width(a: Rows, b: Rows) -> tuple[Rows, Rows]:
    width = max(a.shape[1], b.shape[1])
    return _widened(a, width), _widened(b, width)


def _widened(rows: Rows, width: int) -> Rows:
    """Return ``rows`` with as many columns; ``numpy.pad`` takes longer than the analysis."""
    missing = width - rows.shape[1]
    if not missing:
        return rows
    return np.concatenate([rows, np.full((len(rows), missing), ALWAYS, np.int32)], axis=1)


def _digit(column: np.ndarray) -> tuple[int, int] | None:
    """Return stride and period of a column that counts like a digit; ``None`` for another.

    Atom ``k`` of a digit of ``n`` stands where ``index // stride % n == k``.
    """
    change = column != column[0]
    stride = int(change.argmax()) if change.any() else len(column)
    again = np.nonzero(~change[stride:])[0]
    period = stride + int(again[0]) if len(again) else len(column)
    values = column[:period:stride]
    index = np.arange(len(column)) // stride % len(values)
    if period % stride or len(np.unique(values)) < len(values):
        return None
    return (stride, period) if np.array_equal(column, values[index]) else None


def _strides(rows: Rows) -> set[int]:
    """Return the strides at which ``rows`` may divide into factors."""
    digits = [_digit(rows[:, j]) for j in range(rows.shape[1])]
    found = {stride for digit in digits if digit is not None for stride in digit}
    return {stride for stride in found if 1 < stride < len(rows)}


def _divides(rows: Rows, stride: int) -> bool:
    """Whether a split of ``rows`` at ``stride`` makes no two atoms one."""
    if (rows == ALWAYS).any():
        return False
    for j in range(rows.shape[1]):
        digit = _digit(rows[:, j])
        if digit is None:
            return False
        low, high = digit
        clean = low % stride == 0 or stride % high == 0
        if not clean and (stride % low or high % stride):
            return False
    return True

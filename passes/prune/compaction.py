"""Make tensors smaller: slice what a group touches, and repair what counts or measures it.

One call of ``Compactor.cut`` is one numbered application: it removes some indices of one
group from every constant, lets the fixes of the operators (``group``, split sizes, targets of
``Reshape`` ...) follow, and refreshes the recorded shapes. Whatever is not touched keeps
its bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.cut import Cut, Lengths
from graphopt.analysis.coupling.graph import Site
from graphopt.analysis.coupling.groups import Dimensions, Group
from graphopt.analysis.coupling.rules import Axis, Fix
from graphopt.analysis.facts import tensor_of
from graphopt.edit import Edit, Rewrite
from graphopt.rewriter import Rewriter

__all__ = ["Compactor"]


class Compactor:
    """Cuts groups out of one model, one after the other.

    Args:
        dimensions: The groups of the model as it was analysed.
        rewriter: What the model is edited with; nobody else may edit it in between.

    Attributes:
        dead: For every atom whether it was removed, bool ``[atoms]``.
    """

    def __init__(self, dimensions: Dimensions, rewriter: Rewriter) -> None:
        self.dimensions = dimensions
        self.rewriter = rewriter
        self.dead = np.zeros(dimensions.atom_count, bool)
        self._numbers: dict[tuple[ir.Node, int], np.ndarray] = {}
        self._fix_order = {fix: i for i, fix in enumerate(dimensions.coupling.fixes)}
        self._site_order = {site: i for i, site in enumerate(dimensions.coupling.sites)}

    def alive(self, axis: Axis) -> np.ndarray:
        """Return which of the original indices of ``axis`` are left: bool ``[size]``."""
        return self.dimensions.alive(axis, self.dead)

    def cut(
        self,
        group: Group,
        removed: Sequence[int] | np.ndarray,
        prepare: Rewrite | None = None,
    ) -> bool:
        """Remove the indices ``removed`` of ``group``; return whether that was done.

        It is not when the limit of rewrites is reached or when a guard objects. ``prepare``
        makes edits of the same application before anything is removed.

        Raises:
            ValueError: The group is needed whole, or nothing of it would be left.
        """
        if group.reason:
            raise ValueError(f"{group.name} cannot be cut: {group.reason}")
        if len(set(removed)) >= group.size:
            raise ValueError(f"{group.name} would lose all of its {group.size} indices")
        after = self.dead.copy()
        after[group.atoms[np.asarray(removed, np.int64)]] = True
        numbers = copy.copy(self._numbers)
        touched = self.dimensions.axes_of(group)
        before = _Alive(self.dimensions, self.dead)
        left = _Alive(self.dimensions, after)
        lengths = Lengths(before, left, numbers, self.dimensions.coupling.kind_of)

        def rewrite(edit: Edit) -> None:
            edit.note(f"{group.name}: {group.size} -> {group.size - len(removed)}")
            if prepare is not None:
                prepare(edit)
            self._slice_constants(edit, touched, before, left)
            self._run_fixes(edit, touched, lengths)
            self._refresh_shapes(edit, touched, left)

        if self.rewriter.apply("cut-group", group.name, rewrite) is None:
            return False
        self.dead, self._numbers = after, numbers
        return True

    def _slice_constants(
        self, edit: Edit, touched: set[Axis], before: _Alive, left: _Alive
    ) -> None:
        sites = dict.fromkeys(
            site for axis in touched for site in self.dimensions.sites_of_axis.get(axis, ())
        )
        # Sites of one constant that need the same slices stay together.
        wanted: dict[tuple[object, ...], list[Site]] = {}
        kept: dict[tuple[object, ...], list[np.ndarray | None]] = {}
        for site in sorted(sites, key=self._site_order.__getitem__):
            slices = [_positions(axis, before, left) for axis in site.axes]
            if all(one is None for one in slices):
                continue
            node, index = site.uses[0]
            value = node.inputs[index]
            key: tuple[object, ...] = (
                value,
                *(None if one is None else one.tobytes() for one in slices),
            )
            wanted.setdefault(key, []).append(site)
            kept[key] = slices
        for key, group in wanted.items():
            _replace(edit, group, kept[key])

    def _run_fixes(self, edit: Edit, touched: set[Axis], lengths: Lengths) -> None:
        coupling = self.dimensions.coupling
        fixes: set[Fix] = set()
        for axis in touched:
            fixes.update(self.dimensions.fixes_of_axis.get(axis, ()))
        for fix in sorted(fixes, key=self._fix_order.__getitem__):
            original = {
                index: coupling.numbers_of_use(fix.node, index)
                for index in range(len(fix.node.inputs))
            }
            fix.apply(Cut(edit, fix.node, lengths, original))

    def _refresh_shapes(self, edit: Edit, touched: set[Axis], left: _Alive) -> None:
        values: dict[ir.Value, None] = {}
        for axis in touched:
            values.update(dict.fromkeys(self.dimensions.values_of_axis.get(axis, ())))
        for value in values:
            if value.shape is None or value.type is None:
                continue
            dims = list(value.shape.dims)
            for number, axis in enumerate(self.dimensions.coupling.axes[value]):
                if axis in touched:
                    dims[number] = int(left(axis).sum())
            if dims != list(value.shape.dims):
                edit.set_type(value, value.type, ir.Shape(dims))


class _Alive:
    """Axis -> which of its original indices are left; remembered."""

    def __init__(self, dimensions: Dimensions, dead: np.ndarray) -> None:
        self._dimensions = dimensions
        self._dead = dead
        self._known: dict[Axis, np.ndarray] = {}

    def __call__(self, axis: Axis) -> np.ndarray:
        found = self._known.get(axis)
        if found is None:
            found = self._known[axis] = self._dimensions.alive(axis, self._dead)
        return found


def _positions(axis: Axis, before: _Alive, left: _Alive) -> np.ndarray | None:
    """Return which of the positions that were left stay; ``None``: all of them."""
    if axis.size == 1:
        return None
    mask = left(axis)[before(axis)]
    return None if mask.all() else np.nonzero(mask)[0]


def _replace(edit: Edit, sites: Sequence[Site], slices: Sequence[np.ndarray | None]) -> None:
    """Give the uses of ``sites``, which share one constant, its slices."""
    uses = [use for site in sites for use in site.uses]
    node, index = uses[0]
    value = node.inputs[index]
    assert value is not None
    tensor = tensor_of(value)
    assert tensor is not None
    data = tensor.numpy()
    for number, positions in enumerate(slices):
        if positions is not None:
            data = np.take(data, positions, axis=number)
    new = ir.Tensor(np.ascontiguousarray(data), dtype=tensor.dtype)
    alone = set(value.uses()) == {(user, place) for user, place in uses}
    if alone and value.is_initializer() and not value.is_graph_output():
        edit.set_tensor(value, new)
        return
    replaced = edit.constant(new, value.name or "weight", near=node)
    for user, place in uses:
        edit.set_input(user, place, replaced)
    producer = value.producer()
    if value.uses() or value.is_graph_output():
        return
    if producer is not None:
        edit.remove(producer)
    elif value.is_initializer() and not value.is_graph_input():
        edit.remove_initializer(value)

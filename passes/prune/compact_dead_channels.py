"""Remove channels that carry nothing: the answers stay, the tensors get smaller.

Before -> after::

    h = Relu(Conv(x, W1, B1)); y = Conv(h, W2, B2)          W1 [64, ...], W2 [32, 64, ...]
    h = Relu(Conv(x, W1', B1')); y = Conv(h, W2', B2')      W1' [60, ...], W2' [32, 60, ...]

Four kinds of channels go: those that no weight reads (all zero, or nothing uses them), those
that are zero, those that are constant (what they add goes into the consumer's bias), and
copies of another channel (its consumers' weights are added up).

Preconditions, per channel:
    1. ``prune-channels`` could remove it (the coupling analysis finds its group free), and its
       group is not one factor of an axis (a head), nor combined by a recurrent or fused
       attention operator, nor something that statistics are taken over.
    2. Every sum it ends in is with constant weights, unless nothing reads it at all.
    3. A constant other than zero ends in Conv without padding (at a border less of it would be
       added), Gemm or MatMul; a weight that is changed has no other use.

Numerics: close; sums have fewer terms, and terms that were separate are added first. Inputs
that are infinite or NaN are not considered: zero times them is not zero.
Scope: main graph and subgraphs.
Leaves alone: the interface, and what the coupling analysis finds to be needed whole.
Reference: onnx operator pages; the case of a constant that is not zero:
https://github.com/microsoft/nni/issues/2130
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.graph import analyse
from graphopt.analysis.coupling.groups import Dimensions, Group, find_groups
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.rewriter import Rewriter

from .compaction import Compactor
from .dead import Reads, reads_of
from .dead_constants import constant_values
from .dead_edits import Absorption, can_absorb

__all__ = ["CompactDeadChannels"]


@dataclasses.dataclass(frozen=True)
class CompactDeadChannels(Pass):
    """Remove channels that are unread, zero, constant or copies; see the module docstring.

    Attributes:
        copies: Remove copies of other channels, too.
    """

    name: ClassVar[str] = "compact-dead-channels"
    promise: ClassVar[Promise] = Promise.CLOSE

    copies: bool = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Remove until nothing is left to remove."""
        rewriter = context.rewriter(model, self)
        removed = groups = 0
        while not rewriter.ledger.exhausted:
            dimensions = find_groups(analyse(model))
            count, touched = self._round(dimensions, rewriter, context)
            removed += count
            groups += touched
            if not touched:
                break
        summary = f"removed {removed} channels of {groups} groups"
        return PassResult(model, modified=groups > 0, summary=summary)

    def _round(
        self, dimensions: Dimensions, rewriter: Rewriter, context: Context
    ) -> tuple[int, int]:
        """Cut every group once; return how many indices of how many groups went."""
        compactor = Compactor(dimensions, rewriter)
        removed = groups = 0
        for group in dimensions.groups:
            dead = self._dead(dimensions, group, context)
            if dead is None:
                continue
            if compactor.cut(group, dead.removed, dead.prepare(compactor)):
                removed += len(dead.removed)
                groups += 1
                if dead.adds_constants:
                    # They belong to no group yet.
                    break
        return removed, groups

    def _dead(
        self, dimensions: Dimensions, group: Group, context: Context
    ) -> Absorption | None:
        """Return what can go, and what must take its place; ``None``: nothing."""
        reads = reads_of(dimensions, group)
        if reads is None:
            return None
        unread = reads.unread()
        copies = reads.copies() if self.copies else {}
        copies = {i: j for i, j in copies.items() if not unread[i] and not unread[j]}
        constant = self._constants(dimensions, reads, context)
        dead = Absorption(reads, unread, constant, {} if constant else copies)
        return dead if dead.removed else None

    def _constants(
        self, dimensions: Dimensions, reads: Reads, context: Context
    ) -> dict[int, list[float]]:
        """Return index -> its constant at every sum that it ends in."""
        if not reads.reads or not reads.by_weights or not _has_zero_rows(reads):
            return {}
        known = constant_values(dimensions, reads.group, context.runtime)
        found: dict[int, list[float]] = {}
        values = []
        for read in reads.reads:
            source = read.node.inputs[1 - read.index if read.index in (0, 1) else 0]
            vector = known.get(source) if source is not None else None
            if vector is None:
                return {}
            values.append(vector)
        for index in range(reads.group.size):
            mine = [float(vector[index]) for vector in values]
            pairs = zip(mine, reads.reads, strict=True)
            if np.isfinite(mine).all() and all(v == 0 or can_absorb(r) for v, r in pairs):
                found[index] = mine
        return found


def _has_zero_rows(reads: Reads) -> bool:
    """Whether any weight that makes the indices has an index that is all zero."""
    for site, axis, position in reads.producers:
        if sum(one.size != 1 for one in site.axes) > 1:
            data = np.moveaxis(site.tensor.numpy(), axis, 0)[position >= 0]
            if (~data.reshape(len(data), -1).any(axis=1)).any():
                return True
    return False

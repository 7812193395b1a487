"""Integer copies of weights, each made once however many operators share it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.qparams import QParams
from graphopt.edit import Edit

__all__ = ["WeightStore", "drop_unused", "noise_to_signal", "owner_node"]


class WeightStore:
    """The constants that a run has added, found again by what they were made from."""

    def __init__(self) -> None:
        self._made: dict[tuple[ir.Value, tuple[object, ...]], ir.Value] = {}

    def constant(
        self,
        edit: Edit,
        source: ir.Value,
        key: tuple[object, ...],
        name: str,
        make: Callable[[], npt.NDArray[Any]],
    ) -> ir.Value:
        """Return the initializer that was made from ``source`` under ``key``.

        It lives in the graph of ``source``, so that every user of the weight can see it.

        Args:
            edit: The transaction that adds it, if it is new.
            source: The weight it is made from.
            key: What tells it from others made from the same source.
            name: Hint for its name, if it is new.
            make: Returns its data, if it is new.
        """
        full = (source, key)
        known = self._made.get(full)
        # An application that was taken back has taken its constants along.
        if known is None or not known.is_initializer():
            known = edit.constant(make(), name, near=owner_node(source))
            self._made[full] = known
        return known


def owner_node(value: ir.Value) -> ir.Node:
    """Return some node of the graph in which ``value`` lives."""
    graph = value.graph
    assert isinstance(graph, ir.Graph), f"{value.name!r} belongs to no graph"
    return graph[0]


def drop_unused(edit: Edit, value: ir.Value, gone: Collection[ir.Node] = ()) -> None:
    """Remove the constant ``value`` if nothing uses it any more.

    So the file shrinks even where no dead-code elimination follows. A Transpose or Constant
    node that makes it goes too, and then what that was made from.

    Args:
        edit: The transaction.
        value: An initializer, the output of a Constant, or a Transpose of either.
        gone: Nodes that are being removed: their uses do not count.
    """
    if value.is_graph_output() or value.is_graph_input():
        return
    if not set(value.consumers()) <= set(gone):
        return
    producer = value.producer()
    if value.is_initializer():
        edit.remove_initializer(value)
    elif producer is not None and producer.op_type in ("Transpose", "Constant"):
        edit.remove(producer)
        for source in producer.inputs:
            if source is not None:
                drop_unused(edit, source, [producer])


def noise_to_signal(w: npt.NDArray[Any], qparams: QParams) -> float:
    """Return the energy of the rounding error of ``w`` over that of ``w``; 0 for zeros."""
    # A block of rows at a time: a copy of a large embedding would double the memory.
    noise = signal = 0.0
    rows = max(1, (1 << 22) // max(1, w[:1].size))
    for start in range(0, len(w), rows):
        block = np.asarray(w[start : start + rows], np.float32)
        local = qparams
        if qparams.axis == 0:
            part = slice(start, start + rows)
            local = QParams(qparams.scale[part], qparams.zero_point[part], 0)
        error = local.round_trip(block) - block
        noise += float(np.vdot(error, error))
        signal += float(np.vdot(block, block))
    return noise / signal if signal else 0.0

"""Which tensors of the original are still the same tensors in the result."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ledger import Application, Ledger

__all__ = ["other_data"]

_MOST = 100
"""Tensors that are looked at to find the way from a layer to a factor that was folded into it:
six nodes at most, and the constants that they read."""


def other_data(graph: ir.Graph, ledger: Ledger) -> set[str]:
    """Return the tensors of ``graph`` that kept their names, and hold other data now.

    A factor that is folded into a layer further up, past transposes and reshapes, is in every
    tensor from that layer on.
    """
    found: set[str] = set()
    producers = {value.name: node for node in graph for value in node.outputs}
    for entry in ledger.applied():
        again = _made_again(entry)
        for old, new in entry.values_replaced.items():
            if not again or old == new or new in again:
                continue
            # What lies between may have been rewritten before: the original has the way.
            found |= _way(old, again, producers) - {old}
    return found


def _made_again(entry: Application) -> set[str]:
    """Return the tensors that a node computed before, and another computes now."""
    removed = {name for record in entry.nodes_removed for name in record.outputs}
    return removed & {name for record in entry.nodes_added for name in record.outputs}


def _way(name: str, sources: set[str], producers: dict[str | None, ir.Node]) -> set[str]:
    """Return the tensors from one of ``sources`` to ``name``; nothing if there is no way."""
    came_from = {name: ""}
    waiting = [name]
    while waiting and len(came_from) < _MOST:
        name = waiting.pop(0)
        if name in sources:
            way = set[str]()
            while name:
                way.add(name)
                name = came_from[name]
            return way
        node = producers.get(name)
        for value in node.inputs if node is not None else ():
            if value is not None and value.name and value.name not in came_from:
                came_from[value.name] = name
                waiting.append(value.name)
    return set()

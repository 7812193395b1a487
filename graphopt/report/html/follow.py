"""Follows an operator through the rewrites to the node that does its work in the result."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ledger import Application, Ledger, NodeRecord

__all__ = ["Follower"]

_PRODUCTS = ("MatMul", "Gemm")
_CONVOLUTIONS = ("Conv",)


class Follower:
    """Knows in which rewrites a node was removed, or got another output.

    Args:
        ledger: The run.
        result: The model after it.
    """

    def __init__(self, ledger: Ledger, result: ir.Model) -> None:
        self._entries: dict[str, list[Application]] = {}
        for entry in ledger.applied():
            names = [record.outputs[0] for record in entry.nodes_removed if record.outputs]
            for name in dict.fromkeys((*names, *entry.values_replaced)):
                self._entries.setdefault(name, []).append(entry)
        self._nodes = {
            node.outputs[0].name: node
            for graph in result.graphs()
            for node in graph
            if node.outputs
        }

    def node(self, node: ir.Node) -> ir.Node | None:
        """Return the node of the result that does the work of ``node``; ``None``: gone."""
        name: str | None = node.outputs[0].name or ""
        done = 0
        while name:
            entry = next((e for e in self._entries.get(name, ()) if e.number > done), None)
            if entry is None:
                break
            done = entry.number
            name = _successor(entry, name, node.op_type)
        return self._nodes.get(name) if name else None


def _successor(entry: Application, name: str, op_type: str) -> str | None:
    """Return the first output of what does the work of the node with output ``name``."""
    moved = entry.values_replaced.get(name)
    old = next((record for record in entry.nodes_removed if name in record.outputs), None)
    if old is None:
        # It may have taken the name of a graph output.
        here = [record for record in entry.nodes_changed if moved in record.outputs]
        return moved if here and _alike(here[0], op_type) else name
    found = [r for r in (*entry.nodes_added, *entry.nodes_changed) if _alike(r, op_type)]
    if not found:
        return moved  # an equal node that stays, if any

    def likeness(record: NodeRecord) -> tuple[bool, bool, bool]:
        shared = not set(record.inputs).isdisjoint(old.inputs)
        return moved in record.outputs, shared, record.op_type == op_type

    return max(found, key=likeness).outputs[0]


def _alike(record: NodeRecord, op_type: str) -> bool:
    """Whether the operator is the same kind of layer: ``MatMulInteger`` for ``MatMul``."""
    for family in (_PRODUCTS, _CONVOLUTIONS):
        if op_type in family:
            return any(word in record.op_type for word in family)
    return op_type in record.op_type

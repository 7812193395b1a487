"""The ledger, indexed: which rewrites touched a name."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ledger import Application, Ledger

__all__ = ["Touches"]


class Touches:
    """Answers questions about names in time that does not grow with the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._by_name: dict[str, dict[int, None]] = {}
        for entry in ledger.applied():
            for name in _names(entry):
                self._by_name.setdefault(name, {})[entry.number] = None
        self._by_name.pop("", None)

    def numbers(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the rewrites that touched one of ``names``, ascending."""
        found: dict[int, None] = {}
        for name in names:
            found |= self._by_name.get(name, {})
        return tuple(sorted(found))


def _names(entry: Application) -> Iterable[str]:
    yield entry.anchor
    for node in (*entry.nodes_removed, *entry.nodes_added, *entry.nodes_changed):
        yield node.name
        yield from node.outputs
    for weight in (*entry.weights_removed, *entry.weights_added):
        yield weight.name
    yield from entry.values_replaced

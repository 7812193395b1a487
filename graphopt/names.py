"""The names in use in a model, and names that are free."""

from __future__ import annotations

import re

import onnx_ir as ir

__all__ = ["Names"]

_NUMBERED = re.compile(r"(.*?)_g(\d+)", re.DOTALL)


class Names:
    """The names in use in a model: values and nodes of every graph, subgraph and function.

    Values and nodes share one set: ONNX keeps them apart, but a name that means one thing only
    is what a person can follow through a log.
    """

    def __init__(self, model: ir.Model) -> None:
        self._used: set[str] = set()
        self._highest: dict[str, int] = {}
        functions = [function.graph for function in model.functions.values()]
        for graph in [model.graph, *functions]:
            self._scan(graph)
            for subgraph in graph.subgraphs():
                self._scan(subgraph)

    def _scan(self, graph: ir.Graph) -> None:
        used = self._used
        used.update(value.name for value in graph.inputs if value.name)
        used.update(graph.initializers)
        for node in graph:
            if node.name:
                used.add(node.name)
            used.update(value.name for value in node.outputs if value.name)

    def fresh(self, hint: str) -> str:
        """Return ``hint``, or ``hint`` with the first free number, and mark it as used."""
        name = hint or "value"
        if name in self._used:
            numbered = _NUMBERED.fullmatch(name)
            stem = numbered[1] if numbered else name
            number = self._highest.get(stem, 0)
            while name in self._used:
                number += 1
                name = f"{stem}_g{number}"
            self._highest[stem] = number
        self._used.add(name)
        return name

    def release(self, name: str) -> None:
        """Make ``name``, the latest one that was given out, free again."""
        self._used.discard(name)
        numbered = _NUMBERED.fullmatch(name)
        if numbered and self._highest.get(numbered[1]) == int(numbered[2]):
            self._highest[numbered[1]] -= 1

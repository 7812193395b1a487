"""The names in use in a model, and names that are free."""

from __future__ import annotations

import re

import onnx_ir as ir

from graphopt.ir_access import attributes_of
from graphopt.records import graphs_in

__all__ = ["Names"]

_NUMBERED = re.compile(r"(.*?)_g(\d+)", re.DOTALL)


class Names:
    """The names in use in a model: values and nodes of every graph, subgraph and function.

    Values and nodes share one set: ONNX keeps them apart, but a name that means one thing only
    is what a person can follow through a log. The model is looked through at the first use.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._found: set[str] | None = None
        self._highest: dict[str, int] = {}

    @property
    def _used(self) -> set[str]:
        if self._found is None:
            self._found = set()
            functions = [function.graph for function in self._model.functions.values()]
            for graph in [self._model.graph, *functions]:
                _add_names(graph, self._found)
        return self._found

    def fresh(self, hint: str) -> str:
        """Return ``hint``, or ``hint`` with the first free number, and mark it as used."""
        name = hint or "value"
        used = self._used
        if name in used:
            numbered = _NUMBERED.fullmatch(name)
            stem = numbered[1] if numbered else name
            number = self._highest.get(stem, 0)
            while name in used:
                number += 1
                name = f"{stem}_g{number}"
            self._highest[stem] = number
        used.add(name)
        return name

    def release(self, name: str) -> None:
        """Make ``name``, the latest one that was given out, free again."""
        self._used.discard(name)
        numbered = _NUMBERED.fullmatch(name)
        if numbered and self._highest.get(numbered[1]) == int(numbered[2]):
            self._highest[numbered[1]] -= 1


def _add_names(graph: ir.Graph, used: set[str]) -> None:
    used.update(value.name for value in graph.inputs if value.name)
    used.update(graph.initializers)
    for node in graph:
        if node.name:
            used.add(node.name)
        for value in node.outputs:
            if value.name:
                used.add(value.name)
        for attr in attributes_of(node).values():
            for inner in graphs_in(attr):
                _add_names(inner, used)

"""A model run in stretches: as far as one value, later from there to the next.

What later stretches read is kept on disk, feed by feed; so every node is run once, whatever
the number of values, and what is loaded at a time is the weights of one stretch. A value that
cannot be kept (there is no room, it is no array of numbers) is computed again from what is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.runtime import Runtime
from graphopt.samples import Feed

from .prefix import model_of, part_to, sources
from .shelf import Shelf

__all__ = ["Stretches"]

Run: TypeAlias = Callable[[Feed], np.ndarray]
"""Takes the feeds in their order, each once, and returns the value on it."""


class Stretches:
    """Runs a model to one target after the other.

    The weights of what comes after a target may change until it is passed.

    Args:
        model: The model.
        targets: Values of its main graph, in an order in which they can be computed.
        runtime: Runs it.
        shelf: Where values are kept in between.
    """

    def __init__(
        self, model: ir.Model, targets: Sequence[ir.Value], runtime: Runtime, shelf: Shelf
    ) -> None:
        self._model = model
        self._targets = targets
        self._runtime = runtime
        self._shelf = shelf
        self._last = _last_uses(targets)
        self._varying = _varying(model.graph)

    @contextlib.contextmanager
    def to(self, number: int) -> Iterator[Run]:
        """Give what runs the model as far as a target, each of which is asked for once."""
        target, shelf = self._targets[number], self._shelf
        nodes, fed = part_to([target], shelf.kinds)
        keep = [
            value
            for node in nodes
            for value in node.outputs
            if value in self._varying and self._last.get(value, 0) > number
        ]
        on_disk = [value for value in dict.fromkeys([*fed, target]) if value in shelf.kinds]
        for value in on_disk:
            shelf.rewind(value)
        with contextlib.ExitStack() as stack:
            session = None
            if nodes:
                wanted = list(dict.fromkeys([target, *keep]))
                part = model_of(self._model, (nodes, fed), wanted, shelf.kinds)
                session = stack.enter_context(self._runtime.session(part))

            def run(feed: Feed) -> np.ndarray:
                nonlocal keep
                known = {_name(value): shelf.next(value) for value in on_disk}
                values = {**feed, **known}
                if session is not None:
                    values |= session.run(
                        {_name(value): values[_name(value)] for value in fed}
                    )
                keep = [value for value in keep if shelf.put(value, values[_name(value)])]
                return values[_name(target)]

            yield run
        for value in [value for value in shelf.kinds if self._last.get(value) == number]:
            shelf.drop(value)


def _name(value: ir.Value) -> str:
    return value.name or ""


def _last_uses(targets: Sequence[ir.Value]) -> dict[ir.Value, int]:
    """Return value -> the last stretch that reads it, where all that is read is kept."""
    last: dict[ir.Value, int] = {}
    done: set[ir.Node] = set()
    for number, target in enumerate(targets):
        last[target] = number
        waiting = [target.producer()]
        while waiting:
            node = waiting.pop()
            if node is None or node in done:
                continue
            done.add(node)
            for value in sources(node):
                last[value] = number
                waiting.append(value.producer())
    return last


def _varying(graph: ir.Graph) -> set[ir.Value]:
    """Return what depends on an input; the rest is computed where it is read, as constants."""
    found = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if any(value in found for value in sources(node)):
            found.update(node.outputs)
    return found

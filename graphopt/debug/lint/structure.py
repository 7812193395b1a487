"""What is wrong with a file: names, operators, attributes, and the data of tensors."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import onnx

from graphopt.debug.lint.findings import Finding
from graphopt.errors import ModelError, nearest
from graphopt.model_io.check_nodes import Operators, check_imports, label, standard_domain
from graphopt.model_io.opening import open_model
from graphopt.model_io.sniff import check_is_model
from graphopt.model_io.weights import Weights

__all__ = ["structure"]

_MOST_NAMES = 10_000
"""With more names than this the nearest one is not looked for."""


def structure(path: pathlib.Path) -> list[Finding]:
    """Return what is wrong with the graph in a file, as it stands there.

    Raises:
        ModelError: The file cannot be read as a model.
    """
    file = open_model(path)
    check_is_model(file)
    weights = Weights(path.parent)
    proto = weights.parse(file)
    walk = _Walk(proto, weights)
    walk.model()
    return walk.found


class _Walk:
    def __init__(self, proto: onnx.ModelProto, weights: Weights) -> None:
        self.found: list[Finding] = []
        self._proto = proto
        self._weights = weights
        functions = {(standard_domain(f.domain), f.name, f.overload) for f in proto.functions}
        imports = {standard_domain(e.domain): e.version for e in proto.opset_import}
        self._operators = Operators(imports, functions)

    def model(self) -> None:
        self._collect("", "", check_imports, self._proto.opset_import, "the model")
        self._graph(self._proto.graph, "", [])

    def _graph(self, graph: onnx.GraphProto, place: str, outer: Sequence[set[str]]) -> None:
        here = set(self._given(graph, place))
        for tensor in graph.initializer:
            self._tensor(tensor, f"initializer {tensor.name!r}", place, tensor.name)
        produced: set[str] = set()
        for index, node in enumerate(graph.node):
            for name in filter(None, node.output):
                if name in produced or name in here:
                    message = f"{label(node, index)} produces {name!r}, which exists."
                    self._add("duplicate-output", message, "", place, _name(node))
                produced.add(name)
        scopes = [*outer, here | produced]
        self._nodes(graph, place, scopes, here)
        for value in graph.output:
            if not any(value.name in scope for scope in scopes):
                message = f"nothing produces the output {value.name!r}."
                self._add("undefined-output", message, self._near(value.name, scopes), place,
                          value.name)  # fmt: skip

    def _given(self, graph: onnx.GraphProto, place: str) -> Iterator[str]:
        groups: tuple[tuple[str, Iterable[str]], ...] = (
            ("input", (value.name for value in graph.input)),
            ("initializer", (tensor.name for tensor in graph.initializer)),
            ("initializer", (tensor.values.name for tensor in graph.sparse_initializer)),
        )
        for what, names in groups:
            seen: set[str] = set()
            for index, name in enumerate(names):
                if not name:
                    self._add("no-name", f"{what} {index} has no name.", "", place, "")
                elif name in seen:
                    message = f"there are two {what}s {name!r}."
                    self._add(f"duplicate-{what}", message, "", place, name)
                seen.add(name)
            yield from seen

    def _nodes(
        self, graph: onnx.GraphProto, place: str, scopes: Sequence[set[str]], given: set[str]
    ) -> None:
        defined, early = set(given), []
        for index, node in enumerate(graph.node):
            name = _name(node)
            self._collect(place, name, self._operators.check, node, index)
            for position, value in enumerate(node.input):
                if not value or value in defined:
                    continue
                if not any(value in scope for scope in scopes):
                    message = (
                        f"{label(node, index)} has {value!r} as input {position}, which "
                        "nothing produces."
                    )
                    hint = self._near(value, scopes)
                    self._add("undefined-input", message, hint, place, name)
                elif value in scopes[-1]:
                    early.append(label(node, index))
            for attr in node.attribute:
                where = f"attribute {attr.name!r} of {label(node, index)}"
                for tensor in (*attr.tensors, *([attr.t] if attr.HasField("t") else [])):
                    self._tensor(tensor, where, place, name)
                inner = f"{place}/{name}.{attr.name}".lstrip("/")
                for body in (*attr.graphs, *([attr.g] if attr.HasField("g") else [])):
                    self._graph(body, inner, scopes)
            defined.update(node.output)
        if early:
            message = (
                f"{len(early)} nodes come before what they need; the first is {early[0]}."
            )
            hint = "They are put in order when the model is read."
            self.found.append(
                Finding("graph/order", message, hint, place, early[0], is_error=False)
            )

    def _tensor(self, tensor: onnx.TensorProto, where: str, place: str, name: str) -> None:
        self._collect(place, name, self._weights.look_at, tensor, where, lambda: None)

    def _near(self, name: str, scopes: Sequence[set[str]]) -> str:
        names = set[str]().union(*scopes)
        hint = nearest(name, names) if len(names) < _MOST_NAMES else ""
        return hint if hint.startswith("Did") else ""

    def _add(self, case: str, message: str, hint: str, place: str, name: str) -> None:
        self.found.append(Finding(f"model/{case}", message, hint, place, name))

    def _collect(
        self, place: str, name: str, check: Callable[..., object], *arguments: Any
    ) -> None:
        try:
            check(*arguments)
        except ModelError as error:
            self.found.append(Finding.of(error, place, name))


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(filter(None, node.output), "")

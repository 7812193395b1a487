"""Elementary changes of a graph, each of which can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.ir_access import replace_input, take_out
from graphopt.records import graphs_in

__all__ = ["AttributeValue", "Changes", "OutputPlaces", "as_attr"]

AttributeValue: TypeAlias = "int | float | str | Sequence[int] | Sequence[float] | ir.Attr"


class OutputPlaces:
    """Where among the outputs of its graph a value is, without a search for each.

    A graph may have as many outputs as nodes. What is remembered is checked when it is asked
    for, so that it may be out of date.
    """

    def __init__(self) -> None:
        self._places: dict[ir.Value, list[int]] = {}

    def find(self, graph: ir.Graph, value: ir.Value) -> list[int]:
        """Return the places of ``value``, which is an output of ``graph``."""
        found = self._places.get(value)
        outputs = graph.outputs
        if found is None or any(
            place >= len(outputs) or outputs[place] is not value for place in found
        ):
            self._places = {}
            for place, output in enumerate(list(outputs)):
                self._places.setdefault(output, []).append(place)
            found = self._places[value]
        return found

    def put(self, value: ir.Value, places: list[int]) -> None:
        """Remember where ``value`` is now."""
        self._places[value] = places


class Changes:
    """Changes a model, and remembers how to take each change back.

    Attributes:
        model: The model.
        touched: Nodes that are new or whose inputs, attributes or weights changed.
        relieved: Nodes that lost a use of one of their outputs.
    """

    def __init__(self, model: ir.Model, places: OutputPlaces) -> None:
        self.model = model
        self.touched: dict[ir.Node, None] = {}
        self.relieved: dict[ir.Node, None] = {}
        self._places = places
        self._undo: list[Callable[[], None]] = []
        self._changed: dict[ir.Node, None] = {}
        self._added: dict[ir.Node, None] = {}
        self._renamed: dict[ir.Value, str] = {}  # value -> the name it had before this edit
        self._cut: list[ir.Graph] = []  # subgraphs that an attribute no longer holds

    def set_type(
        self, value: ir.Value, kind: ir.TypeProtocol | None, shape: ir.Shape | None
    ) -> None:
        """Set the type and shape recorded for ``value``."""
        old_kind, old_shape = value.type, value.shape
        if kind == old_kind and shape == old_shape:
            return
        value.type, value.shape = kind, shape

        def undo() -> None:
            value.type, value.shape = old_kind, old_shape

        self._undo.append(undo)

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Let input ``index`` of ``node`` be ``value``; the node may get more inputs."""
        size = len(node.inputs)
        old = node.inputs[index] if index < size else None
        if old is value:
            return
        node.resize_inputs(max(size, index + 1))
        replace_input(node, index, value)
        self._change(node)
        self._relieve(old)

        def undo() -> None:
            replace_input(node, index, old)
            node.resize_inputs(size)

        self._undo.append(undo)

    def set_attribute(self, node: ir.Node, name: str, value: AttributeValue | None) -> None:
        """Set an attribute of ``node``; ``None`` removes it."""
        before = dict(node.attributes)
        if value is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = as_attr(name, value)
        if dict(node.attributes) == before:
            return
        self._change(node)
        kept = graphs_in(node.attributes.get(name))
        for graph in graphs_in(before.get(name)):
            if graph not in kept:
                self._cut += [graph, *graph.subgraphs()]

        def undo() -> None:
            # The order of attributes is part of the file.
            node.attributes.clear()
            node.attributes.update(before)

        self._undo.append(undo)

    def set_opset(self, domain: str, version: int) -> None:
        """Import ``version`` of the operator set ``domain``; the nodes are the caller's."""
        imports = self.model.opset_imports
        old = imports.get(domain)
        imports[domain] = version

        def undo() -> None:
            if old is None:
                del imports[domain]
            else:
                imports[domain] = old

        self._undo.append(undo)

    def remove_function(self, function: ir.Function) -> None:
        """Let the model have ``function`` no more; nothing may call it."""
        functions = self.model.functions
        before = dict(functions)
        del functions[function.identifier()]

        def undo() -> None:
            # The order of functions is part of the file.
            functions.clear()
            functions.update(before)

        self._undo.append(undo)

    def _insert(self, new: ir.Node, before: ir.Node | None, after: ir.Node | None) -> None:
        """Insert a node in front of ``before``, or behind ``after``."""
        near = before or after
        assert near is not None, "an insertion needs a neighbour"
        assert before is None or after is None, "and only one"
        graph = near.graph
        assert graph is not None, "the neighbour of an insertion is in a graph"
        if before is not None:
            graph.insert_before(before, new)
        else:
            graph.insert_after(near, new)
        self._added[new] = None
        self.touched[new] = None
        self._undo.append(lambda: take_out(new))

    def _register(self, graph: ir.Graph, value: ir.Value) -> None:
        """Let ``value`` be an initializer of ``graph``."""
        name = value.name or ""
        graph.register_initializer(value)

        def undo() -> None:
            graph.initializers.pop(name, None)

        self._undo.append(undo)

    def _set_data(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        """Let an initializer have other data, of any type and shape."""
        old, shape, kind = value.const_value, value.shape, value.type
        value.const_value = tensor
        value.shape = ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
        self.touched.update(dict.fromkeys(value.consumers()))

        def undo() -> None:
            value.const_value, value.shape, value.type = old, shape, kind

        self._undo.append(undo)

    def _set_output(self, graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` be the output of ``graph`` that ``old`` is."""
        places = self._places.find(graph, old)
        for place in places:
            graph.outputs[place] = new
        assert not old.is_graph_output()
        self._places.put(new, places)

        def undo() -> None:
            for place in places:
                graph.outputs[place] = old

        self._undo.append(undo)

    def _rename(self, value: ir.Value, name: str) -> None:
        before, tensor = value.name, value.const_value
        label = tensor.name if tensor is not None else None
        self._renamed.setdefault(value, before or "")
        value.name = name

        def undo() -> None:
            value.name = before
            if tensor is not None:  # onnx_ir renames it along with the value
                tensor.name = label

        self._undo.append(undo)

    def _change(self, node: ir.Node) -> None:
        if node not in self._added:
            self._changed[node] = None
        self.touched[node] = None

    def _relieve(self, value: ir.Value | None) -> None:
        if value is not None and (producer := value.producer()) is not None:
            self.relieved[producer] = None

    def _delete(self, node: ir.Node) -> None:
        """Take ``node`` out of its graph for good."""
        for value in node.inputs:
            self._relieve(value)
        take_out(node)

    def _roll_back(self) -> None:
        for undo in reversed(self._undo):
            undo()


def as_attr(name: str, value: AttributeValue) -> ir.Attr:
    """Return ``value`` as an attribute."""
    return (
        value if isinstance(value, ir.Attr) else ir.convenience.convert_attribute(name, value)
    )

"""Editing a graph in numbered transactions.

Every change of a graph goes through ``Rewriter.apply``: it takes a number from the ledger,
runs an edit, writes down what the edit did, and takes all of it back when the edit raises or
a guard objects. So a failed rewrite changes nothing, a run can be cut after any rewrite, and
everything that changed can be traced to one entry.

Example:
    A pass that removes a node whose output is its input::

        def edit(edit: Edit) -> None:
            edit.replace(node.outputs[0], node.inputs[0])
            edit.remove(node)

        rewriter.apply("identity", node, edit)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.errors import PassError
from graphopt.ledger import Application, Ledger, NodeRecord, WeightRecord
from graphopt.names import Names

__all__ = [
    "AttributeValue",
    "Edit",
    "Guard",
    "Names",
    "Observer",
    "Rewrite",
    "Rewriter",
    "record_of",
]

AttributeValue: TypeAlias = "int | float | str | Sequence[int] | Sequence[float] | ir.Attr"
FREE_INITIALIZERS = 4
"""IR version from which an initializer need not be a graph input."""

Guard: TypeAlias = Callable[[ir.Model, Application], str]
"""Checks the model after one application; returns why it must be undone, or ``""``."""
Observer: TypeAlias = Callable[[ir.Model, Application], None]
"""Looks at the model after one application that stands."""


def record_of(node: ir.Node, names: Mapping[ir.Value, str] | None = None) -> NodeRecord:
    """Return what the ledger keeps of ``node``; ``names`` are names that values had before."""
    op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type

    def name_of(value: ir.Value | None) -> str:
        if value is None:
            return ""
        return (names and names.get(value)) or value.name or ""

    inputs, outputs = map(name_of, node.inputs), map(name_of, node.outputs)
    return NodeRecord(node.name or "", op_type, tuple(inputs), tuple(outputs))


def _weight_record(name: str, tensor: ir.TensorProtocol) -> WeightRecord:
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    return WeightRecord(name, str(tensor.dtype), shape, tensor.nbytes)


def _anchor_name(node: ir.Node) -> str:
    """Return what the ledger calls ``node``: many exporters leave nodes without a name."""
    return node.name or next((value.name for value in node.outputs if value.name), "")


def _graphs_in(attr: ir.Attr | None) -> tuple[ir.Graph, ...]:
    """Return the subgraphs that an attribute holds."""
    if attr is None or attr.is_ref():
        return ()
    if attr.type == ir.AttributeType.GRAPH:
        return (attr.as_graph(),)
    return tuple(attr.as_graphs()) if attr.type == ir.AttributeType.GRAPHS else ()


def _held_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs below ``node``, at any depth."""
    for attr in node.attributes.values():
        for graph in _graphs_in(attr):
            yield graph
            yield from graph.subgraphs()


class Edit:
    """The changes of one application; made by ``Rewriter.apply``, used by a rewrite.

    Nodes and initializers are only marked by ``remove`` and ``remove_initializer`` and leave
    the graph when the transaction is accepted; until then an edit sees them as they are.

    Attributes:
        model: The model.
        entry: What the ledger will know of this application.
        touched: Nodes that are new or whose inputs, attributes or weights changed.
        relieved: Nodes that lost a use of one of their outputs.
    """

    def __init__(self, model: ir.Model, names: Names, entry: Application) -> None:
        self.model = model
        self.entry = entry
        self.touched: dict[ir.Node, None] = {}
        self.relieved: dict[ir.Node, None] = {}
        self._names = names
        self._undo: list[Callable[[], None]] = []
        self._removed: dict[ir.Node, None] = {}
        self._dropped: dict[ir.Value, None] = {}
        self._changed: dict[ir.Node, None] = {}
        self._added: dict[ir.Node, None] = {}
        self._renamed: dict[ir.Value, str] = {}  # value -> the name it had before this edit
        self._constants: set[ir.Value] = set()
        self._given: list[str] = []
        self._cut: list[ir.Graph] = []  # subgraphs that an attribute no longer holds

    @property
    def changed_anything(self) -> bool:
        """Whether the edit did anything at all."""
        return bool(self._undo or self._removed or self._dropped)

    def fresh_name(self, hint: str) -> str:
        """Return a name that no value or node of the model has."""
        name = self._names.fresh(hint)
        self._given.append(name)
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
        attributes: dict[str, AttributeValue] | None = None,
        domain: str = "",
        outputs: int = 1,
        like: Sequence[ir.Value] = (),
        name: str = "",
    ) -> tuple[ir.Value, ...]:
        """Insert a node in front of ``before`` or behind ``after`` and return its outputs.

        Args:
            op_type: Operator of the new node.
            inputs: Its inputs; ``None`` for an omitted one. Trailing ``None`` are dropped.
            before: The node in whose graph and in front of which it is inserted.
            after: The node behind which it is inserted, instead of ``before``.
            attributes: Attribute name -> Python value or ``ir.Attr``.
            domain: Operator domain; empty for ``ai.onnx``.
            outputs: Number of outputs.
            like: Values whose type, shape and names (as hints) the outputs take, in order.
            name: Hint for the node's name; default: that of its neighbour and the operator.
        """
        near = before or after
        assert near is not None, "an insertion needs a neighbour"
        assert before is None or after is None, "and only one"
        graph = near.graph
        assert graph is not None, "the neighbour of an insertion is in a graph"
        kept = list(inputs)
        while kept and kept[-1] is None:
            kept.pop()
        attrs = [
            value
            if isinstance(value, ir.Attr)
            else ir.convenience.convert_attribute(key, value)
            for key, value in (attributes or {}).items()
        ]
        new = ir.Node(
            domain,
            op_type,
            kept,
            attrs,
            num_outputs=outputs,
            name=self.fresh_name(name or f"{near.name or 'node'}_{op_type}"),
        )
        for index, value in enumerate(new.outputs):
            source = like[index] if index < len(like) else None
            value.name = self.fresh_name(
                source.name if source is not None and source.name else f"{new.name}_out{index}"
            )
            if source is not None:
                value.type = source.type
                # Shapes can be changed in place: two values must not share one.
                value.shape = source.shape.copy() if source.shape is not None else None
        if before is not None:
            graph.insert_before(before, new)
        else:
            graph.insert_after(near, new)
        self._added[new] = None
        self.touched[new] = None

        def undo() -> None:
            for index in range(len(new.inputs)):
                new.replace_input_with(index, None)
            if new.graph is not None:
                new.graph.remove(new)

        self._undo.append(undo)
        return tuple(new.outputs)

    def constant(
        self, data: np.ndarray | ir.TensorProtocol, name: str, *, near: ir.Node
    ) -> ir.Value:
        """Register a new initializer in the graph of ``near`` and return its value.

        Before IR version 4 every initializer has to be a graph input; there it is a
        ``Constant`` in front of ``near``.

        Args:
            data: The tensor; an array is not copied.
            name: Hint for its name.
            near: A node of the graph that gets the initializer.
        """
        graph = near.graph
        assert graph is not None
        tensor = ir.tensor(data) if isinstance(data, np.ndarray) else data
        if self.model.ir_version < FREE_INITIALIZERS:
            like = ir.Value(
                name=name,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
            )
            attributes: dict[str, AttributeValue] = {"value": ir.AttrTensor("value", tensor)}
            return self.node("Constant", [], before=near, attributes=attributes, like=[like])[
                0
            ]
        unique = self.fresh_name(name)
        tensor.name = unique
        value = ir.Value(
            name=unique,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph.register_initializer(value)
        self._constants.add(value)
        self.entry.weights_added.append(_weight_record(unique, tensor))

        def undo() -> None:
            graph.initializers.pop(unique, None)

        self._undo.append(undo)
        return value

    def set_tensor(self, value: ir.Value, data: np.ndarray | ir.TensorProtocol) -> None:
        """Give the initializer ``value`` other data; every use of it sees the new data."""
        old, shape, kind = value.const_value, value.shape, value.type
        assert old is not None, "only an initializer has a tensor to set"
        tensor = ir.tensor(data) if isinstance(data, np.ndarray) else data
        name = value.name or ""
        self.entry.weights_removed.append(_weight_record(name, old))
        self.entry.weights_added.append(_weight_record(name, tensor))
        tensor.name = name
        value.const_value = tensor
        value.shape = ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
        self.touched.update(dict.fromkeys(value.consumers()))

        def undo() -> None:
            value.const_value, value.shape, value.type = old, shape, kind

        self._undo.append(undo)

    def remove_initializer(self, value: ir.Value) -> None:
        """Mark an initializer for removal; nothing that stays may use it at the end."""
        assert value.is_initializer(), f"{value.name!r} is not an initializer"
        assert not value.is_graph_input(), "a graph input is part of the interface"
        self._dropped[value] = None

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every use of ``old``, graph outputs included, use ``new``.

        Nodes that are marked for removal keep ``old``, and so do nodes of this edit that
        ``new`` is computed from: ``replace(old, edit.node("Relu", [old], ...)[0])`` puts a
        node behind ``old``.

        A graph output keeps its name: ``new`` takes it over, or, where that is impossible
        (it is a graph input, an initializer, another output, or lives in another graph), an
        ``Identity`` is put in between.
        """
        if old is new:
            return
        self.entry.values_replaced[old.name or ""] = new.name or ""
        if new.shape is None and old.shape is not None and not new.is_initializer():
            self.set_type(new, new.type or old.type, old.shape.copy())
        keep = self._removed | self._sources(new)
        for user, index in old.uses():
            if user not in keep:
                self.set_input(user, index, new)
        if old.is_graph_output():
            self._replace_output(old, new)

    def supersede(self, node: ir.Node, *values: ir.Value | None) -> None:
        """Let ``values`` replace the outputs of ``node``, and remove it.

        What this edit has made for it takes over the name of the output it replaces.

        Args:
            node: The node; outputs that are not used need no value.
            values: One an output; ``None``, or left out at the end, for an unused one.
        """
        for old, new in zip(node.outputs, values, strict=False):
            if new is None or not (old.uses() or old.is_graph_output()):
                continue
            named = old.name if not old.is_graph_output() else ""
            self.replace(old, new)
            if named and (new in self._constants or new.producer() in self._added):
                self._rename(old, self.fresh_name(f"{named}_replaced"))
                self._rename(new, named)
                self.entry.values_replaced[named] = named
        self.remove(node)

    def _sources(self, value: ir.Value) -> dict[ir.Node, None]:
        """Return the nodes added by this edit that ``value`` is computed from."""
        sources: dict[ir.Node, None] = {}
        waiting = [value.producer()]
        while waiting:
            node = waiting.pop()
            if node is not None and node in self._added and node not in sources:
                sources[node] = None
                waiting += node.predecessors()
        return sources

    def _replace_output(self, old: ir.Value, new: ir.Value) -> None:
        graph, producer = old.graph, new.producer()
        assert graph is not None
        name = old.name or ""
        if producer is None or producer.graph is not graph or new.is_graph_output():
            last = old.producer()
            assert last is not None, "a graph output that a node replaces has a producer"
            (new,) = self.node("Identity", [new], before=last, like=[old])
        elif new.name:
            self.entry.values_replaced.pop(name)
            self.entry.values_replaced[new.name] = name
        # The name is part of the interface: swap it over, whatever it was called so far.
        self._relieve(old)
        self._rename(old, self.fresh_name(f"{name}_replaced"))
        self._rename(new, name)
        if (source := new.producer()) is not None:
            self._change(source)
        self.set_type(new, old.type, old.shape.copy() if old.shape is not None else None)
        positions = [index for index, value in enumerate(graph.outputs) if value is old]
        for index in positions:
            graph.outputs[index] = new

        def undo() -> None:
            for index in positions:
                graph.outputs[index] = old

        self._undo.append(undo)

    def _rename(self, value: ir.Value, name: str) -> None:
        before, tensor = value.name, value.const_value
        label = tensor.name if tensor is not None else None
        self._renamed.setdefault(value, before or "")
        value.name = name
        weights = self.entry.weights_added
        weights[:] = [
            dataclasses.replace(weight, name=name) if weight.name == before else weight
            for weight in weights
        ]

        def undo() -> None:
            value.name = before
            if tensor is not None:  # onnx_ir renames it along with the value
                tensor.name = label

        self._undo.append(undo)

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
        node.replace_input_with(index, value)
        self._change(node)
        self._relieve(old)

        def undo() -> None:
            node.replace_input_with(index, old)
            node.resize_inputs(size)

        self._undo.append(undo)

    def set_attribute(self, node: ir.Node, name: str, value: AttributeValue | None) -> None:
        """Set an attribute of ``node``; ``None`` removes it."""
        before = dict(node.attributes)
        if value is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = (
                value
                if isinstance(value, ir.Attr)
                else ir.convenience.convert_attribute(name, value)
            )
        if dict(node.attributes) == before:
            return
        self._change(node)
        kept = _graphs_in(node.attributes.get(name))
        for graph in _graphs_in(before.get(name)):
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

    def remove(self, *nodes: ir.Node) -> None:
        """Mark nodes for removal; nothing that stays may use their outputs at the end."""
        for node in nodes:
            self._removed[node] = None

    def note(self, text: str) -> None:
        """Say in the ledger, in words, what this application does."""
        self.entry.note = text

    def _change(self, node: ir.Node) -> None:
        if node not in self._added:
            self._changed[node] = None
        self.touched[node] = None

    def _relieve(self, value: ir.Value | None) -> None:
        if value is not None and (producer := value.producer()) is not None:
            self.relieved[producer] = None

    def _close(self) -> None:
        """Check that what goes is not needed by what stays, and write the entry.

        Raises:
            PassError: Something that stays uses what was marked for removal.
        """
        self._cut += [graph for node in self._removed for graph in _held_graphs(node)]
        inner = [node for graph in self._cut for node in graph]
        gone = dict.fromkeys([*self._removed, *inner])
        for value in (*(v for node in self._removed for v in node.outputs), *self._dropped):
            user = next((user for user, _ in value.uses() if user not in gone), None)
            if user is not None or value.is_graph_output():
                name = self._renamed.get(value, value.name)
                what = f"a {user.op_type} still uses it" if user else "it is a graph output"
                raise PassError(
                    "unsafe-removal",
                    f"{self.entry.pass_name}: rule {self.entry.rule!r} at "
                    f"{self.entry.anchor!r} removes {name!r}, but {what}.",
                )
        entry = self.entry
        entry.nodes_removed += [
            record_of(n, self._renamed) for n in gone if n not in self._added
        ]
        entry.nodes_added += [record_of(n) for n in self._added if n not in gone]
        entry.nodes_added += [
            record_of(held)
            for node in self._added
            if node not in gone
            for graph in _held_graphs(node)
            for held in graph
        ]
        entry.nodes_changed += [record_of(n) for n in self._changed if n not in gone]
        weights = [*self._dropped, *(v for g in self._cut for v in g.initializers.values())]
        entry.weights_removed += [
            _weight_record(value.name or "", value.const_value)
            for value in weights
            if value.const_value is not None
        ]

    def _commit(self) -> None:
        """Let what is marked leave the graph; nothing can fail any more."""
        # Nodes inside a removed node still use values outside of it.
        for node in (*self._removed, *(node for graph in self._cut for node in graph)):
            assert node.graph is not None
            for index, value in enumerate(node.inputs):
                self._relieve(value)
                node.replace_input_with(index, None)
            node.graph.remove(node)
        for value in self._dropped:
            assert value.graph is not None
            del value.graph.initializers[value.name or ""]

    def _roll_back(self) -> None:
        for undo in reversed(self._undo):
            undo()
        for name in reversed(self._given):
            self._names.release(name)
        # The names that were to replace others are gone; the rest says what was tried.
        self.entry.values_replaced.clear()


Rewrite: TypeAlias = Callable[[Edit], None]
"""Makes the changes of one application through the ``Edit`` it is given."""


class Rewriter:
    """Applies rewrites to one model on behalf of one pass.

    Args:
        model: The model, edited in place.
        pass_name: Name written into the ledger.
        ledger: Gives the numbers, and the limit.
        guards: Each looks at the model after an application and may object to it.
        names: Names in use; scanned from the model when not given.
        observers: Each looks at the model after an application that stands.
    """

    def __init__(
        self,
        model: ir.Model,
        pass_name: str,
        ledger: Ledger,
        guards: Iterable[Guard] = (),
        names: Names | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.model = model
        self.pass_name = pass_name
        self.ledger = ledger
        self.names = names or Names(model)
        self._guards = tuple(guards)
        self._observers = tuple(observers)
        self._refused: set[tuple[str, ir.Node | str]] = set()

    def apply(self, rule: str, anchor: ir.Node | str, rewrite: Rewrite) -> Edit | None:
        """Make one numbered application.

        Returns:
            The accepted edit, or ``None`` when the limit is reached, when the rewrite changed
            nothing, or when a guard objects (the ledger then says which and why) or has
            objected before to this rule at this anchor.

        Raises:
            PassError: The rewrite removes what is still used; the model is as before.
            Exception: Whatever ``rewrite`` or a guard raises; the model is as before.
        """
        key = (rule, anchor)
        if self.ledger.exhausted or key in self._refused:
            return None
        name = anchor if isinstance(anchor, str) else _anchor_name(anchor)
        entry = self.ledger.open(self.pass_name, rule, name)
        edit = Edit(self.model, self.names, entry)
        try:
            rewrite(edit)
            if not edit.changed_anything:
                self.ledger.drop(entry)
                return None
            edit._close()
            for guard in self._guards:
                if objection := guard(self.model, entry):
                    edit._roll_back()
                    entry.undone = objection
                    self._refused.add(key)
                    return None
        except BaseException as error:
            edit._roll_back()
            self.ledger.drop(entry)
            error.add_note(f"in rewrite {entry.summary()}")
            raise
        edit._commit()
        self.ledger.settle(entry)
        for observer in self._observers:
            observer(self.model, entry)
        return edit

    def skip(self, rule: str, anchor: ir.Node | str, reason: str) -> None:
        """Tell the ledger why ``anchor`` was left alone."""
        if isinstance(anchor, str):
            self.ledger.skip(self.pass_name, rule, anchor, "", reason)
        else:
            name = _anchor_name(anchor)
            self.ledger.skip(self.pass_name, rule, name, anchor.op_type, reason)

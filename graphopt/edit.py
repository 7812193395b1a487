"""What a rewrite may do to a graph, and what the ledger learns of it.

Example:
    A pass that removes a node whose output is its input::

        def edit(edit: Edit) -> None:
            edit.supersede(node, node.inputs[0])

        rewriter.apply("identity", node, edit)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.changes import AttributeValue, Changes, OutputPlaces, as_attr
from graphopt.errors import PassError
from graphopt.ir_access import is_used
from graphopt.ledger import Application
from graphopt.names import Names
from graphopt.records import MOST_NAMES, held_graphs, record_of, weight_record

__all__ = ["FREE_INITIALIZERS", "AttributeValue", "Edit", "Rewrite"]

FREE_INITIALIZERS = 4
"""IR version from which an initializer need not be a graph input."""


class Edit(Changes):
    """The changes of one application; made by ``Rewriter.apply``, used by a rewrite.

    Nodes and initializers are only marked by ``remove`` and ``remove_initializer`` and leave
    the graph when the transaction is accepted; until then an edit sees them as they are.

    Attributes:
        entry: What the ledger will know of this application.
    """

    def __init__(
        self,
        model: ir.Model,
        names: Names,
        entry: Application,
        places: OutputPlaces | None = None,
    ) -> None:
        super().__init__(model, places or OutputPlaces())
        self.entry = entry
        self._names = names
        self._removed: dict[ir.Node, None] = {}
        self._dropped: dict[ir.Value, None] = {}
        self._constants: set[ir.Value] = set()
        self._given: list[str] = []

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
        overload: str = "",
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
            overload: Which of the functions of this domain and name, where there are several.
            outputs: Number of outputs.
            like: Values whose type, shape and names (as hints) the outputs take, in order; one
                with an empty name is an output that is left out.
            name: Hint for the node's name; default: that of its neighbour and the operator.
        """
        near = before or after
        assert near is not None, "an insertion needs a neighbour"
        kept = list(inputs)
        while kept and kept[-1] is None:
            kept.pop()
        attrs = [as_attr(key, value) for key, value in (attributes or {}).items()]
        new = ir.Node(
            domain,
            op_type,
            kept,
            attrs,
            overload=overload,
            num_outputs=outputs,
            name=self.fresh_name(name or f"{near.name or 'node'}_{op_type}"),
        )
        for index, value in enumerate(new.outputs):
            source = like[index] if index < len(like) else None
            if source is not None and source.name == "":
                value.name = ""
                continue
            value.name = self.fresh_name(
                source.name if source is not None and source.name else f"{new.name}_out{index}"
            )
            if source is not None:
                value.type = source.type
                # Shapes can be changed in place: two values must not share one.
                value.shape = source.shape.copy() if source.shape is not None else None
        self._insert(new, before, after)
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
        tensor = ir.Tensor(data) if isinstance(data, np.ndarray) else data
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
        self._register(graph, value)
        self._constants.add(value)
        self.entry.weights_added.append(weight_record(unique, tensor))
        return value

    def set_tensor(self, value: ir.Value, data: np.ndarray | ir.TensorProtocol) -> None:
        """Give the initializer ``value`` other data; every use of it sees the new data."""
        old = value.const_value
        assert old is not None, "only an initializer has a tensor to set"
        tensor = ir.Tensor(data) if isinstance(data, np.ndarray) else data
        name = value.name or ""
        self.entry.weights_removed.append(weight_record(name, old))
        self.entry.weights_added.append(weight_record(name, tensor))
        tensor.name = name
        self._set_data(value, tensor)

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
            if new is None or not is_used(old):
                continue
            named = old.name if not old.is_graph_output() else ""
            self.replace(old, new)
            if named and (new in self._constants or new.producer() in self._added):
                self._rename(old, self.fresh_name(f"{named}_replaced"))
                self._rename(new, named)
                self.entry.values_replaced[named] = named
        self.remove(node)

    def substitute(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, AttributeValue] | None = None,
    ) -> None:
        """Put a node of ``op_type`` of the standard in the place of ``node``.

        It takes over the name of ``node``, and the names, types and shapes of its
        outputs; one that is not used gets a new name.
        """
        new = self.node(
            op_type,
            inputs,
            before=node,
            attributes=attributes,
            outputs=len(node.outputs),
            like=node.outputs,
            name=node.name or "",
        )
        self.supersede(node, *new)

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
        self._set_output(graph, old, new)

    def _rename(self, value: ir.Value, name: str) -> None:
        before = value.name
        super()._rename(value, name)
        weights = self.entry.weights_added
        weights[:] = [
            dataclasses.replace(weight, name=name) if weight.name == before else weight
            for weight in weights
        ]

    def remove(self, *nodes: ir.Node) -> None:
        """Mark nodes for removal; nothing that stays may use their outputs at the end."""
        for node in nodes:
            self._removed[node] = None

    def note(self, text: str) -> None:
        """Say in the ledger, in words, what this application does."""
        self.entry.note = text

    def _close(self) -> None:
        """Check that what goes is not needed by what stays, and write the entry.

        Raises:
            PassError: Something that stays uses what was marked for removal.
        """
        self._cut += [graph for node in self._removed for graph in held_graphs(node)]
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
            for graph in held_graphs(node)
            for held in graph
        ]
        entry.nodes_changed += [
            record_of(n, most=MOST_NAMES) for n in self._changed if n not in gone
        ]
        weights = [*self._dropped, *(v for g in self._cut for v in g.initializers.values())]
        entry.weights_removed += [
            weight_record(value.name or "", value.const_value)
            for value in weights
            if value.const_value is not None
        ]

    def _commit(self) -> None:
        """Let what is marked leave the graph; nothing can fail any more."""
        # Nodes inside a removed node still use values outside of it.
        for node in (*self._removed, *(node for graph in self._cut for node in graph)):
            self._delete(node)
        for value in self._dropped:
            assert value.graph is not None
            del value.graph.initializers[value.name or ""]

    def _roll_back(self) -> None:
        super()._roll_back()
        for name in reversed(self._given):
            self._names.release(name)
        # The names that were to replace others are gone; the rest says what was tried.
        self.entry.values_replaced.clear()


Rewrite: TypeAlias = Callable[[Edit], None]
"""Makes the changes of one application through the ``Edit`` it is given."""

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

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.ledger import Application, Ledger, NodeRecord, WeightRecord

__all__ = ["AttributeValue", "Edit", "Guard", "Names", "Rewrite", "Rewriter", "record_of"]

AttributeValue: TypeAlias = "int | float | str | Sequence[int] | Sequence[float] | ir.Attr"
Guard: TypeAlias = Callable[[ir.Model, Application], str]
"""Checks the model after one application; returns why it must be undone, or ``""``."""


def record_of(node: ir.Node) -> NodeRecord:
    """Return what the ledger keeps of ``node``."""
    op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return NodeRecord(
        node.name or "",
        op_type,
        tuple(value.name or "" if value is not None else "" for value in node.inputs),
        tuple(value.name or "" for value in node.outputs),
    )


def _weight_record(name: str, tensor: ir.TensorProtocol) -> WeightRecord:
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    return WeightRecord(name, str(tensor.dtype), shape, tensor.nbytes)


class Names:
    """The names in use in a model: values and nodes of every graph and subgraph."""

    def __init__(self, model: ir.Model) -> None:
        self._used: set[str] = set()
        graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
        for graph in graphs:
            self._used.update(value.name for value in graph.inputs if value.name)
            self._used.update(graph.initializers)
            for node in graph:
                if node.name:
                    self._used.add(node.name)
                self._used.update(value.name for value in node.outputs if value.name)

    def fresh(self, hint: str) -> str:
        """Return ``hint``, or ``hint`` with the first free number, and mark it as used."""
        stem = re.sub(r"_g\d+$", "", hint) or "value"
        name, number = hint or stem, 0
        while name in self._used:
            number += 1
            name = f"{stem}_g{number}"
        self._used.add(name)
        return name


class Edit:
    """The changes of one application; made by ``Rewriter.apply``, used by a rewrite.

    Nodes are only marked by ``remove`` and leave the graph when the transaction is accepted;
    until then an edit sees them with their inputs.
    """

    def __init__(self, model: ir.Model, names: Names, entry: Application) -> None:
        self.model = model
        self.entry = entry
        self.touched: dict[ir.Node, None] = {}
        self._names = names
        self._undo: list[Callable[[], None]] = []
        self._removed: dict[ir.Node, None] = {}
        self._changed: dict[ir.Node, None] = {}
        self._added: dict[ir.Node, None] = {}

    @property
    def changed_anything(self) -> bool:
        """Whether the edit did anything at all."""
        return bool(self._undo or self._removed)

    def fresh_name(self, hint: str) -> str:
        """Return a name that no value or node of the model has."""
        return self._names.fresh(hint)

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        before: ir.Node,
        attributes: dict[str, AttributeValue] | None = None,
        domain: str = "",
        outputs: int = 1,
        like: Sequence[ir.Value] = (),
        name: str = "",
    ) -> tuple[ir.Value, ...]:
        """Insert a node in front of ``before`` and return its outputs.

        Args:
            op_type: Operator of the new node.
            inputs: Its inputs; ``None`` for an omitted one. Trailing ``None`` are dropped.
            before: The node in whose graph and in front of which it is inserted.
            attributes: Attribute name -> Python value or ``ir.Attr``.
            domain: Operator domain; empty for ``ai.onnx``.
            outputs: Number of outputs.
            like: Values whose type, shape and names (as hints) the outputs take, in order.
            name: Hint for the node's name; default: the name of ``before`` and the operator.
        """
        graph = before.graph
        assert graph is not None, "the anchor of an insertion is in a graph"
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
            name=self.fresh_name(name or f"{before.name or 'node'}_{op_type}"),
        )
        for index, value in enumerate(new.outputs):
            source = like[index] if index < len(like) else None
            value.name = self.fresh_name(
                source.name if source is not None and source.name else f"{new.name}_out{index}"
            )
            if source is not None:
                value.type = source.type
                value.shape = source.shape
        graph.insert_before(before, new)
        self._added[new] = None
        self._touch(new)

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

        Args:
            data: The tensor; an array is not copied.
            name: Hint for its name.
            near: A node of the graph that gets the initializer.
        """
        graph = near.graph
        assert graph is not None
        tensor = ir.tensor(data) if isinstance(data, np.ndarray) else data
        unique = self.fresh_name(name)
        tensor.name = unique
        value = ir.Value(
            name=unique,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph.register_initializer(value)
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
        for user in value.consumers():
            self._touch(user)

        def undo() -> None:
            value.const_value, value.shape, value.type = old, shape, kind

        self._undo.append(undo)

    def remove_initializer(self, value: ir.Value) -> None:
        """Drop an initializer that nothing uses any more."""
        graph, name = value.graph, value.name
        assert graph is not None
        assert name
        assert not value.is_graph_input(), "a graph input is part of the interface"
        if value.const_value is not None:
            self.entry.weights_removed.append(_weight_record(name, value.const_value))
        del graph.initializers[name]
        self._undo.append(lambda: graph.initializers.add(value))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every use of ``old``, graph outputs included, use ``new``.

        A graph output keeps its name: ``new`` takes it over, or, where that is impossible
        (it is a graph input, an initializer, another output, or lives in another graph), an
        ``Identity`` is put in between.
        """
        self.entry.values_replaced[old.name or ""] = new.name or ""
        if new.shape is None and old.shape is not None and not new.is_initializer():
            self.set_type(new, new.type or old.type, old.shape)
        for user, index in old.uses():
            if user not in self._removed:
                self.set_input(user, index, new)
        if old.is_graph_output():
            self._replace_output(old, new)

    def _replace_output(self, old: ir.Value, new: ir.Value) -> None:
        graph, producer = old.graph, new.producer()
        assert graph is not None
        name = old.name or ""
        if producer is None or producer.graph is not graph or new.is_graph_output():
            last = old.producer()
            assert last is not None, "a graph output that a node replaces has a producer"
            (copy,) = self.node("Identity", [new], before=last, like=[old])
            new = copy
        # The name is part of the interface: swap it over, whatever it was called so far.
        self._rename(old, self.fresh_name(f"{name}_replaced"))
        self._rename(new, name)
        new_type, new_shape = new.type, new.shape
        self.set_type(new, old.type, old.shape)
        positions = [index for index, value in enumerate(graph.outputs) if value is old]
        for index in positions:
            graph.outputs[index] = new

        def undo() -> None:
            for index in positions:
                graph.outputs[index] = old
            new.type, new.shape = new_type, new_shape

        self._undo.append(undo)
        self.entry.values_replaced[name] = name

    def _rename(self, value: ir.Value, name: str) -> None:
        before = value.name
        value.name = name

        def undo() -> None:
            value.name = before

        self._undo.append(undo)

    def set_type(
        self, value: ir.Value, kind: ir.TypeProtocol | None, shape: ir.Shape | None
    ) -> None:
        """Set the type and shape recorded for ``value``."""
        old_kind, old_shape = value.type, value.shape
        value.type, value.shape = kind, shape

        def undo() -> None:
            value.type, value.shape = old_kind, old_shape

        self._undo.append(undo)

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Let input ``index`` of ``node`` be ``value``; the node may get more inputs."""
        size = len(node.inputs)
        if index >= size:
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        if old is value:
            return
        node.replace_input_with(index, value)
        self._change(node)
        if old is not None and (producer := old.producer()) is not None:
            self._touch(producer)

        def undo() -> None:
            node.replace_input_with(index, old)
            node.resize_inputs(size)

        self._undo.append(undo)

    def set_attribute(self, node: ir.Node, name: str, value: AttributeValue | None) -> None:
        """Set an attribute of ``node``; ``None`` removes it."""
        old = node.attributes.get(name)
        if value is None:
            node.attributes.pop(name, None)
        else:
            node.attributes.add(
                value
                if isinstance(value, ir.Attr)
                else ir.convenience.convert_attribute(name, value)
            )
        self._change(node)

        def undo() -> None:
            node.attributes.pop(name, None)
            if old is not None:
                node.attributes.add(old)

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
        self._touch(node)

    def _touch(self, node: ir.Node) -> None:
        self.touched[node] = None

    def _commit(self) -> None:
        by_graph: dict[ir.Graph, list[ir.Node]] = {}
        for node in self._removed:
            assert node.graph is not None, f"{node.name!r} was removed before"
            by_graph.setdefault(node.graph, []).append(node)
            for producer in node.predecessors():
                self._touch(producer)
        # Written before the nodes lose their inputs.
        self.entry.nodes_removed += [
            record_of(n) for n in self._removed if n not in self._added
        ]
        for graph, gone in by_graph.items():
            graph.remove(gone, safe=True)
        self.entry.nodes_added += [record_of(n) for n in self._added if n.graph is not None]
        self.entry.nodes_changed += [
            record_of(n) for n in self._changed if n.graph is not None
        ]

    def _roll_back(self) -> None:
        for undo in reversed(self._undo):
            undo()
        entry = self.entry
        for kept in (entry.weights_removed, entry.weights_added):
            kept.clear()
        entry.values_replaced.clear()


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
    """

    def __init__(
        self,
        model: ir.Model,
        pass_name: str,
        ledger: Ledger,
        guards: Iterable[Guard] = (),
        names: Names | None = None,
    ) -> None:
        self.model = model
        self.pass_name = pass_name
        self.ledger = ledger
        self.names = names or Names(model)
        self._guards = tuple(guards)

    def apply(self, rule: str, anchor: ir.Node | str, rewrite: Rewrite) -> Edit | None:
        """Make one numbered application.

        Returns:
            The accepted edit, or ``None`` when the limit is reached, when the rewrite changed
            nothing, or when a guard objected (the ledger then says which and why).

        Raises:
            Exception: Whatever ``rewrite`` raises; the model is as before.
        """
        if self.ledger.exhausted:
            return None
        name = anchor if isinstance(anchor, str) else anchor.name or ""
        entry = self.ledger.open(self.pass_name, rule, name)
        edit = Edit(self.model, self.names, entry)
        try:
            rewrite(edit)
        except BaseException:
            edit._roll_back()
            self.ledger.drop(entry)
            raise
        if not edit.changed_anything:
            self.ledger.drop(entry)
            return None
        for guard in self._guards:
            if objection := guard(self.model, entry):
                edit._roll_back()
                entry.undone = objection
                return None
        edit._commit()
        return edit

    def skip(self, rule: str, anchor: ir.Node | str, reason: str) -> None:
        """Tell the ledger why ``anchor`` was left alone."""
        if isinstance(anchor, str):
            self.ledger.skip(self.pass_name, rule, anchor, "", reason)
        else:
            self.ledger.skip(self.pass_name, rule, anchor.name or "", anchor.op_type, reason)

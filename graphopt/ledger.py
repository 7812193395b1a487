"""The ledger: every rewrite of a run under its running number, and every reason not to.

The number of an application is what bisecting cuts on (``limit``); the entries are what
explanations read. A pass never writes here itself: ``graphopt.edit`` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["Application", "Ledger", "NodeRecord", "Skip", "WeightRecord"]

SCHEMA = "graphopt/ledger/1"


@dataclasses.dataclass(frozen=True)
class NodeRecord:
    """A node as the ledger remembers it."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class WeightRecord:
    """An initializer as the ledger remembers it; the values are not kept."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclasses.dataclass
class Application:
    """One numbered application of one rule.

    Attributes:
        number: Running number in the run, from 1.
        pass_name: Name of the pass the rule belongs to.
        rule: Name of the rule, or of the pass's own step.
        anchor: Name of the node the rule was tried on (or of the tensor).
        note: What was done, in words; may be empty.
        nodes_removed, nodes_added, nodes_changed: Nodes before and after. A changed node is
            given as it is afterwards.
        weights_removed, weights_added: Initializers before and after. A weight whose values
            changed appears in both.
        values_replaced: Old value name -> name of the value that now carries its data.
        undone: Why the application was taken back; empty when it stands.
    """

    number: int
    pass_name: str
    rule: str
    anchor: str
    note: str = ""
    nodes_removed: list[NodeRecord] = dataclasses.field(default_factory=list)
    nodes_added: list[NodeRecord] = dataclasses.field(default_factory=list)
    nodes_changed: list[NodeRecord] = dataclasses.field(default_factory=list)
    weights_removed: list[WeightRecord] = dataclasses.field(default_factory=list)
    weights_added: list[WeightRecord] = dataclasses.field(default_factory=list)
    values_replaced: dict[str, str] = dataclasses.field(default_factory=dict)
    undone: str = ""

    def summary(self) -> str:
        """Return the entry in one line."""
        parts = []
        for sign, nodes in (("-", self.nodes_removed), ("+", self.nodes_added)):
            parts += [f"{sign}{node.op_type}({node.name})" for node in nodes[:4]]
            if len(nodes) > 4:
                parts.append(f"{sign}{len(nodes) - 4} more nodes")
        old = sum(weight.size_bytes for weight in self.weights_removed)
        new = sum(weight.size_bytes for weight in self.weights_added)
        if old != new:
            parts.append(f"weights {old} -> {new} bytes")
        what = self.note or ", ".join(parts)
        undone = f" [undone: {self.undone}]" if self.undone else ""
        return (
            f"#{self.number} {self.pass_name}/{self.rule} at {self.anchor!r}: {what}{undone}"
        )


@dataclasses.dataclass(frozen=True)
class Skip:
    """A node (or weight) that a rule looked at and left alone, and why."""

    pass_name: str
    rule: str
    anchor: str
    op_type: str
    reason: str


class Ledger:
    """The record of one run.

    Args:
        limit: Apply at most this many rewrites; ``None`` for no limit. With a limit of N the
            first N applications of an unlimited run are made, and no other.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be >= 0, got {limit}")
        self.limit = limit
        self.applications: list[Application] = []
        self._skips: dict[tuple[str, str, str], Skip] = {}

    @property
    def exhausted(self) -> bool:
        """Whether the limit is reached, so that nothing more may be applied."""
        return self.limit is not None and len(self.applications) >= self.limit

    def open(self, pass_name: str, rule: str, anchor: str) -> Application:
        """Return a new entry with the next number. The caller checks ``exhausted`` first."""
        entry = Application(len(self.applications) + 1, pass_name, rule, anchor)
        self.applications.append(entry)
        return entry

    def settle(self, entry: Application) -> None:
        """Let ``entry`` stand: a reason not to make it, noted earlier, no longer holds."""
        self._skips.pop((entry.pass_name, entry.rule, entry.anchor), None)

    def drop(self, entry: Application) -> None:
        """Take back ``entry``, the latest one: it changed nothing."""
        last = self.applications.pop()
        assert last is entry, "only the latest entry can be dropped"

    def skip(self, pass_name: str, rule: str, anchor: str, op_type: str, reason: str) -> None:
        """Remember why ``anchor`` was left alone; the latest reason replaces earlier ones."""
        key = (pass_name, rule, anchor)
        self._skips[key] = Skip(pass_name, rule, anchor, op_type, reason)

    @property
    def skips(self) -> list[Skip]:
        """What was left alone, in the order it was first noticed."""
        return list(self._skips.values())

    def applied(self, pass_name: str | None = None) -> list[Application]:
        """Return the applications that stand, of one pass or of all."""
        return [
            entry
            for entry in self.applications
            if not entry.undone and pass_name in (None, entry.pass_name)
        ]

    def history(self, name: str) -> Iterator[Application]:
        """Yield the applications that touched the node, value or weight ``name``, in order.

        A name is followed through replacements, both ways: to the names whose data it carries,
        and to the name that carries its own data now.
        """
        names = {name}
        for entry in reversed(self.applications):
            if not entry.undone:
                names |= {old for old, new in entry.values_replaced.items() if new in names}
        heirs = {name}
        for entry in self.applications:
            if not entry.undone:
                heirs |= {new for old, new in entry.values_replaced.items() if old in heirs}
        names |= heirs
        for entry in self.applications:
            if not names.isdisjoint(_touched(entry)):
                yield entry

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that can be written as JSON."""
        return {
            "schema": SCHEMA,
            "limit": self.limit,
            "applications": [dataclasses.asdict(entry) for entry in self.applications],
            "skips": [dataclasses.asdict(skip) for skip in self.skips],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ledger:
        """Return the ledger that ``to_json`` has turned into ``data``.

        Raises:
            ValueError: ``data`` is no ledger, or one of another version.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"expected {SCHEMA!r}, found {data.get('schema')!r}")
        ledger = cls(data["limit"])
        for fields in data["applications"]:
            records = {
                key: [(_node if key.startswith("nodes") else _weight)(one) for one in value]
                for key, value in fields.items()
                if key.startswith(("nodes_", "weights_"))
            }
            ledger.applications.append(_checked(Application(**{**fields, **records})))
        for fields in data["skips"]:
            ledger.skip(**fields)
        _check_texts(text for skip in ledger.skips for text in dataclasses.astuple(skip))
        return ledger

    def __len__(self) -> int:
        return len(self.applications)


def _checked(entry: Application) -> Application:
    """Return ``entry`` if its fields are of the right types: it may come from any file."""
    if type(entry.number) is not int:
        raise TypeError(f"the number of a rewrite is {entry.number!r}")
    _check_texts((entry.pass_name, entry.rule, entry.anchor, entry.note, entry.undone))
    _check_texts((*entry.values_replaced.keys(), *entry.values_replaced.values()))
    for node in (*entry.nodes_removed, *entry.nodes_added, *entry.nodes_changed):
        _check_texts((node.name, node.op_type, *node.inputs, *node.outputs))
    for weight in (*entry.weights_removed, *entry.weights_added):
        _check_texts((weight.name, weight.dtype))
        if type(weight.size_bytes) is not int:
            raise TypeError(f"the size of a weight is {weight.size_bytes!r}")
    return entry


def _check_texts(values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"expected text, found {value!r}")


def _node(fields: Mapping[str, Any]) -> NodeRecord:
    tuples = {key: tuple(fields[key]) for key in ("inputs", "outputs")}
    return NodeRecord(**{**fields, **tuples})


def _weight(fields: Mapping[str, Any]) -> WeightRecord:
    return WeightRecord(**{**fields, "shape": tuple(fields["shape"])})


def _touched(entry: Application) -> Iterator[str]:
    yield entry.anchor
    for node in (*entry.nodes_removed, *entry.nodes_added, *entry.nodes_changed):
        yield node.name
        yield from node.outputs
    for weight in (*entry.weights_removed, *entry.weights_added):
        yield weight.name
    yield from entry.values_replaced

"""What became of a node, a tensor or a weight, and why; read from the ledger alone."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from graphopt.ledger import Application, Ledger, NodeRecord, Skip, WeightRecord

__all__ = ["Account", "Explanation", "account", "explain", "known_names"]


_MOST_HINTS = 3


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The story of one name.

    Attributes:
        name: The name that was asked for.
        became: Names that carry its data now, the latest last; empty where it kept its own.
        rewrites: The rewrites that touched it, in order.
        skips: Where it was looked at and left alone, and why.
        hint: The nearest names that the ledger knows, where it does not know this one.
        untouched: Whether the model has it and no rewrite touched it, where that is known.
    """

    name: str
    became: tuple[str, ...]
    rewrites: tuple[Application, ...]
    skips: tuple[Skip, ...]
    hint: str = ""
    untouched: bool = False

    @property
    def found(self) -> bool:
        """Whether anything is known about the name."""
        return bool(self.rewrites or self.skips or self.untouched)


def explain(ledger: Ledger, name: str, present: Collection[str] = ()) -> Explanation:
    """Return every rewrite that ``name`` went through and every reason it was left alone.

    Args:
        ledger: The run.
        name: A node, a tensor or a weight, by its name before, after or in between.
        present: Names in the model that the run made, if it is at hand.
    """
    rewrites = tuple(ledger.history(name))
    became: list[str] = []
    for entry in ledger.applied():
        latest = became[-1] if became else name
        if latest in entry.values_replaced:
            became.append(entry.values_replaced[latest])
    # A skip names the node; the outputs of that node, where it was rewritten too, lead to it.
    names = {name, *became, *_nodes_of(rewrites, name)}
    skips = tuple(skip for skip in ledger.skips if skip.anchor in names)
    untouched = name in present and not rewrites
    hint = ""
    if not (rewrites or skips or untouched):
        hint = _hint(name, sorted(known_names(ledger).union(present)))
    return Explanation(name, tuple(became), rewrites, skips, hint, untouched)


def _hint(name: str, names: Sequence[str]) -> str:
    """Return the few ``names`` that are most like ``name``; there may be thousands."""
    part = name.lower()
    holding = sorted((one for one in names if part and part in one.lower()), key=len)
    close = difflib.get_close_matches(name, names, n=_MOST_HINTS, cutoff=0.5)
    few = list(dict.fromkeys([*holding, *close]))[:_MOST_HINTS]
    if not few:
        return f"No name of the {len(names):,} that are known is like it."
    *most, last = map(repr, few)
    return f"Did you mean {', '.join(most)}{' or ' if most else ''}{last}?"


def known_names(ledger: Ledger) -> set[str]:
    """Return every name that the ledger says something about."""
    names = {skip.anchor for skip in ledger.skips}
    for entry in ledger.applications:
        names |= {entry.anchor, *entry.values_replaced, *entry.values_replaced.values()}
        for node in (*entry.nodes_removed, *entry.nodes_added, *entry.nodes_changed):
            names |= {node.name, *node.outputs}
        names |= {weight.name for weight in (*entry.weights_removed, *entry.weights_added)}
    return names - {""}


@dataclasses.dataclass(frozen=True)
class Account:
    """Where every node and weight of two models went and came from.

    Attributes:
        kept: Nodes and weights that are in both models, untouched.
        changed: Those in both that a rewrite changed -> numbers of the rewrites.
        gone: Those of the original only -> number of the rewrite that took them away.
        new: Those of the result only -> number of the rewrite that made them.
        unexplained: Those that no rewrite accounts for; empty in a sound run.
    """

    kept: tuple[str, ...]
    changed: dict[str, list[int]]
    gone: dict[str, int]
    new: dict[str, int]
    unexplained: tuple[str, ...]


def account(original: ir.Model, result: ir.Model, ledger: Ledger) -> Account:
    """Account for every node and initializer of both models by the rewrites of ``ledger``.

    Nodes are told apart by the names of their outputs, since many have no other name.
    """
    before, after = dict(_things(original)), dict(_things(result))
    touched: dict[str, list[int]] = {}
    gone: dict[str, int] = {}
    moved: dict[str, str] = {}
    for entry in ledger.applied():
        for key in _keys(
            entry.nodes_changed, entry.nodes_added, entry.weights_removed, entry.weights_added
        ):
            touched.setdefault(key, []).append(entry.number)
        for key in _keys(entry.nodes_removed, entry.weights_removed):
            gone[key] = entry.number
        for name in entry.values_replaced:  # a node whose output took another name
            gone.setdefault(name, entry.number)
        moved |= entry.values_replaced
    kept: list[str] = []
    unexplained: list[str] = []
    for key, thing in before.items():
        if key not in after:
            unexplained += [] if key in gone else [key]
        elif key not in touched:
            (kept if _is_same(thing, after[key], moved) else unexplained).append(key)
    fresh = [key for key in after if key not in before]
    unexplained += [key for key in fresh if key not in touched]
    return Account(
        tuple(kept),
        {key: touched[key] for key in before if key in after and key in touched},
        {key: gone[key] for key in before if key not in after and key in gone},
        {key: touched[key][0] for key in fresh if key in touched},
        tuple(unexplained),
    )


def _things(model: ir.Model) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a name for every node and initializer, and operator and inputs; of all graphs."""
    for graph in model.graphs():
        for name in graph.initializers:
            yield name, ("weight",)
        for node in graph:
            inputs = (value.name or "" if value is not None else "" for value in node.inputs)
            key = ", ".join(value.name or "" for value in node.outputs)
            yield key, (f"{node.domain}::{node.op_type}", *inputs)


def _is_same(old: tuple[str, ...], new: tuple[str, ...], moved: Mapping[str, str]) -> bool:
    """Whether a node is what it was, but for names that its inputs took over."""
    if len(old) != len(new):
        return False
    for before, after in zip(old, new, strict=True):
        name, seen = before, set[str]()
        while name != after and name in moved and name not in seen:
            seen.add(name)
            name = moved[name]
        if name != after:
            return False
    return True


def _keys(*groups: Iterable[NodeRecord | WeightRecord]) -> Iterator[str]:
    for group in groups:
        for record in group:
            yield ", ".join(record.outputs) if isinstance(record, NodeRecord) else record.name


def _nodes_of(rewrites: tuple[Application, ...], name: str) -> Iterator[str]:
    for entry in rewrites:
        for node in (*entry.nodes_removed, *entry.nodes_added, *entry.nodes_changed):
            if name in node.outputs or name == node.name:
                yield node.name
                yield from node.outputs

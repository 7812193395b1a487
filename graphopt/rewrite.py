"""Rules and the worklist driver that applies them until nothing changes.

A rule is a function of one node. It looks at the neighbourhood and returns a rewrite, or the
reason why not, or ``None`` where it is not concerned at all. Rules are indexed by operator
and a node is tried again only when something next to it changed, so the cost grows with the
edits and not with rules x nodes x rounds.
"""

from __future__ import annotations

import abc
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, TypeAlias

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite, Rewriter
from graphopt.errors import PassError
from graphopt.passbase import Context, Pass, PassResult, Promise

__all__ = ["Fixpoint", "Reason", "Rule", "RulePass", "drive"]

logger = logging.getLogger(__name__)

APPLICATIONS_PER_NODE = 64
"""More applications than this for each node, counting the new ones, is taken for a cycle of
rules that undo each other; the longest honest chain seen in real models is below 10."""


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a rule does not apply to a node it looked at."""

    text: str


Match: TypeAlias = "Rewrite | Reason | None"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rewrite rule.

    Attributes:
        name: Name in the ledger, kebab-case.
        op_types: Operators of the node it is tried on: ``"Conv"`` for the ONNX domain,
            ``"com.microsoft::Gelu"`` for another; empty: every node.
        match: ``(node, facts) -> rewrite | Reason | None``. Must not change anything itself.
    """

    name: str
    op_types: tuple[str, ...]
    match: Callable[[ir.Node, Facts], Match]


class RulePass(Pass):
    """A pass that consists of rules."""

    @abc.abstractmethod
    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the rules of one run; state they share during the run lives in closures."""

    def finish(self, model: ir.Model, rewriter: Rewriter) -> None:
        """Do what is left when no rule matches any more; nothing by default."""

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Apply the rules until none matches."""
        return drive(model, [self], context)


@dataclasses.dataclass(frozen=True)
class Fixpoint(Pass):
    """Several rule passes driven together until none of them has anything left to do.

    In the text of a pipeline: ``[eliminate-identity,eliminate-dead-code]``.

    Attributes:
        passes: The passes; at each node their rules are tried in this order.
    """

    name: ClassVar[str] = "fixpoint"
    promise: ClassVar[Promise] = Promise.EXACT

    passes: tuple[RulePass, ...] = ()

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Apply the rules of all the passes until none matches."""
        return drive(model, self.passes, context)


def drive(model: ir.Model, passes: Sequence[RulePass], context: Context) -> PassResult:
    """Apply the rules of ``passes`` to every node of ``model`` until none matches.

    Nodes are first visited in graph order, those of a subgraph right after the node that
    holds it; then again whenever something next to them changed.

    Raises:
        PassError: The rules seem to undo each other for ever.
    """
    first = context.rewriter(model, passes[0]) if passes else None
    if first is None:
        return PassResult(model, modified=False, summary="nothing to do")
    rewriters = {first.pass_name: first}
    for pass_ in passes[1:]:
        rewriters[pass_.name] = Rewriter(
            model, pass_.name, context.ledger, context.guards, first.names
        )
    before = len(context.ledger.applied())
    facts = Facts(model, context)
    index = _Index([(rewriters[p.name], rule) for p in passes for rule in p.rules(context)])
    while True:
        applied = len(context.ledger.applied())
        _run_worklist(model, index, facts)
        for pass_ in passes:
            pass_.finish(model, rewriters[pass_.name])
        if len(passes) == 1 or len(context.ledger.applied()) == applied:
            break
    count = len(context.ledger.applied()) - before
    summary = f"{count} rewrites" if count != 1 else "1 rewrite"
    logger.info("%s: %s", "+".join(pass_.name for pass_ in passes), summary)
    return PassResult(model, modified=count > 0, summary=summary)


class _Index:
    """Rules by operator, in the order they are to be tried."""

    def __init__(self, rules: list[tuple[Rewriter, Rule]]) -> None:
        self._rules = rules
        self._cache: dict[str, list[tuple[Rewriter, Rule]]] = {}

    def __getitem__(self, node: ir.Node) -> list[tuple[Rewriter, Rule]]:
        key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        found = self._cache.get(key)
        if found is None:
            found = [
                (rewriter, rule)
                for rewriter, rule in self._rules
                if not rule.op_types or key in rule.op_types
            ]
            self._cache[key] = found
        return found


def _run_worklist(model: ir.Model, index: _Index, facts: Facts) -> None:
    queue: deque[ir.Node] = deque(ir.traversal.RecursiveGraphIterator(model.graph))
    waiting = set(queue)
    budget = 1000 + APPLICATIONS_PER_NODE * len(queue)
    while queue:
        node = queue.popleft()
        waiting.discard(node)
        if node.graph is None:
            continue
        done = _try_rules(node, index, facts)
        if done is None:
            continue
        budget -= 1
        if budget < 0:
            raise PassError(
                "diverges",
                f"{done.entry.pass_name}: rule {done.entry.rule!r} was still applied at node "
                f"{done.entry.anchor!r} after {1000 + APPLICATIONS_PER_NODE} applications a "
                "node; two rules undo each other.",
                hint="Leave one of them out of the pipeline and report this model.",
            )
        facts.forget()
        # The node itself first: what is now possible there is most likely to follow.
        for near in _neighbourhood(node, done):
            if near.graph is not None and near not in waiting:
                waiting.add(near)
                queue.append(near)


def _try_rules(node: ir.Node, index: _Index, facts: Facts) -> Edit | None:
    """Apply the first rule that matches ``node``; return what it did."""
    for rewriter, rule in index[node]:
        if rewriter.ledger.exhausted:
            return None
        match = rule.match(node, facts)
        if match is None:
            continue
        if isinstance(match, Reason):
            logger.debug("%s: left %r alone: %s", rule.name, node.name, match.text)
            rewriter.skip(rule.name, node, match.text)
            continue
        edit = rewriter.apply(rule.name, node, match)
        if edit is not None:
            return edit
    return None


def _neighbourhood(node: ir.Node, edit: Edit) -> Iterator[ir.Node]:
    """Yield the nodes to try again: what was touched, what feeds it and what it feeds."""
    yield node
    touched: Iterable[ir.Node] = [near for near in edit.touched if near.graph is not None]
    yield from touched
    for near in touched:
        yield from near.predecessors()
        yield from near.successors()

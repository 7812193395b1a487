"""Rules and the worklist driver that applies them until nothing changes.

A rule is a function of one node. It looks at the neighbourhood and returns a rewrite, or the
reason why not, or ``None`` where it is not concerned at all. Rules are indexed by operator
and a node is tried again only when something next to it changed, so the cost grows with the
edits and not with rules x nodes x rounds.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, TypeAlias

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.errors import PassError
from graphopt.ir_access import use_count
from graphopt.passbase import Context, Pass, PassResult, Promise
from graphopt.records import nodes_in
from graphopt.rewriter import Rewriter

__all__ = ["Fixpoint", "Reason", "Rule", "RulePass", "drive"]

logger = logging.getLogger(__name__)

APPLICATIONS_PER_NODE = 10
"""More applications than this for each node, on average, is taken for rules that undo each
other; real models need less than 2."""

FEW_USES = 8
"""A node whose outputs lost a use is worth a new look at their other users while these are so
few: the patterns of rules ask for one use, or for one by each of their own nodes. Without this
bound a value with n users would cost n^2 visits."""

MANY = 64
"""What is next to a node with more inputs, or more uses, is not tried again each time that
node changes, but when all nodes are visited once more: n changes of a Concat of n inputs, or
of what n nodes use, would cost n^2 visits."""


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
    holds it; then again whenever something next to them changed. When nothing is left to
    visit and something was applied, all nodes are visited once more, since a rule may look
    further than its neighbours; so a second run has nothing left to do.

    Raises:
        PassError: The rules seem to undo each other for ever.
    """
    if not passes:
        return PassResult(model, modified=False, summary="nothing to do")
    ledger = context.ledger
    first = context.rewriter(model, passes[0])
    rewriters = {first.pass_name: first}
    for pass_ in passes[1:]:
        rewriters[pass_.name] = Rewriter(
            model, pass_.name, ledger, context.guards, first.names, context.observers
        )
    facts = Facts(model, context)
    worklist = _Worklist(
        [(rewriters[p.name], rule) for p in passes for rule in p.rules(context)], facts
    )
    first_new = len(ledger.applications)
    applied = -1
    while applied:
        start = len(ledger.applied())
        worklist.run(model)
        for pass_ in passes:
            pass_.finish(model, rewriters[pass_.name])
        applied = len(ledger.applied()) - start
    news = collections.Counter(
        entry.pass_name for entry in ledger.applications[first_new:] if not entry.undone
    )
    summary = ", ".join(f"{name} {count}" for name, count in news.items()) or "nothing to do"
    logger.info("%s", summary)
    return PassResult(model, modified=bool(news), summary=summary)


class _Worklist:
    """Tries rules, by operator and in the order given, on the nodes that wait for it."""

    def __init__(self, rules: list[tuple[Rewriter, Rule]], facts: Facts) -> None:
        self._rules = rules
        self._facts = facts
        self._by_operator: dict[str, list[tuple[Rewriter, Rule]]] = {}
        self._applications = 0

    def run(self, model: ir.Model) -> None:
        """Visit all nodes, and again those next to a change, until none is left."""
        queue = deque(nodes_in(model.graph))
        waiting = set(queue)
        relieved: set[ir.Node] = set()
        most = 1000 + APPLICATIONS_PER_NODE * len(queue)

        def push(nodes: Iterable[ir.Node]) -> None:
            for node in nodes:
                if node.graph is not None and node not in waiting:
                    waiting.add(node)
                    queue.append(node)

        while queue:
            node = queue.popleft()
            waiting.discard(node)
            if node.graph is None:
                continue
            if node in relieved:
                # Only now: a node with many users is relieved of many before its turn comes.
                relieved.discard(node)
                if _uses(node) <= FEW_USES:
                    push(node.successors())
            done = self._try_rules(node)
            if done is None:
                continue
            self._applications += 1
            if self._applications > most:
                raise PassError(
                    "diverges",
                    f"{done.entry.pass_name}: rule {done.entry.rule!r} was still applied at "
                    f"node {done.entry.anchor!r} after {most} rewrites; two rules undo each "
                    "other.",
                    hint="Leave one of them out of the pipeline and report this model.",
                )
            self._facts.forget()
            push(_neighbourhood(node, done))
            relieved.update(done.relieved)
            push(done.relieved)

    def _try_rules(self, node: ir.Node) -> Edit | None:
        """Apply the first rule that matches ``node``; return what it did."""
        for rewriter, rule in self._rules_for(node):
            if rewriter.ledger.exhausted:
                return None
            match = rule.match(node, self._facts)
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

    def _rules_for(self, node: ir.Node) -> list[tuple[Rewriter, Rule]]:
        key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        found = self._by_operator.get(key)
        if found is None:
            found = self._by_operator[key] = [
                (rewriter, rule)
                for rewriter, rule in self._rules
                if not rule.op_types or key in rule.op_types
            ]
        return found


def _neighbourhood(node: ir.Node, edit: Edit) -> Iterator[ir.Node]:
    """Yield the nodes to try again: what was touched, what feeds it and what it feeds."""
    # The node itself first: what is now possible there is most likely to follow.
    yield node
    for near in edit.touched:
        yield near
        if len(near.inputs) <= MANY:
            yield from near.predecessors()
        if _uses(near) <= MANY:
            yield from near.successors()


def _uses(node: ir.Node) -> int:
    return sum(map(use_count, node.outputs))

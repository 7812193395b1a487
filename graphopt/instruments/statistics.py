"""Counts what a run did, by pass and rule, from its ledger."""

from __future__ import annotations

import collections
import dataclasses

from graphopt.ledger import Ledger

__all__ = ["RuleStatistic", "statistics"]


@dataclasses.dataclass(frozen=True)
class RuleStatistic:
    """What one rule of one pass did.

    Attributes:
        pass_name: Name of the pass.
        rule: Name of the rule.
        applied: Rewrites that stand.
        undone: Rewrites that a guard had taken back.
        nodes_removed, nodes_added: Nodes in the rewrites that stand.
        weight_bytes_delta: Bytes of initializers they added or (negative) removed.
        reasons: Why it left nodes alone -> how many, the most frequent first.
    """

    pass_name: str
    rule: str
    applied: int
    undone: int
    nodes_removed: int
    nodes_added: int
    weight_bytes_delta: int
    reasons: dict[str, int]


def statistics(ledger: Ledger) -> list[RuleStatistic]:
    """Return one entry a rule: first those that made rewrites, in the order they began."""
    counts: dict[tuple[str, str], collections.Counter[str]]
    counts = collections.defaultdict(collections.Counter)
    reasons: dict[tuple[str, str], collections.Counter[str]]
    reasons = collections.defaultdict(collections.Counter)
    for entry in ledger.applications:
        count = counts[entry.pass_name, entry.rule]
        if entry.undone:
            count["undone"] += 1
            continue
        count["applied"] += 1
        count["removed"] += len(entry.nodes_removed)
        count["added"] += len(entry.nodes_added)
        count["bytes"] += sum(weight.size_bytes for weight in entry.weights_added)
        count["bytes"] -= sum(weight.size_bytes for weight in entry.weights_removed)
    for skip in ledger.skips:
        reasons[skip.pass_name, skip.rule][skip.reason] += 1
    return [
        RuleStatistic(
            *key,
            counts[key]["applied"],
            counts[key]["undone"],
            counts[key]["removed"],
            counts[key]["added"],
            counts[key]["bytes"],
            dict(reasons[key].most_common()),
        )
        for key in dict.fromkeys((*counts, *reasons))
    ]

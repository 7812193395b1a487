"""What was left alone, grouped by reason: reasons that differ in names only are one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from graphopt.ledger import Skip

__all__ = ["SkipRow", "group_reasons", "group_skips"]

_NAME = re.compile(r"'[^']*'")


@dataclasses.dataclass(frozen=True)
class SkipRow:
    """What was left alone, and why; ``count`` places, ``anchor`` the first of them."""

    pass_name: str
    op_type: str
    reason: str
    count: int
    anchor: str


def group_skips(skips: Iterable[Skip]) -> list[SkipRow]:
    """Return one row a reason, the most frequent first, ties in the order they were noticed.

    ``"a factor of the axis that 'h1' cuts"`` and the same of ``'h2'`` are one reason; the row
    shows ``'…'`` for the name where it stands for several.
    """
    groups: dict[tuple[str, str, str], list[Skip]] = {}
    for skip in skips:
        key = (skip.pass_name, skip.op_type, _NAME.sub("'…'", skip.reason))
        groups.setdefault(key, []).append(skip)
    rows = []
    for (pass_name, op_type, general), members in groups.items():
        reasons = {member.reason for member in members}
        reason = members[0].reason if len(reasons) == 1 else general
        rows.append(SkipRow(pass_name, op_type, reason, len(members), members[0].anchor))
    return sorted(rows, key=lambda row: -row.count)


def group_reasons(counts: Mapping[str, int]) -> dict[str, int]:
    """Return reason -> places with those that differ in names only put together, as above."""
    groups: dict[str, dict[str, int]] = {}
    for reason, count in counts.items():
        groups.setdefault(_NAME.sub("'…'", reason), {})[reason] = count
    found = {
        next(iter(members)) if len(members) == 1 else general: sum(members.values())
        for general, members in groups.items()
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))

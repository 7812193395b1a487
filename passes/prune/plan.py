"""The plan of a pruning: what is removed and what is left alone, as a plain value.

It can be printed, saved as JSON, edited by hand and replayed with ``plan=FILE``.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from graphopt.analysis.coupling.groups import Group
from graphopt.errors import PipelineError, nearest

__all__ = ["Entry", "Plan"]

FORMAT = "graphopt-pruning-plan"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Entry:
    """What happens to one group.

    Attributes:
        name: Name of the group.
        size: Number of its indices.
        removed: The indices that are removed, ascending.
        reason: Why nothing is removed; ``""`` where something is.
        weights: Names of the constants that hold its data, for the reader.
    """

    name: str
    size: int
    removed: tuple[int, ...] = ()
    reason: str = ""
    weights: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """Number of indices that are left."""
        return self.size - len(self.removed)

    @classmethod
    def of(cls, group: Group, removed: Iterable[int] = (), reason: str = "") -> Entry:
        """Return the entry of ``group``."""
        names = dict.fromkeys(member.site.name for member in group.members)
        return cls(group.name, group.size, tuple(map(int, removed)), reason, tuple(names))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is removed from which group.

    Attributes:
        entries: One a group, in the order of the graph.
    """

    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "groups": [dataclasses.asdict(entry) for entry in self.entries],
        }

    def save(self, path: str | pathlib.Path) -> None:
        """Write the plan to a file."""
        pathlib.Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", "utf-8")

    @classmethod
    def from_json(cls, data: object) -> Plan:
        """Return the plan that ``to_json`` made.

        Raises:
            PipelineError: The values are not such a plan.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise PipelineError("bad-plan", f"this is not a {FORMAT}.")
        if data.get("version") != VERSION:
            raise PipelineError(
                "bad-plan",
                f"the plan has version {data.get('version')!r}, this is {VERSION}.",
                hint="Make the plan again with this version.",
            )
        return cls(tuple(_entry(item) for item in data.get("groups", ())))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Plan:
        """Read a plan from a file.

        Raises:
            PipelineError: The file cannot be read, or does not hold a plan.
        """
        try:
            data = json.loads(pathlib.Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise PipelineError(
                "bad-plan", f"the plan {str(path)!r} cannot be read: {error}."
            ) from error
        return cls.from_json(data)

    def removals(self, groups: Iterable[Group]) -> list[tuple[Group, tuple[int, ...]]]:
        """Return what to remove from each of ``groups``, checked against them.

        Raises:
            PipelineError: A group of the plan is not there, has another size, is needed
                whole, or would lose all of its indices.
        """
        known = {group.name: group for group in groups}
        found: list[tuple[Group, tuple[int, ...]]] = []
        for entry in self.entries:
            if not entry.removed:
                continue
            group = known.get(entry.name)
            if group is None:
                raise PipelineError(
                    "bad-plan",
                    f"the model has no group {entry.name!r}.",
                    hint=nearest(entry.name, known),
                )
            _check(entry, group)
            found.append((group, entry.removed))
        return found


def _check(entry: Entry, group: Group) -> None:
    problem = ""
    if entry.size != group.size:
        problem = f"has {group.size} indices in the model and {entry.size} in the plan"
    elif group.reason:
        problem = f"cannot be cut: {group.reason}"
    elif not all(0 <= index < group.size for index in entry.removed):
        problem = f"has indices 0 to {group.size - 1}; the plan removes others"
    elif len(set(entry.removed)) >= group.size:
        problem = "would lose all of its indices"
    if problem:
        raise PipelineError("bad-plan", f"group {entry.name!r} {problem}.")


def _entry(item: object) -> Entry:
    try:
        assert isinstance(item, Mapping)
        return Entry(
            name=str(item["name"]),
            size=int(item["size"]),
            removed=tuple(sorted({int(index) for index in item.get("removed", ())})),
            reason=str(item.get("reason", "")),
            weights=tuple(map(str, item.get("weights", ()))),
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise PipelineError("bad-plan", f"{item!r} is not a group of a plan.") from error

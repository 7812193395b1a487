"""The plan of a static quantization: what runs on integers, over which ranges, and why not.

A plan is a plain value. It can be printed, written as JSON, edited by hand and replayed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from graphopt.errors import PipelineError

__all__ = ["Decision", "StaticPlan"]

VERSION = 1
"""Version of the file format."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What was decided about one operator.

    Attributes:
        op_type: Its type.
        precision: ``"int8"`` or ``"float"``.
        reason: Why it stays in float; empty for int8.
    """

    op_type: str
    precision: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class StaticPlan:
    """What to quantize, and how.

    Attributes:
        operators: Name of a node (or of its first output, where it has none) -> decision.
        ranges: Name of a value -> the smallest and the largest number it stands for.
    """

    operators: dict[str, Decision] = dataclasses.field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as values that can be written as JSON."""
        return {
            "version": VERSION,
            "operators": {
                name: {k: v for k, v in dataclasses.asdict(decision).items() if v}
                for name, decision in self.operators.items()
            },
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StaticPlan:
        """Return the plan that ``to_json`` wrote.

        Raises:
            PipelineError: The data are not a plan of this version.
        """
        try:
            plan = cls(
                {str(name): _decision(entry) for name, entry in data["operators"].items()},
                {str(name): _range(name, ends) for name, ends in data["ranges"].items()},
            )
            version = data["version"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PipelineError("bad-plan", f"this is not a plan: {error}.") from error
        if version != VERSION:
            raise PipelineError("bad-plan", f"version {version} of a plan is not {VERSION}.")
        return plan

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StaticPlan:
        """Return the plan in a file.

        Raises:
            PipelineError: There is no such file, or it holds no plan.
        """
        try:
            data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PipelineError("bad-plan", f"{os.fspath(path)}: {error}.") from error
        return cls.from_json(data)


def _decision(entry: Mapping[str, Any]) -> Decision:
    precision = str(entry["precision"])
    if precision not in ("int8", "float"):
        raise ValueError(f"precision {precision!r} is neither 'int8' nor 'float'")
    return Decision(str(entry["op_type"]), precision, str(entry.get("reason", "")))


def _range(name: str, ends: tuple[float, float]) -> tuple[float, float]:
    low, high = map(float, ends)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"the range of {name!r} is [{low:g}, {high:g}]")
    return low, high

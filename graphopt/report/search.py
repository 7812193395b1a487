"""What a search for precisions found: the choices, and why each operator is what it is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import rich.box
import rich.table
import rich.text

__all__ = ["Candidate", "Precision", "SearchReport", "front_table", "precision_table"]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that was looked at.

    Attributes:
        scheme: How its operators were made integer: ``"static"``, ``"dynamic"``; ``"float"``
            for the original.
        kept: Operators that stay in float.
        quality: By the metric, on the held-out samples.
        proven: What of that the number of samples shows with 95 % confidence; this is what
            the target is for.
        size_bytes: Of its weights.
        latency_ms: Median of a run; ``None``: not measured.
        speedup: How many times faster than the original, measured in turn with it.
        is_partial: Whether it was given up before the last sample: quality is that so far.
    """

    scheme: str
    kept: tuple[str, ...]
    quality: float
    proven: float
    size_bytes: int
    latency_ms: float | None
    speedup: float | None
    is_partial: bool = False


@dataclasses.dataclass(frozen=True)
class Precision:
    """What became of an operator, and why.

    Attributes:
        operator: Its name.
        op_type: Its type.
        precision: ``"int8"`` or ``"float"``.
        kept_db: Signal over noise of its product in integer, estimated.
        reason: Why it is what it is.
    """

    operator: str
    op_type: str
    precision: str
    kept_db: float
    reason: str


@dataclasses.dataclass(frozen=True)
class SearchReport:
    """What a search found.

    Attributes:
        metric: What quality is measured in.
        target: What was to be kept of it.
        calibration_samples: Samples that ranges were taken from.
        held_out_samples: Samples that quality was judged on.
        decisions: Right and wrong answers that it counts on them; 0: it does not count.
        best: What was chosen.
        front: The measured choices that no other beats in quality, latency and size.
        candidates: Every choice that was looked at, in order; the first is the original.
        operators: One entry an operator that can be integer.
        evaluations: How many choices were looked at.
        is_complete: Whether the search came to its end by itself.
        notes: What the reader has to know.
    """

    metric: str
    target: float
    calibration_samples: int
    held_out_samples: int
    decisions: int
    best: Candidate
    front: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    operators: tuple[Precision, ...]
    evaluations: int
    is_complete: bool
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has; what is not finite is ``None``."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def front_table(report: SearchReport) -> rich.table.Table:
    """Return one row a choice that nothing beats, the fastest first."""
    table = _table(
        "precisions",
        "in float",
        "quality",
        "shown",
        "ms",
        "times faster",
        "MB",
    )
    table.title = rich.text.Text(
        f"> the fastest that keeps {report.metric} {report.target:g}, of "
        f"{report.evaluations} choices on {report.held_out_samples} held-out samples"
    )
    table.title_justify = "left"
    for found in report.front:
        chosen = found == report.best
        table.add_row(
            f"{'> ' if chosen else '  '}{found.scheme}",
            "all" if found.scheme == "float" else str(len(found.kept)),
            f"{found.quality:.5f}",
            f"{found.proven:.5f}",
            "-" if found.latency_ms is None else f"{found.latency_ms:.2f}",
            "-" if found.speedup is None else f"{found.speedup:.2f}",
            f"{found.size_bytes / 1e6:.1f}",
            style="bold" if chosen else "",
        )
    return table


def precision_table(report: SearchReport, limit: int = 20) -> rich.table.Table:
    """Return one row a type, precision and reason: what stays in float first, then by dB."""
    groups: dict[tuple[str, str, str], list[Precision]] = {}
    for one in report.operators:
        groups.setdefault((one.op_type, one.precision, one.reason), []).append(one)
    rows = sorted(
        (key[1] != "float", min(one.kept_db for one in members), key)
        for key, members in groups.items()
    )
    table = _table("operator", "precision", "count", "keeps dB", "for example", "why")
    for index in (1, 4, 5):
        table.columns[index].justify = "left"
    for _, least, (op_type, precision, reason) in rows[:limit]:
        members = groups[op_type, precision, reason]
        most = max(one.kept_db for one in members)
        kept = f"{least:.1f}" if least == most else f"{least:.1f} - {most:.1f}"
        example, why = rich.text.Text(members[0].operator), rich.text.Text(reason)
        table.add_row(op_type, precision, str(len(members)), kept, example, why)
    if len(rows) > limit:
        table.add_row("…", "", "", "", "", f"{len(rows) - limit} more rows: see --json")
    return table


def _table(*columns: str) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table

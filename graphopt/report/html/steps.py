"""What each pass did, and what a search for a trade-off looked at."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from graphopt.report.console import pass_label
from graphopt.report.search import Candidate, SearchReport
from graphopt.rewrite import Fixpoint

from .content import SearchPoint, StepPart, StepRow

if TYPE_CHECKING:
    from graphopt.api import Result
    from graphopt.manager import Step

__all__ = ["search_points", "start_row", "step_rows"]


def start_row(result: Result) -> StepRow:
    """Return the model before the first pass."""
    if not result.measurements:
        return StepRow("original", "", nodes=result.before.nodes)
    first = result.measurements[0]
    return StepRow(
        "original",
        "",
        nodes=first.nodes - first.nodes_delta,
        weight_bytes=first.weight_bytes - first.weight_bytes_delta,
        latency_ratio=1.0 if any(result.step_latencies) else None,
    )


def step_rows(result: Result) -> list[StepRow]:
    """Return one row a pass that was run, and one for each that was left out."""
    rows = []
    every = zip(result.steps, result.measurements, result.step_latencies, strict=True)
    for step, measured, latency in every:
        rows.append(
            StepRow(
                pass_label(step.pass_),
                step.result.summary,
                step.label,
                rewrites=step.standing,
                first=step.rewrites.start,
                nodes=measured.nodes,
                weight_bytes=measured.weight_bytes,
                nodes_delta=measured.nodes_delta,
                bytes_delta=measured.weight_bytes_delta,
                latency_ratio=None if latency is None else latency.ratio,
                wall_s=measured.wall_s,
                parts=tuple(_parts(step, result)),
            )
        )
    rows += [StepRow(text, why, text, left_out=True) for text, why in result.left_out.items()]
    return rows


def _parts(step: Step, result: Result) -> list[StepPart]:
    """Return what each of the passes that ran in turn did; nothing of a single pass."""
    if not isinstance(step.pass_, Fixpoint):
        return []
    rewrites: collections.Counter[str] = collections.Counter()
    nodes: collections.Counter[str] = collections.Counter()
    for number in step.rewrites:
        entry = result.ledger.applications[number - 1]
        if not entry.undone:
            rewrites[entry.pass_name] += 1
            nodes[entry.pass_name] += len(entry.nodes_added) - len(entry.nodes_removed)
    names = [pass_.name for pass_ in step.pass_.passes]
    return [
        StepPart(name, rewrites[name], nodes[name])
        for name in dict.fromkeys(names)
        if rewrites[name]
    ]


def search_points(result: Result) -> tuple[tuple[SearchPoint, ...], dict[str, Any]]:
    """Return the choices that a search looked at, and what is known about it."""
    for name, found in result.artifacts.items():
        if isinstance(found, SearchReport):
            points = sorted((_point(one, found) for one in found.candidates), key=_order)
            return tuple(points), {
                "pass": name,
                "metric": found.metric,
                "target": found.target,
                "evaluations": found.evaluations,
                "held_out": found.held_out_samples,
                "notes": found.notes,
            }
    return (), {}


def _order(point: SearchPoint) -> tuple[bool, bool, float, float]:
    """The front first, then the fastest; what was not timed comes last."""
    speedup = point.speedup or 0.0
    return not point.on_front, point.speedup is None, -speedup, -point.quality


def _point(candidate: Candidate, report: SearchReport) -> SearchPoint:
    kept = len(candidate.kept)
    return SearchPoint(
        f"{candidate.scheme}, {kept} in float" if kept else candidate.scheme,
        candidate.quality,
        candidate.proven,
        candidate.speedup,
        candidate.size_bytes,
        candidate == report.best,
        candidate in report.front,
    )

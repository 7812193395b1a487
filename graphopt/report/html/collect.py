"""Collects what the report says from a result: every figure that needs no drawing."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING

from graphopt.report.skips import group_skips
from graphopt.report.summary import known_shapes
from graphopt.report.verdict import verdict_of
from graphopt.runtime import Runtime

from .cards import cards_of
from .content import Content, OutputRow, RewriteRow
from .facts import facts_of
from .graph_rows import graph_rows, states
from .layers import layer_rows
from .steps import search_points, start_row, step_rows
from .touches import Touches
from .worst_samples import sample_rows

if TYPE_CHECKING:
    from graphopt.api import Result
    from graphopt.ledger import Application, NodeRecord
    from graphopt.passbase import Progress

__all__ = ["collect"]


def collect(result: Result, progress: Progress | None, command: str) -> Content:
    """Return the report of ``result``; runs both models on a few samples."""
    touches = Touches(result.ledger)
    origin = result.origin
    shape_of = (known_shapes(origin.model), known_shapes(result.model))
    before, after = states(origin.model, result.model, result.ledger)
    with contextlib.closing(Runtime()) as runtime:
        fed = origin.fed
        in_run = (known_shapes(origin.model, fed), known_shapes(result.model, fed))
        layers = layer_rows(result, touches, in_run, runtime, progress)
    judged, verdict = verdict_of(result)
    points, about = search_points(result)
    comparison = result.comparison
    return Content(
        title=os.path.basename(origin.source) or origin.model.graph.name or "model",
        judged=judged,
        verdict=verdict,
        notes=tuple(map(_sentence, filter(None, (comparison.reason, *comparison.notes)))),
        cards=tuple(cards_of(result)),
        start=start_row(result),
        steps=tuple(step_rows(result)),
        search=points,
        search_about=about,
        outputs=tuple(_outputs(result)),
        samples=sample_rows(result),
        layers=layers,
        before=graph_rows(origin.model, before, touches, shape_of[0]),
        after=graph_rows(result.model, after, touches, shape_of[1]),
        rewrites=tuple(map(_rewrite, result.ledger.applications)),
        skips=tuple(group_skips(result.ledger.skips)),
        facts=tuple(facts_of(result, command)),
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}" + ("" if text.endswith((".", ")")) else ".")


def _outputs(result: Result) -> list[OutputRow]:
    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return [
        OutputRow(
            output.name,
            output.dtype,
            output.difference.max_abs,
            output.difference.max_rel,
            finite(output.difference.cosine),
            finite(output.difference.sqnr_db),
            output.difference.top1,
            output.difference.worst_sample if output.difference.equal < 1 else None,
            output.passed,
            output.reason,
        )
        for output in result.comparison.outputs
    ]


def _rewrite(entry: Application) -> RewriteRow:
    def shown(nodes: list[NodeRecord]) -> tuple[str, ...]:
        return tuple(", ".join(node.outputs) or node.name for node in nodes)

    return RewriteRow(
        entry.number,
        entry.pass_name,
        entry.rule,
        entry.anchor,
        entry.note,
        shown(entry.nodes_removed),
        shown(entry.nodes_added),
        shown(entry.nodes_changed),
        sum(weight.size_bytes for weight in entry.weights_added)
        - sum(weight.size_bytes for weight in entry.weights_removed),
        entry.undone,
    )

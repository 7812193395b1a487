"""Puts what a search found into words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.quality import Quality
from graphopt.report.search import Candidate, Precision, SearchReport

from .auto_builder import AutoBuilder
from .auto_choice import Evaluation, Outcome, pareto_front

__all__ = ["report_of"]


def report_of(
    outcome: Outcome,
    builder: AutoBuilder,
    original_ms: float | None,
    metric: str,
    target: float,
    evidence: Quality,
    calibration_samples: int,
    notes: Sequence[str],
) -> SearchReport:
    """Return the report of a search.

    Args:
        outcome: What was found.
        builder: Knows the operators.
        original_ms: Latency of the original, if it was measured.
        metric: Name of what quality is measured in.
        target: What was to be kept of it.
        evidence: Quality of the original on the held-out samples.
        calibration_samples: How many samples calibrated.
        notes: What the reader has to know besides.
    """
    notes = list(notes)
    if outcome.is_interrupted:
        notes.append(
            "interrupted: this is the best so far; the same command goes on from here"
        )
    elif not outcome.is_complete:
        notes.append(f"the time was up after {len(outcome.evaluations) - 1} choices")
    return SearchReport(
        metric,
        target,
        calibration_samples,
        evidence.samples,
        evidence.decisions,
        _candidate(outcome.best, original_ms),
        tuple(_candidate(found, original_ms) for found in pareto_front(outcome.evaluations)),
        tuple(_candidate(found, original_ms) for found in outcome.evaluations),
        tuple(_precisions(outcome, builder, metric, target)),
        len(outcome.evaluations),
        outcome.is_complete,
        tuple(notes),
    )


def _candidate(found: Evaluation, original_ms: float | None) -> Candidate:
    speed, is_float = found.speed, not found.choice.scheme
    latency_ms = original_ms if is_float else speed.latency_ms if speed else None
    return Candidate(
        found.choice.scheme or "float",
        found.choice.kept,
        found.quality,
        found.proven,
        found.size_bytes,
        latency_ms,
        1 / speed.ratio if speed else None,
        found.is_partial,
    )


def _precisions(
    outcome: Outcome, builder: AutoBuilder, metric: str, target: float
) -> list[Precision]:
    scheme = outcome.best.choice.scheme
    kept = set(outcome.best.choice.kept)
    could = set(builder.operators([scheme])[scheme]) if scheme else set()
    if not scheme:
        common = _why_all_stay(outcome, target)
    found = []
    for name, (op_type, decibels) in builder.kept_db().items():
        precision = "float"
        if not scheme:
            reason = common
        elif name not in could:
            reason = f"{scheme} quantization has no integer form for it"
        elif name in kept:
            reason = _why_it_stays(outcome, name, metric, target)
        else:
            precision, reason = "int8", f"the target holds with it, {scheme}"
        found.append(Precision(name, op_type, precision, decibels, reason))
    return found


def _why_it_stays(outcome: Outcome, name: str, metric: str, target: float) -> str:
    scheme, kept = outcome.best.choice.scheme, set(outcome.best.choice.kept)
    with_it = [
        found
        for found in outcome.evaluations
        if found.choice.scheme == scheme and set(found.choice.kept) <= kept - {name}
    ]
    if good := [found for found in with_it if found.proven >= target]:
        if all(found.speed is None for found in good):
            return "the target holds with it in integer: how fast that is was not measured"
        return "the target holds with it in integer, but it is no faster"
    alone = [found for found in with_it if len(found.choice.kept) == len(kept) - 1]
    if not alone and not outcome.is_complete:
        return "not tried by itself in integer before the end"
    figures = "".join(f": {metric} would be {_figure(found)}" for found in alone)
    return f"in integer the target is missed{figures}"


def _why_all_stay(outcome: Outcome, target: float) -> str:
    full = [e for e in outcome.evaluations if e.choice.scheme and not e.choice.kept]
    if not full:
        return "no operator was tried" if not outcome.is_complete else "none can be integer"
    nearest = max(full, key=lambda e: e.proven)
    if nearest.proven == -math.inf:
        return "in integer it does not run, or its outputs are not finite or of another shape"
    if nearest.proven >= target:
        if nearest.speed is None:
            return "the target holds with all in integer: how fast that is was not measured"
        return f"integers are not faster here: {1 / nearest.speed.ratio:.2f}x"
    reason = f"the quality would be {_figure(nearest)}, below {target:g}"
    enough = [
        (1 / found.speed.ratio, len(found.choice.kept))
        for found in outcome.evaluations
        if found.choice.kept and found.speed is not None and found.proven >= target
    ]
    if enough:
        speedup, count = max(enough)
        reason += f"; with {count} operators in float it holds, at {speedup:.2f}x"
    return reason


def _figure(found: Evaluation) -> str:
    if found.is_partial:
        return f"{found.quality:.5f} on the samples before it was given up"
    shown = f" (shown: {found.proven:.5f})" if found.proven != found.quality else ""
    return f"{found.quality:.5f}{shown}"

"""The report as JSON. The keys are stable: new ones may come, none changes its meaning."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.api import Result

__all__ = ["SCHEMA", "result_to_json"]

SCHEMA = "graphopt/optimize/1"


def result_to_json(result: Result) -> dict[str, Any]:
    """Return the whole report of ``optimize`` as JSON values."""
    return {
        "schema": SCHEMA,
        "output": None if result.saved is None else str(result.saved.path),
        "external_data": (
            str(result.saved.external_path)
            if result.saved is not None and result.saved.external_path is not None
            else None
        ),
        "before": result.before.to_json(),
        "after": result.after.to_json(),
        "comparison": result.comparison.to_json(),
        "latency": [dataclasses.asdict(latency) for latency in result.latency],
        "speedup": result.speedup,
        "steps": [
            {
                "pass": step.label,
                "modified": step.result.modified,
                "summary": step.result.summary,
                "rewrites": [step.rewrites.start, step.rewrites.stop - 1],
                "details": dict(step.result.details),
            }
            for step in result.steps
        ],
        "left_out": dict(result.left_out),
        "ledger": [dataclasses.asdict(entry) for entry in result.ledger.applications],
        "skipped": [dataclasses.asdict(skip) for skip in result.ledger.skips],
    }

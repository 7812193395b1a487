"""What ``graphopt optimize`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.report import console as report
from graphopt.report import search
from graphopt.report.verdict import verdict_of

if TYPE_CHECKING:
    import rich.console

    from graphopt.api import Result

__all__ = ["print_result"]


def print_result(words: rich.console.Console, result: Result) -> None:
    """Print what was done, how far the result is apart, and what it gained."""
    words.print(report.step_table(result))
    _print_searches(words, result)
    skipped = report.skip_table(result.ledger)
    if skipped is not None:
        words.print(skipped)
    for entry in result.ledger.applications:
        if entry.undone:
            words.print(f"undone: {entry.summary()}")
    words.print(report.comparison_table(result.comparison))
    for note in (
        result.comparison.reason,
        result.comparison.score_text,
        *result.comparison.notes,
    ):
        if note:
            words.print(note, style="dim")
    words.print(verdict_of(result)[1])
    words.print(report.summary_table(result))
    if result.saved is not None:
        words.print(f"wrote {result.saved.path}", soft_wrap=True)


def _print_searches(words: rich.console.Console, result: Result) -> None:
    for found in result.artifacts.values():
        if isinstance(found, search.SearchReport):
            words.print(search.precision_table(found))
            words.print(search.front_table(found))
            for note in found.notes:
                words.print(f"note: {note}")

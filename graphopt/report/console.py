"""What a person reads in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import rich.box
import rich.console
import rich.segment
import rich.table
import rich.text

from graphopt import pipeline
from graphopt.report.skips import group_skips
from graphopt.report.summary import macs_label
from graphopt.rewrite import Fixpoint
from graphopt.terminal import harmless

if TYPE_CHECKING:
    from graphopt.api import Result
    from graphopt.ledger import Ledger
    from graphopt.passbase import Pass
    from graphopt.report.summary import ModelSummary
    from graphopt.runtime import Latency
    from graphopt.validation import Comparison

__all__ = [
    "comparison_table",
    "console",
    "inspect_table",
    "latency_table",
    "pass_label",
    "size",
    "skip_table",
    "step_table",
    "summary_table",
]


def console(*, stderr: bool = False) -> rich.console.Console:
    """Return a console for names that are anything: no markup, no commands to the terminal."""
    made = rich.console.Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    made.push_render_hook(_HarmlessHook())
    return made


class _HarmlessHook(rich.console.RenderHook):
    def process_renderables(
        self, renderables: list[rich.console.ConsoleRenderable]
    ) -> list[rich.console.ConsoleRenderable]:
        return [_Harmless(one) for one in renderables]


class _Harmless:
    """What is printed, with control characters spelled out."""

    def __init__(self, renderable: rich.console.ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> Iterator[rich.segment.Segment]:
        for segment in console.render(self._renderable, options):
            if not segment.control:  # those are rich's own
                segment = segment._replace(text=harmless(segment.text))
            yield segment


def size(size_bytes: float) -> str:
    """Return a size a person reads at a glance: ``"10.9 MB"`` (decimal units)."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 1000 or unit == "GB":
            break
    return f"{size_bytes:.1f} {unit}" if size_bytes < 100 else f"{size_bytes:.0f} {unit}"


def _table(*columns: str, title: str = "") -> rich.table.Table:
    table = rich.table.Table(
        title=title or None, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def pass_label(pass_: Pass) -> str:
    """Return the text of a pass as in a pipeline; of passes driven together, how many."""
    if isinstance(pass_, Fixpoint):
        return f"{len(pass_.passes)} passes in turn"
    return pipeline.format_pass(pass_)


def summary_table(result: Result) -> rich.table.Table:
    """Return original and result side by side."""
    table = _table("", "original", "result", "change")
    before, after = result.before, result.after

    def row(label: str, old: float, new: float, text: str = "") -> None:
        change = "" if not old else f"{100 * (new - old) / old:+.1f} %" if new != old else "="
        show = size if text == "size" else lambda value: f"{value:,.0f}"
        table.add_row(label, show(old), show(new), change)

    row("nodes", before.nodes, after.nodes)
    row("size", before.size_bytes, after.size_bytes, "size")
    row("parameters", before.parameters, after.parameters)
    if before.macs or after.macs:
        row(macs_label(result.origin.model, sampled=True), before.macs, after.macs)
    if result.latency:
        first, last = result.latency[0], result.latency[-1]
        table.add_row(
            "latency, 1 thread",
            f"{first.median_ms:.3f} ms",
            f"{last.median_ms:.3f} ms",
            f"{result.speedup:.2f}x faster"
            if round(result.speedup or 0, 2) > 1
            else f"{result.speedup:.2f}x",
        )
    return table


def step_table(result: Result) -> rich.table.Table:
    """Return one row a pass: what it did."""
    table = _table("pass", "rewrites", "what it did")
    table.columns[2].justify = "left"
    for step in result.steps:
        # Text: a pipeline's brackets are not markup.
        label, summary = (
            rich.text.Text(pass_label(step.pass_)),
            rich.text.Text(step.result.summary),
        )
        table.add_row(label, str(step.standing), summary)
    for text, reason in result.left_out.items():
        table.add_row(rich.text.Text(text), "-", f"left out: {reason}")
    return table


def comparison_table(comparison: Comparison) -> rich.table.Table:
    """Return one row an output: how far the two models are apart.

    Where the reference is nearly 0, ``max rel`` is large whatever the error; what tolerances
    go by is the error as a share of the output's largest value.
    """
    table = _table("output", "max error", "of largest", "max rel", "cosine", "SNR dB", "top-1")
    for output in comparison.outputs:
        found = output.difference
        table.add_row(
            output.name,
            f"{found.max_abs:.3g}",
            f"{found.max_abs / found.magnitude:.3g}" if found.magnitude else "-",
            f"{found.max_rel:.3g}",
            f"{found.cosine:.6f}",
            f"{found.sqnr_db:.1f}" if found.max_abs or found.equal == 1 else "-",
            "-" if found.top1 is None else f"{found.top1:.4f}",
        )
    return table


def latency_table(names: Sequence[str], latencies: Sequence[Latency]) -> rich.table.Table:
    """Return one row a model, each against the first."""
    table = _table("model", "median ms", "min ms", "times faster", "quartiles")
    for name, latency in zip(names, latencies, strict=True):
        low, high = latency.ratio_quartiles
        table.add_row(
            name,
            f"{latency.median_ms:.3f}",
            f"{latency.minimum_ms:.3f}",
            f"{1 / latency.ratio:.2f}",
            f"{1 / high:.2f} - {1 / low:.2f}",
        )
    return table


def inspect_table(name: str, summary: ModelSummary) -> rich.table.Table:
    """Return the facts about one model."""
    table = _table("", name)
    table.columns[1].justify = "left"
    opsets = ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in summary.opsets.items())
    unknown = (
        f", {summary.macs_unknown} nodes of unknown shape" if summary.macs_unknown else ""
    )
    rows = [
        ("file", size(summary.size_bytes)),
        ("nodes", f"{summary.nodes:,}"),
        ("operators", ", ".join(f"{op} {n}" for op, n in summary.operators.items())),
        ("parameters", f"{summary.parameters:,} ({size(summary.parameter_bytes)})"),
        ("types", ", ".join(f"{dtype} {size(n)}" for dtype, n in summary.dtypes.items())),
        ("MACs", f"{summary.macs:,} with every symbolic dimension 1{unknown}"),
        ("opsets", opsets),
        ("IR version", str(summary.ir_version)),
        ("made by", summary.producer or "-"),
        *(("input", text) for text in summary.inputs),
        *(("output", text) for text in summary.outputs),
    ]
    for label, text in rows:
        table.add_row(label, rich.text.Text(text))
    return table


def skip_table(ledger: Ledger, limit: int = 12) -> rich.table.Table | None:
    """Return the reasons for what was left alone, the most frequent first.

    Only passes that were asked to change weights are shown: that a rule of a simplification
    did not match somewhere is no news.
    """
    # The reasons of a search stand in a table of their own.
    rows = [
        row
        for row in group_skips(ledger.skips)
        if row.pass_name.startswith(("quantize", "prune")) and row.pass_name != "quantize-auto"
    ]
    if not rows:
        return None
    table = _table("left alone by", "operator", "count", "for example", "why")
    for index in (1, 3, 4):
        table.columns[index].justify = "left"
    for row in rows[:limit]:
        reason = rich.text.Text(row.reason)
        table.add_row(row.pass_name, row.op_type or "-", str(row.count), row.anchor, reason)
    if len(rows) > limit:
        table.add_row("…", "", str(len(rows) - limit), "", "more reasons: see --json")
    return table

"""What a person reads in the terminal: tables of a search, and how far long work is."""

from __future__ import annotations

import dataclasses
import io
import pathlib

import networks
import onnx_ir as ir
import rich.console
from small_network import NETWORK

import graphopt
from graphopt import pipeline
from graphopt.api import Result
from graphopt.report.console import comparison_table, pass_label, step_table
from graphopt.report.progress import PassBar, progress
from graphopt.report.search import Candidate, Precision, SearchReport, precision_table

FLOAT = Candidate("float", (), 1.0, 1.0, 4000, 2.0, 1.0)


def rows(table) -> list[list[str]]:
    """Return what the cells of a table say."""
    return [
        list(row)
        for row in zip(*([str(cell) for cell in c.cells] for c in table.columns), strict=True)
    ]


def searched(*operators: Precision) -> SearchReport:
    return SearchReport(
        "cosine", 0.9, 8, 8, 0, FLOAT, (FLOAT,), (FLOAT,), operators, 1, is_complete=True
    )


def test_operators_of_one_fate_share_a_row() -> None:
    good, bad = "the target holds with it, static", "the target is missed"
    table = precision_table(
        searched(
            Precision("m1", "MatMul", "int8", 30.25, good),
            Precision("c1", "Conv", "int8", 20.0, good),
            Precision("m2", "MatMul", "int8", 35.5, good),
            Precision("m3", "MatMul", "float", 9.0, bad),
        )
    )

    assert rows(table) == [
        ["MatMul", "float", "1", "9.0", "m3", bad],
        ["Conv", "int8", "1", "20.0", "c1", good],
        ["MatMul", "int8", "2", "30.2 - 35.5", "m1", good],
    ]


def test_many_fates_are_cut_off() -> None:
    table = precision_table(
        searched(*(Precision(f"m{n}", "MatMul", "float", n, f"why {n}") for n in range(9))),
        limit=2,
    )

    assert [row[0] for row in rows(table)] == ["MatMul", "MatMul", "…"]
    assert rows(table)[-1][-1] == "7 more rows: see --json"


def test_an_error_is_seen_beside_the_largest_value(result: Result) -> None:
    level = result.comparison.levels[-1]
    output = level.outputs[0]
    one = dataclasses.replace(output.difference, max_abs=0.5, max_rel=7e5, magnitude=20.0)
    outputs = tuple(
        dataclasses.replace(output, difference=difference)
        for difference in (one, dataclasses.replace(one, magnitude=0.0))
    )
    shown = dataclasses.replace(
        result.comparison, levels=(dataclasses.replace(level, outputs=outputs),)
    )

    assert [row[1:4] for row in rows(comparison_table(shown))] == [
        ["0.5", "0.025", "7e+05"],
        ["0.5", "-", "7e+05"],
    ]


def test_passes_driven_together_are_counted(result: Result) -> None:
    (group,) = pipeline.parse("[eliminate-identity,eliminate-dead-code]")
    (single,) = pipeline.parse("fold-constants{max-bytes=1k}")

    assert pass_label(group) == "2 passes in turn"
    assert pass_label(single) == pipeline.format_pass(single)
    assert [row[0] for row in rows(step_table(result))] == [
        pass_label(step.pass_) for step in result.steps
    ]


def test_long_work_is_on_the_screen_while_it_runs(tmp_path: pathlib.Path) -> None:
    screen = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80)
    seen: list[str] = []
    with progress(screen) as sink:
        start, bar = sink.track, PassBar(sink)

        def track(description: str, total: int | None = None):
            seen.append(description)
            return start(description, total)

        sink.track = track  # type: ignore[method-assign]  # to see what is shown
        model, passes = ir.to_proto(networks.network(NETWORK)), "eliminate-identity"
        graphopt.optimize(model, passes, instruments=[bar], progress=sink)
        graphopt.validate(model, model, progress=sink)
        assert sink.bars.tasks == [], "what has ended is taken off"
    assert seen == ["eliminate-identity", "validate", "measuring latency", "validate"]


def test_a_pass_that_is_run_again_has_one_bar() -> None:
    screen = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80)
    (single,) = pipeline.parse("eliminate-identity")
    with progress(screen) as sink:
        bar = PassBar(sink)
        bar(None, ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), single)
        bar(None, ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), single)
        assert [task.description for task in sink.bars.tasks] == ["eliminate-identity"]

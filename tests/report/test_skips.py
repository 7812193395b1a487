"""What was left alone is grouped by reason."""

from __future__ import annotations

from graphopt.ledger import Ledger
from graphopt.report.console import skip_table
from graphopt.report.skips import SkipRow, group_reasons, group_skips


def test_reasons_that_differ_in_names_only_are_one() -> None:
    ledger = Ledger()
    ledger.skip("prune-channels", "cut", "a", "Conv", "a factor of 'x', which is cut")
    ledger.skip("prune-channels", "cut", "b", "Conv", "too small")
    ledger.skip("prune-channels", "cut", "c", "Conv", "a factor of 'y', which is cut")
    assert group_skips(ledger.skips) == [
        SkipRow("prune-channels", "Conv", "a factor of '…', which is cut", 2, "a"),
        SkipRow("prune-channels", "Conv", "too small", 1, "b"),
    ]


def test_a_name_that_all_share_is_shown() -> None:
    ledger = Ledger()
    ledger.skip("prune-channels", "cut", "a", "", "graph output 'y'")
    ledger.skip("prune-channels", "cut", "b", "", "graph output 'y'")
    assert group_skips(ledger.skips) == [
        SkipRow("prune-channels", "", "graph output 'y'", 2, "a")
    ]


def test_operators_and_passes_keep_rows_of_their_own() -> None:
    ledger = Ledger()
    ledger.skip("prune-channels", "cut", "a", "Conv", "too small")
    ledger.skip("prune-channels", "cut", "b", "Gemm", "too small")
    ledger.skip("prune-weights", "zero", "a", "Conv", "too small")
    assert [row.count for row in group_skips(ledger.skips)] == [1, 1, 1]


def test_the_console_shows_reasons_of_passes_that_change_weights_only() -> None:
    ledger = Ledger()
    ledger.skip("fuse-gelu", "gelu", "a", "Mul", "not a Gelu")
    ledger.skip("quantize-auto", "search", "a", "Conv", "in float")
    assert skip_table(ledger) is None
    for index in range(14):
        ledger.skip("quantize-static", "place", f"n{index}", "Conv", f"reason {index}")
    table = skip_table(ledger)
    assert table is not None
    assert list(table.columns[2].cells) == ["1"] * 12 + ["2"]


def test_reasons_that_differ_in_names_are_counted_together() -> None:
    found = group_reasons({"'a' is an output": 2, "it is odd": 4, "'b' is an output": 3})
    assert list(found.items()) == [("'…' is an output", 5), ("it is odd", 4)]
    assert group_reasons({"'a' is an output": 7}) == {"'a' is an output": 7}

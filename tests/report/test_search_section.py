"""What the report shows of a search for precisions."""

import dataclasses

import pytest

from graphopt.api import Result
from graphopt.report.search import Candidate, SearchReport

FLOAT = Candidate("float", (), 1.0, 1.0, 4000, 2.0, 1.0)
INTEGERS = Candidate("static", (), 0.9, 0.89, 1000, 0.5, 4.0)
TAKEN = Candidate("static", ("a", "b"), 0.995, 0.991, 2000, 1.0, 2.0)
BEATEN = Candidate("dynamic", ("a",), 0.992, 0.99, 2500, 1.6, 1.25)
NOT_TIMED = Candidate("static", ("a",), 0.97, 0.96, 1500, None, None)


@pytest.fixture
def searched(result: Result) -> Result:
    report = SearchReport(
        "cosine",
        0.99,
        8,
        8,
        0,
        best=TAKEN,
        front=(INTEGERS, TAKEN, FLOAT),
        candidates=(FLOAT, INTEGERS, BEATEN, NOT_TIMED, TAKEN),
        operators=(),
        evaluations=5,
        is_complete=True,
    )
    return dataclasses.replace(result, artifacts={"quantize-auto": report})


def test_every_choice_is_shown_and_the_front_stands_out(page, write, searched) -> None:
    page.open(write(searched))

    rows = page.run(
        """return [...document.querySelectorAll('#front-table tbody tr')]
            .map(row => [...row.cells].map(cell => cell.textContent
                .replace('\\u00d7', 'x').replace('\\u2013', '-')))"""
    )
    assert rows == [
        ["static", "front", "0.90000", "0.89000", "4.00x", "1.0 kB"],
        [
            "static, 2 in float",
            "taken",
            "0.99500",
            "0.99100",
            "2.00x",
            "2.0 kB",
        ],
        ["float", "front", "1.00000", "1.00000", "1.00x", "4.0 kB"],
        [
            "dynamic, 1 in float",
            "beaten",
            "0.99200",
            "0.99000",
            "1.25x",
            "2.5 kB",
        ],
        ["static, 1 in float", "not timed", "0.97000", "0.96000", "-", "1.5 kB"],
    ]
    dots = page.run(
        """return [...document.querySelectorAll('#front svg [aria-label=dot] circle')]
            .map(e => [e.getAttribute('stroke'), e.getAttribute('fill'), e.textContent])"""
    )
    colours = {text.split("\n")[0]: (stroke, fill) for stroke, fill, text in dots}
    assert colours == {
        "static, front": ("var(--accent)", "var(--card)"),
        "static, 2 in float, taken": ("var(--accent)", "var(--accent)"),
        "float, front": ("var(--accent)", "var(--card)"),
        "dynamic, 1 in float, beaten": ("var(--was)", "var(--card)"),
    }
    (caption,) = page.texts("#front figcaption")
    assert "Grey: 1 that another beats. Not timed, in the table only: 1 that" in caption


def test_a_quality_that_is_no_number_is_shown_as_unknown(page, write, searched) -> None:
    report = searched.artifacts["quantize-auto"]
    broken = dataclasses.replace(NOT_TIMED, quality=float("nan"), proven=float("nan"))
    report = dataclasses.replace(report, candidates=(FLOAT, TAKEN, broken))

    page.open(write(dataclasses.replace(searched, artifacts={"quantize-auto": report})))

    row = page.texts("#front-table tbody tr:last-child td")
    assert row[1:3] == ["\N{EN DASH}"] * 2

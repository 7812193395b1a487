"""The codes of errors about files are those that the documentation lists."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
RAISED = re.compile(r'\b(Model|Samples|Output)Error\(\s*f?"([a-z-]+(?:\{what\})?)"')


def documented(family: str) -> set[str]:
    text = (ROOT / "docs" / "files.md").read_text()
    found = set()
    for line in text.splitlines():
        row = line.split("|")[1] if line.startswith("|") else line
        if f"`{family}/" in row:
            found |= set(re.findall(r"`([a-z-]+)`", row.replace(f"{family}/", "")))
    return found


def in_code(family: str) -> set[str]:
    found = set()
    for folder in ("model_io", "samples"):
        for path in (ROOT / "graphopt" / folder).glob("*.py"):
            found |= {
                code
                for kind, code in RAISED.findall(path.read_text())
                if kind.lower() == family
            }
    return found


@pytest.mark.parametrize("family", ["model", "samples"])
def test_the_documentation_lists_the_codes_that_are_raised(family):
    code = in_code(family)
    for computed, values in {
        "duplicate-{what}": {"duplicate-input", "duplicate-initializer"},
        "operator-{what}": {"operator-inputs", "operator-outputs"},
    }.items():
        if computed in code:
            code = code - {computed} | values
    missing, stale = code - documented(family), documented(family) - code
    assert not missing
    assert stale <= {"no-data"}  # chosen by an expression

"""Every command in the documentation runs, and prints what the page says it prints."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "debugging.md", *sorted((DOCS / "tools").glob("*.md"))]
TOOLS = sorted(path.stem for path in (DOCS / "tools").glob("*.md"))


def commands(page: pathlib.Path) -> list[tuple[str, int, list[str]]]:
    """Return the commands of a page: text, exit code, lines of output."""
    found: list[tuple[str, int, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                text, _, status = line[2:].partition("  # exit code ")
                found.append((text, int(status or 0), []))
            else:
                found[-1][2].append(line)
    return found


def assert_printed(expected: list[str], actual: str) -> None:
    """Assert that the lines are there, in this order; … stands for anything."""
    rest = [line.rstrip() for line in actual.splitlines()]
    for line in expected:
        if line.strip() == "…":
            continue
        parts = [re.escape(part) for part in re.split(r"\s*…\s*", line.rstrip())]
        pattern = re.compile(".*".join(parts))
        while rest and not pattern.fullmatch(rest[0]):
            rest.pop(0)
        assert rest, f"{line!r} is not in, or not at its place in:\n{actual}"
        rest.pop(0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_as_it_says(page, tmp_path: pathlib.Path) -> None:
    (tmp_path / "docs").symlink_to(DOCS)
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "COLUMNS": "200"}
    found = commands(page)
    assert found
    for text, status, output in found:
        if text.startswith("export "):
            name, _, value = text.removeprefix("export ").partition("=")
            env[name] = value
            continue
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{text}\n{done.stdout}{done.stderr}"
        assert_printed(output, done.stdout + done.stderr)


def test_each_tool_has_a_page_a_help_and_a_link() -> None:
    overview = (DOCS / "debugging.md").read_text("utf-8")
    for name in TOOLS:
        assert (ROOT / "tools" / f"{name}.py").is_file()
        assert f"(tools/{name}.md)" in overview
        source = (ROOT / "tools" / f"{name}.py").read_text("utf-8")
        for part in ("Steps", "Typical usage:", "Known limitations:"):
            assert part in source


def test_each_feature_has_a_command_a_section_and_a_test() -> None:
    page = DOCS / "parity.md"
    overview = (DOCS / "debugging.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in page.read_text("utf-8").splitlines()
            if re.match(r"\| \d+ \|", line)]  # fmt: skip
    assert [int(row[0]) for row in rows] == list(range(1, 21))
    for _, _, command, section, test in rows:
        (target,) = re.findall(r"\]\((.*?)\)", section)
        text = (page.parent / target).read_text("utf-8") + overview
        for option in re.findall(r"--[a-z-]+", command):
            assert option in text, (option, target)
        for tool in set(re.findall(r"`([a-z]+_[a-z]+|explain|repro)", command)):
            assert tool in TOOLS
        assert (ROOT / test.strip(" `")).is_file()


def test_a_line_that_is_not_printed_is_noticed() -> None:
    assert_printed(["a … c", "…", "d"], "x\na b c\ny\nd\n")
    with pytest.raises(AssertionError, match="is not in"):
        assert_printed(["d", "a … c"], "a b c\nd\n")

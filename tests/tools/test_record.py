"""The record: what was found out is known, also after a crash."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from graphopt.debug.checks import Verdict
from graphopt.debug.record import Record

KEY = {"model": "m.onnx", "seed": 0}
PASSED, WRONG = Verdict("passed"), Verdict("differs", "by 3")


def never() -> Verdict:
    raise AssertionError("asked again")


def test_a_verdict_is_asked_for_once(tmp_path: pathlib.Path) -> None:
    record = Record(tmp_path / "r.json", KEY)
    assert record.check("a", lambda: PASSED) == PASSED
    assert record.check("b", lambda: WRONG) == WRONG
    assert record.check("a", never) == PASSED
    assert record.checks == 2
    again = Record(tmp_path / "r.json", KEY)
    assert again.check("a", never) == PASSED
    assert again.check("b", never) == WRONG
    assert again.checks == 0


def test_without_a_file_nothing_is_written(tmp_path: pathlib.Path) -> None:
    record = Record(None, KEY)
    assert record.check("a", lambda: PASSED) == PASSED
    assert record.check("a", never) == PASSED
    record.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", [{"model": "m.onnx", "seed": 1}, {"model": "m.onnx"}])
def test_verdicts_on_something_else_are_not_used(tmp_path: pathlib.Path, key) -> None:
    Record(tmp_path / "r.json", KEY).check("a", lambda: WRONG)
    assert Record(tmp_path / "r.json", key).check("a", lambda: PASSED) == PASSED


def test_facts_are_kept_with_the_verdicts(tmp_path: pathlib.Path) -> None:
    record = Record(tmp_path / "r.json", KEY)

    def run() -> Verdict:
        record.facts["rewrites"] = 7
        return WRONG

    record.check("all", run)
    assert Record(tmp_path / "r.json", KEY).facts == {"rewrites": 7}
    assert Record(tmp_path / "r.json", {}).facts == {}


def test_a_search_that_came_to_its_end_starts_anew(tmp_path: pathlib.Path) -> None:
    record = Record(tmp_path / "r.json", KEY)
    record.check("a", lambda: WRONG)
    record.finish()
    assert Record(tmp_path / "r.json", KEY).check("a", lambda: PASSED) == PASSED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', "null"])
def test_a_file_that_is_no_record_is_replaced(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    assert Record(path, KEY).check("a", lambda: PASSED) == PASSED
    assert json.loads(path.read_text())["checks"] == [
        {"name": "a", "kind": "passed", "detail": ""}
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_check_that_could_not_be_made_is_no_verdict(tmp_path: pathlib.Path, error) -> None:
    def run() -> Verdict:
        raise error

    with pytest.raises(error):
        Record(tmp_path / "r.json", KEY).check("a", run)
    assert Record(tmp_path / "r.json", KEY).check("a", lambda: PASSED) == PASSED


def test_a_check_that_takes_the_process_with_it_has_failed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r.json"
    code = (
        "import os, pathlib, signal; from graphopt.debug.record import Record\n"
        f"record = Record(pathlib.Path({str(path)!r}), {KEY!r})\n"
        "record.check('a', lambda: os.kill(os.getpid(), signal.SIGKILL))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    verdict = Record(path, KEY).check("a", never)
    assert verdict.kind == "interrupted"
    assert not verdict.passed

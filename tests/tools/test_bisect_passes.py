"""The command line of ``bisect_passes``, run as people run it."""

from __future__ import annotations

import functools
import json
import pathlib
import sys

import pytest


@pytest.fixture
def run(run_tool):
    return functools.partial(run_tool, "bisect_passes")


def test_the_rewrite_is_named_for_people(run, tmp_path: pathlib.Path) -> None:
    done = run("chain.onnx", "--passes", "faulty{at=i7}", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "rewrite 7 of 11, by faulty{at=i7}, breaks the model" in done.stdout
    assert "- v7 = Identity(" in done.stdout
    assert "= Neg(" in done.stdout
    assert "the last right model: out/good.onnx" in done.stdout
    assert "all rewrites: differs: output 'y'" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "bad.onnx",
        "good.onnx",
        "record.json",
    ]


def test_the_rewrite_is_named_for_programs(run) -> None:
    done = run("chain.onnx", "--passes", "faulty{at=i7}", "--data", "chain.npz", "--json",
               script=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["schema"] == "graphopt/bisect/1"
    assert (data["found"], data["rewrite"], data["rewrites"]) == (True, 7, 11)
    assert data["pass"] == "faulty{at=i7}"
    assert data["entry"]["anchor"] == "i7"
    assert data["verdict"]["kind"] == "differs"
    assert data["checks"] <= 6
    assert (data["good"], data["bad"]) == (None, None)  # no folder was given


def test_any_command_may_decide(run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "judge.py").write_text(
        "import onnx, sys\n"
        "kinds = [node.op_type for node in onnx.load(sys.argv[1]).graph.node]\n"
        "sys.exit('too few' if kinds.count('Identity') < 4 else 0)"
    )
    command = f"{sys.executable} judge.py {{model}}"
    done = run("chain.onnx", "--passes", "faulty", "--check", command, "--json")
    data = json.loads(done.stdout)
    assert data["rewrite"] == 8
    assert data["verdict"]["kind"] == "command"
    assert data["verdict"]["detail"].endswith("returned 1: too few")


def test_a_native_crash_is_survived_and_named(run) -> None:
    done = run("chain.onnx", "--passes", "faulty{at=i6,how=kill}", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["rewrite"], data["verdict"]["kind"]) == (6, "crashed")
    assert "SIGSEGV" in data["verdict"]["detail"]


def test_nothing_to_blame_is_exit_code_1(run) -> None:
    done = run("chain.onnx", "--passes", "faulty")
    assert done.returncode == 1
    assert done.stdout == "nothing to blame: all 11 rewrites together pass the check\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.onnx"], "missing.onnx"),
        (["chain.onnx", "--passes", "faulti"], "Did you mean 'faulty'?"),
        (["chain.onnx", "--data", "missing.npz"], "missing.npz"),
        (["chain.onnx", "--no-such-option"], "No such option"),
        ([], "Missing argument 'MODEL'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("bisect_passes: error [")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_the_help_is_the_docstring(run) -> None:
    done = run("--help", script=True)
    assert done.returncode == 0
    for part in ("Steps:", "Typical usage:", "Known limitations:", "--check", "--json"):
        assert part in done.stdout

"""Finding the one rewrite to blame, wherever it is and however it goes wrong."""

from __future__ import annotations

import contextlib
import pathlib

import faulty
import onnx
import pytest
from faulty import Faulty, Unnumbered

from graphopt import model_io
from graphopt.debug.blame import Blame, blame, most_checks
from graphopt.debug.checks import CommandCheck, NumericCheck, Verdict
from graphopt.debug.isolated import Direct, Isolated
from graphopt.debug.recipe import Recipe
from graphopt.debug.record import Record
from graphopt.errors import SamplesError, ValidationError
from graphopt.passbase import Pass
from graphopt.runtime import Runtime


@pytest.fixture(scope="module")
def runtime():
    with contextlib.closing(Runtime(timeout=60)) as one:
        yield one


def find(
    runtime: Runtime, tmp_path: pathlib.Path, size: int, *passes: Pass, **options
) -> Blame:
    """Blame a rewrite of ``passes`` on a chain, here and not in a child process."""
    path = faulty.save_chain(tmp_path / "chain.onnx", size)
    recipe = Recipe(path, passes, path.with_suffix(".npz"), 3)
    check = NumericCheck.of(path, recipe.samples(), runtime)
    return blame(recipe, check, Direct(runtime), tmp_path, **options)


def nodes(path: pathlib.Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("size", "at"),
    [(1, 1), (2, 1), (2, 2), (3, 2), (16, 1), (16, 11), (16, 16), (17, 17), (33, 20)],
)
def test_the_wrong_rewrite_is_named_within_the_promised_checks(
    runtime: Runtime, tmp_path: pathlib.Path, size: int, at: int
) -> None:
    found = find(runtime, tmp_path, size, Faulty(at=f"i{at}"))
    assert found.number == at
    assert found.entry.anchor == f"i{at}"
    assert found.pass_text == f"faulty{{at=i{at}}}"
    assert found.verdict.kind == "differs"
    assert found.rewrites == size
    assert found.checks <= most_checks(size)
    # The models differ in that one rewrite.
    assert nodes(found.good) == ["Add", *["Identity"] * (size - at + 1), "Sigmoid"]
    assert nodes(found.bad) == ["Add", "Neg", *["Identity"] * (size - at), "Sigmoid"]


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("raise", "exception", "ZeroDivisionError: on purpose, in rewrite #5 faulty/"),
        ("raise-early", "exception", "ZeroDivisionError: on purpose, early, after rewrite #4"),
        ("invalid", "refused", "NoSuchOperator"),
    ],
)
def test_every_kind_of_failure_is_blamed(runtime, tmp_path, how, kind, said) -> None:
    found = find(runtime, tmp_path, 9, Faulty(at="i5", how=how))
    assert found.number == 5
    assert found.verdict.kind == kind
    assert said in found.verdict.detail
    assert found.checks <= most_checks(9)
    assert nodes(found.good).count("Identity") == 5
    raised = kind == "exception"
    assert (found.bad is None, found.entry is None) == (raised, raised)


@pytest.mark.parametrize(("how", "kind"), [("kill", "crashed"), ("hang", "timeout")])
def test_a_process_that_does_not_come_back_is_blamed(runtime, tmp_path, how, kind) -> None:
    path = faulty.save_chain(tmp_path / "chain.onnx", 5)
    recipe = Recipe(path, (Faulty(at="i3", how=how),), path.with_suffix(".npz"))
    check = NumericCheck.of(path, recipe.samples(), runtime)
    with Isolated(timeout=10 if how == "hang" else 60) as workplace:
        found = blame(recipe, check, workplace, tmp_path)
    assert found.number == 3
    assert found.verdict.kind == kind
    assert found.rewrites is None
    assert found.bad is None
    assert nodes(found.good).count("Identity") == 3


def test_the_pass_is_the_one_the_rewrite_belongs_to(runtime, tmp_path) -> None:
    path = faulty.save_chain(tmp_path / "chain.onnx", 4)
    recipe = Recipe(path, (*_parsed("[eliminate-dead-code],infer-shapes"), Faulty(at="i2")))
    check = NumericCheck.of(path, recipe.samples(), runtime)
    found = blame(recipe, check, Direct(runtime), tmp_path)
    assert found.pass_text == "faulty{at=i2}"
    assert found.entry.anchor == "i2"
    assert found.entry.number == found.number


def _parsed(text: str) -> list[Pass]:
    from graphopt import pipeline

    return pipeline.parse(text)


def test_a_run_that_passes_leaves_nothing_to_blame(runtime, tmp_path) -> None:
    found = find(runtime, tmp_path, 4, Faulty())
    assert not found.found
    assert (found.number, found.rewrites, found.checks) == (None, 4, 1)
    assert found.verdict == Verdict("passed")


def test_a_pass_that_changes_the_model_without_rewrites_is_named(runtime, tmp_path) -> None:
    found = find(runtime, tmp_path, 3, Faulty(), Unnumbered(), Faulty())
    assert found.found
    assert (found.number, found.pass_text) == (None, "unnumbered")
    assert found.verdict.kind == "differs"


def test_an_original_that_fails_the_check_is_said(runtime, tmp_path: pathlib.Path) -> None:
    path = faulty.save_chain(tmp_path / "chain.onnx", 3)
    with pytest.raises(ValidationError, match="the original does not pass the check: command"):
        blame(Recipe(path, (Faulty(),)), CommandCheck(("false",)), Direct(runtime), tmp_path)


def test_bad_input_is_an_error_and_no_verdict(runtime, tmp_path: pathlib.Path) -> None:
    path = faulty.save_chain(tmp_path / "chain.onnx", 3)
    recipe = Recipe(path, (Faulty(),), tmp_path / "missing.npz")
    with pytest.raises(SamplesError, match=r"missing\.npz"):
        blame(recipe, CommandCheck(("true",)), Direct(runtime), tmp_path)


def test_of_several_wrong_rewrites_one_is_named(runtime, tmp_path) -> None:
    found = find(runtime, tmp_path, 12, Faulty(at="i3"), Faulty(at="i3"))
    assert found.number == 3


def test_a_search_goes_on_where_it_stopped(runtime, tmp_path: pathlib.Path) -> None:
    class PowerCutError(BaseException):
        pass

    asked: list[str] = []

    def cut(what: str, verdict: Verdict) -> None:
        asked.append(what)
        if len(asked) == 4:
            raise PowerCutError

    file = tmp_path / "record.json"
    with pytest.raises(PowerCutError):
        find(runtime, tmp_path, 32, Faulty(at="i20"), record=Record(file, {}), report=cut)
    record = Record(file, {})
    found = find(runtime, tmp_path, 32, Faulty(at="i20"), record=record)
    assert found.number == 20
    assert found.entry.anchor == "i20"
    assert found.checks + len(asked) <= most_checks(32)
    assert nodes(found.good).count("Identity") == 13
    assert nodes(found.bad).count("Neg") == 1


def test_models_of_the_search_do_not_pile_up(runtime, tmp_path: pathlib.Path) -> None:
    find(runtime, tmp_path, 16, Faulty(at="i9"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.onnx",
        "chain.npz",
        "chain.onnx",
        "good.onnx",
    ]
    assert model_io.load(tmp_path / "bad.onnx").graph.name == "g"

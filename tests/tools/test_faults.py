"""The debugging tools held to seeded faults: one wrong rewrite in a run of right ones.

``SEEDS`` models for each kind of wrong rewrite make the 200 and more of the whole suite, which
is slow; one model of each kind is tried in every run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib

import mutants
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.answers import answers, objection, tolerance_for
from graphopt.debug.blame import blame, most_checks
from graphopt.debug.checks import NumericCheck
from graphopt.debug.isolated import Direct
from graphopt.debug.recipe import Recipe
from graphopt.instruments import Safe
from graphopt.manager import PassManager
from graphopt.passbase import Context, Promise
from graphopt.runtime import Runtime
from graphopt.samples import Samples

SEEDS = 10
FAULTS = [(kind, seed) for kind in mutants.KINDS for seed in range(SEEDS)]
FEW = [(kind, place % SEEDS) for place, kind in enumerate(mutants.KINDS)]


@pytest.fixture(scope="module")
def runtime():
    with contextlib.closing(Runtime(timeout=60)) as one:
        yield one


@dataclasses.dataclass(frozen=True)
class Fault:
    """A model on which one rewrite of a run is wrong, visibly.

    Attributes:
        model: Makes the model.
        mutant: The pass.
        feeds: What shows it.
        number: Number of the wrong rewrite.
        rewrites: Rewrites of the whole run.
    """

    model: ir.Model
    mutant: mutants.Mutant
    feeds: list[dict[str, np.ndarray]]
    number: int
    rewrites: int

    def copy(self) -> ir.Model:
        return self.model.clone()


def fault_of(runtime: Runtime, kind: str, seed: int) -> Fault:
    """Return a fault that shows in the answers; further seeds are tried until one does."""
    for attempt in range(50):
        model, at = mutants.network(kind, seed + 1000 * attempt)
        feeds = mutants.feeds(seed)
        mutant = mutants.Mutant(kind, at)
        context = Context()
        context.share(runtime)
        changed, _ = PassManager([mutant]).run(model.clone(), context)
        wrong = [entry for entry in context.ledger.applications if entry.rule == "wrong"]
        reference = answers(model, feeds, runtime)
        if not all(np.isfinite(array).all() for one in reference for array in one.values()):
            continue
        found = answers(changed, feeds, runtime, optimize=True)
        shows = objection(reference, found, Promise.CLOSE, tolerance_for(model))
        if len(wrong) == 1 and shows:
            return Fault(model, mutant, feeds, wrong[0].number, len(context.ledger))
    raise AssertionError(f"no model shows {kind}")


def blamed(runtime: Runtime, fault: Fault, folder: pathlib.Path) -> tuple[int | None, int]:
    path = folder / "model.onnx"
    onnx.save(ir.to_proto(fault.model), path)
    samples = Samples.from_feeds(fault.feeds)
    check = NumericCheck.of(path, samples, runtime)
    recipe = Recipe(path, (fault.mutant,))
    found = blame(recipe, check, Direct(runtime), folder)
    return found.number, found.checks


def run_safely(runtime: Runtime, fault: Fault) -> tuple[list[int], str]:
    """Return the numbers that ``--safe`` undid, and what is wrong with the result."""
    guard = Safe(fault.copy(), [fault.mutant], Samples.from_feeds(fault.feeds), runtime)
    context = Context(guards=[guard])
    context.share(runtime)
    model, _ = PassManager([fault.mutant]).run(fault.copy(), context)
    undone = [entry.number for entry in context.ledger.applications if entry.undone]
    reference = answers(fault.model, fault.feeds, runtime)
    found = answers(model, fault.feeds, runtime, optimize=True)
    return undone, objection(reference, found, Promise.CLOSE, tolerance_for(fault.model))


def test_there_are_enough_faults() -> None:
    assert len(mutants.KINDS) >= 20
    assert len(FAULTS) >= 200


@pytest.mark.parametrize(("kind", "seed"), FEW)
def test_the_wrong_rewrite_is_blamed_and_safe_mode_undoes_it(
    runtime: Runtime, tmp_path: pathlib.Path, kind: str, seed: int
) -> None:
    fault = fault_of(runtime, kind, seed)
    number, checks = blamed(runtime, fault, tmp_path)
    assert number == fault.number
    assert checks <= most_checks(fault.rewrites)
    assert run_safely(runtime, fault) == ([fault.number], "")


@pytest.mark.slow
def test_all_faults_are_blamed_and_undone(runtime: Runtime, tmp_path: pathlib.Path) -> None:
    right = safe = 0
    most = 0
    for kind, seed in FAULTS:
        fault = fault_of(runtime, kind, seed)
        number, checks = blamed(runtime, fault, tmp_path)
        right += number == fault.number and checks <= most_checks(fault.rewrites)
        most = max(most, checks)
        safe += run_safely(runtime, fault) == ([fault.number], "")
    print(f"blamed {right} of {len(FAULTS)}, at most {most} checks; undone {safe}")
    assert right == safe == len(FAULTS)

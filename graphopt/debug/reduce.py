"""Makes a failing model as small as it can be while it still fails the same way."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model_io
from graphopt.debug import extract
from graphopt.debug.checks import CommandCheck, NumericCheck, Verdict, verdict_of
from graphopt.debug.extract import Case
from graphopt.debug.isolated import Workplace
from graphopt.debug.recipe import Recipe, attempt
from graphopt.debug.search import minimize
from graphopt.errors import ExecutionError, GraphoptError
from graphopt.runtime import Runtime

__all__ = ["Failure", "judge", "random_weights", "reduce_case", "save_case"]

FEW_ELEMENTS = 16
"""Weights of no more than this say nothing about what a model was trained on."""


def judge(
    runtime: Runtime,
    recipe: Recipe,
    how: dict[str, Any] | CommandCheck,
    output: pathlib.Path,
) -> Verdict:
    """Return whether the run ``recipe`` fails, and how.

    Args:
        runtime: Where models are run.
        recipe: The run; its model is its own reference.
        how: Options of ``NumericCheck.of``, or a command.
        output: Where the result of the run is written.

    Returns:
        ``Verdict("invalid")`` where the model itself does not run: that proves nothing.
    """
    try:
        samples = recipe.samples()
        assert samples is not None
        options = {} if isinstance(how, CommandCheck) else how
        check = NumericCheck.of(recipe.model, samples, runtime, **options)
        chosen = how if isinstance(how, CommandCheck) else check
        return attempt(runtime, recipe, chosen, None, output).verdict
    except GraphoptError as error:
        return Verdict("invalid", error.message)


class Failure:
    """Asks whether a smaller case fails the same way; answers are remembered.

    Args:
        recipe: The run; model and samples are replaced by those of a case.
        how: See ``judge``.
        workplace: Where cases are tried.
        wanted: How the original fails.
        report: Called with every case that fails the same way.
    """

    def __init__(
        self,
        recipe: Recipe,
        how: dict[str, Any] | CommandCheck,
        workplace: Workplace,
        wanted: Verdict,
        *,
        report: Callable[[Case], None] = lambda case: None,
    ) -> None:
        self.recipe = recipe
        self.tries = 0
        self._how = how
        self._workplace = workplace
        self._wanted = wanted
        self._report = report

    def __call__(self, case: Case | None) -> bool:
        """Return whether ``case`` fails as the original does; ``None`` does not."""
        if case is None:
            return False
        fails = self.same(self.verdict(case))
        if fails:
            self._report(case)
        return fails

    def verdict(self, case: Case) -> Verdict:
        """Return what the check says about ``case``."""
        self.tries += 1
        with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
            folder = pathlib.Path(name)
            try:
                recipe = save_case(case, self.recipe, folder)
            except (GraphoptError, ValueError) as error:  # onnx_ir cannot write it
                return Verdict("invalid", str(error))
            try:
                return self._workplace.call(judge, recipe, self._how, folder / "result.onnx")
            except ExecutionError as error:
                return verdict_of(error)

    def same(self, verdict: Verdict) -> bool:
        """Whether ``verdict`` is of the wanted kind, and of the same exception."""
        if verdict.kind != self._wanted.kind:
            return False
        if verdict.kind != "exception":
            return True
        return _exception(verdict) == _exception(self._wanted)


def _exception(verdict: Verdict) -> str:
    """Return what raised what: a PassError quotes the exception that it wraps."""
    text = verdict.detail
    for before in (" failed with ",):
        text = text.partition(before)[2] or text
    return text.partition(":")[0]


def save_case(case: Case, recipe: Recipe, folder: pathlib.Path) -> Recipe:
    """Write ``case`` to ``model.onnx`` and ``samples/`` in ``folder``; return its recipe."""
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    for old in samples.iterdir():
        old.unlink()
    model_io.save(case.model, folder / "model.onnx")
    for index, feed in enumerate(case.feeds):
        np.savez(samples / f"{index:03}.npz", **feed)  # type: ignore[arg-type]
    data = samples if any(case.feeds) else None
    return dataclasses.replace(recipe, model=folder / "model.onnx", data=data, batch_size=None)


def reduce_case(
    case: Case, fails: Failure, runtime: Runtime, hints: Collection[str] = ()
) -> Case:
    """Return a case that fails as ``case`` does, as small as it can be made.

    Nodes go by delta debugging, in the main graph and then in subgraphs, of which branches of
    ``If`` are put in their place where that still fails; then sizes are cut to 2, weights
    become seeded random numbers, and one feed is left.

    Args:
        case: A case that is known to fail.
        fails: What tells.
        runtime: Where the values that are to be fed are computed.
        hints: Names of nodes or tensors near the fault; where these are right, a large model
            shrinks at once.
    """
    for index in range(len(case.feeds)):
        alone = Case(case.model, case.feeds[index : index + 1])
        if len(case.feeds) > 1 and fails(alone):
            case = alone
            break
    while True:
        before = (extract.count_nodes(case.model), extract.weight_bytes(case.model))
        case = _fewer_nodes(case, fails, runtime, hints)
        case = _smaller_bodies(case, fails)
        case = _smaller_sizes(case, fails)
        if (extract.count_nodes(case.model), extract.weight_bytes(case.model)) == before:
            break
        hints = ()
    return random_weights(case, fails)[0]


def _fewer_nodes(case: Case, fails: Failure, runtime: Runtime, hints: Collection[str]) -> Case:
    nodes = list(case.model.graph)
    values = _values_of(case, runtime)

    def part(places: Sequence[int]) -> Case | None:
        return extract.keep_nodes(case, set(places), values)

    places = list(range(len(nodes)))
    for near in _rings(nodes, hints):
        if len(near) < len(places) and fails(part(near)):
            places = near
            break
    kept = minimize(places, lambda some: fails(part(some)))
    smaller = part(kept) if len(kept) < len(nodes) else None
    return smaller or case


def _rings(nodes: Sequence[ir.Node], hints: Collection[str]) -> list[list[int]]:
    """Return ever larger sets of nodes around those that ``hints`` names."""
    place_of = {node: place for place, node in enumerate(nodes)}
    chosen = {
        place
        for place, node in enumerate(nodes)
        if node.name in hints or any(value.name in hints for value in node.outputs)
    }
    rings = []
    while chosen and len(chosen) < len(nodes):
        rings.append(sorted(chosen))
        near = {
            place_of[one]
            for place in chosen
            for one in (*nodes[place].predecessors(), *nodes[place].successors())
            if one in place_of
        }
        if near <= chosen:
            break
        chosen |= near
    return rings


def _values_of(case: Case, runtime: Runtime) -> dict[str, list[np.ndarray]]:
    """Return what the nodes of the main graph compute, as far as onnxruntime returns it."""
    found: dict[str, list[np.ndarray]] = {}

    def ask(names: list[str]) -> None:
        try:
            with runtime.session(case.model, names, optimize=False) as session:
                runs = [session.run(feed) for feed in case.feeds]
        except ExecutionError:
            if len(names) > 1:
                middle = len(names) // 2
                ask(names[:middle])
                ask(names[middle:])
            return
        for name in names:
            arrays = [run[name] for run in runs]
            if all(isinstance(array, np.ndarray) for array in arrays):
                found[name] = arrays

    names = [value.name for node in case.model.graph for value in node.outputs if value.name]
    if names:
        ask(names)
    return found


def _smaller_bodies(case: Case, fails: Failure) -> Case:
    changed = True
    while changed:
        changed = False
        for place, name, body in extract.bodies(case.model):
            for smaller in (
                extract.inline_branch(case, place, name),
                _fewer_in_body(case, (place, name), len(body), fails),
            ):
                if smaller is not None and _is_smaller(smaller, case) and fails(smaller):
                    case, changed = smaller, True
                    break
            if changed:
                break
    return case


def _fewer_in_body(case: Case, at: tuple[int, str], size: int, fails: Failure) -> Case | None:
    def part(places: Sequence[int]) -> Case | None:
        return extract.keep_in_body(case, at, set(places))

    empty = part([])
    if fails(empty):
        return empty
    kept = minimize(range(size), lambda some: fails(part(some)))
    return part(kept) if len(kept) < size else None


def _is_smaller(one: Case, other: Case) -> bool:
    return _bulk(one) < _bulk(other)


def _bulk(case: Case) -> tuple[int, int, int]:
    operators = [node.op_type for graph in case.model.graphs() for node in graph]
    trivial = operators.count("Identity")
    return len(operators), len(operators) - trivial, extract.weight_bytes(case.model)


def _smaller_sizes(case: Case, fails: Failure) -> Case:
    """Cut one size after the other, the largest first: equal sizes mostly belong together."""
    sizes = {
        int(dim)
        for graph in case.model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
        for dim in value.const_value.shape.numpy()
    }
    sizes |= {dim for feed in case.feeds for array in feed.values() for dim in array.shape}
    for size in sorted(sizes, reverse=True):
        for to in (1, 2):
            if to < size:
                smaller = extract.shrink_size(case, size, to)
                if fails(smaller):
                    case = smaller
                    break
    return case


def random_weights(case: Case, fails: Failure) -> tuple[Case, list[str]]:
    """Return the case with seeded random weights, and the names of those that had to stay.

    All are replaced at once or, where the failure does not survive that, one by one. Those of
    a few elements (an epsilon, an axis of two) are not named: they give nothing away.
    """
    random: dict[str, np.ndarray] = {}
    for name, value in case.model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            continue
        old = tensor.numpy()
        # As wide as they were, and no wider than that: nothing else of them is kept.
        spread = float(np.std(old)) if old.size > 1 else 0.0
        spread = spread if math.isfinite(spread) and spread > 0 else 1.0
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        random[name] = (rng.standard_normal(old.shape) * spread).astype(old.dtype)
    if not random:
        return case, []
    every = extract.with_weights(case, random)
    if fails(every):
        return every, []
    kept = []
    for name, data in random.items():
        one = extract.with_weights(case, {name: data})
        if fails(one):
            case = one
        elif data.size > FEW_ELEMENTS:
            kept.append(name)
    return case, kept

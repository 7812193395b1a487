"""Makes a failing model as small as it can be while it still fails the same way."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.shapes import infer
from graphopt.debug import extract, resize
from graphopt.debug.case import Case, count_nodes, made_up, weight_bytes
from graphopt.debug.failure import Failure
from graphopt.debug.search import minimize
from graphopt.errors import ExecutionError
from graphopt.runtime import Runtime

__all__ = ["random_weights", "reduce_case"]

FEW_ELEMENTS = 16
"""Weights of no more than this say nothing about what a model was trained on."""


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
        before = (count_nodes(case.model), weight_bytes(case.model))
        case = _fewer_nodes(case, fails, runtime, hints)
        case = _smaller_bodies(case, fails)
        case = _smaller_sizes(case, fails)
        if (count_nodes(case.model), weight_bytes(case.model)) == before:
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
    """Return what the nodes of the main graph compute, as far as onnxruntime returns it.

    Of a model that it does not run at all, values of the right type and shape are made up.
    """
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
    return found or dict(_made_up(case))


def _made_up(case: Case) -> Iterator[tuple[str, list[np.ndarray]]]:
    model = case.model.clone()
    for value, (kind, shape) in infer(model).items():
        value.type = value.type or kind
        value.shape = value.shape if value.shape is not None else shape
    for node in model.graph:
        for value in node.outputs:
            arrays = made_up(value, len(case.feeds), free=2)
            if arrays is not None and value.name:
                yield value.name, arrays


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
    return len(operators), len(operators) - trivial, weight_bytes(case.model)


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
                smaller = resize.shrink_size(case, size, to)
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
    every = resize.with_weights(case, random)
    if fails(every):
        return every, []
    kept = []
    for name, data in random.items():
        one = resize.with_weights(case, {name: data})
        if fails(one):
            case = one
        elif data.size > FEW_ELEMENTS:
            kept.append(name)
    return case, kept

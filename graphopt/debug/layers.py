"""Compares two models tensor by tensor, and finds where they part.

The tensors are looked at in portions: a run returns as many of them as the budget allows, so
that memory does not grow with the depth of the model or the number of samples.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.debug.layer import Layer, LayerMeter
from graphopt.debug.matching import other_data
from graphopt.debug.portions import portions_of, sizes_of, with_weights_aside
from graphopt.errors import ExecutionError
from graphopt.ledger import Ledger
from graphopt.metrics import Tolerance
from graphopt.model_io.staging import scratch_folder
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Feed

__all__ = ["Layer", "Observe", "compare_layers", "match_names", "worst"]

_LEAN = {"enable_cpu_mem_arena": "0", "session.disable_prepacking": "1"}
"""An arena grows by doubling, and keeps what it had, and weights that are packed for products
are copies: a plain run uses both again and again, a portion once."""

Observe: TypeAlias = Callable[[str, object, object], None]
"""Looks at what onnxruntime returned for a value of both models, an array as a rule: its name
in the original, the value there and in the candidate."""


def match_names(
    original: ir.Model, candidate: ir.Model, ledger: Ledger | None = None
) -> dict[str, str]:
    """Return tensor of the original -> tensor of the candidate, in the order of computation.

    Tensors are those that nodes of the main graph compute. One that a rewrite replaced is
    followed through the ledger, and one that holds other data now is left out; without a
    ledger equal names are taken for equal tensors.
    """
    there = {value.name for node in candidate.graph for value in node.outputs if value.name}
    moved: dict[str, str] = {}
    for entry in ledger.applied() if ledger is not None else ():
        moved |= entry.values_replaced
    other = other_data(original.graph, ledger) if ledger is not None else set()
    matched = {}
    for node in original.graph:
        for value in node.outputs:
            if value.name in other:
                continue
            # The last name on the way that is still there carries the data: of a tensor that
            # was quantized, that is the dequantized one and not the one that kept its name.
            found, name, seen = "", value.name or "", set[str]()
            while name and name not in seen:
                seen.add(name)
                found = name if name in there else found
                name = moved.get(name, "")
            if found:
                matched[value.name or ""] = found
    return matched


def compare_layers(
    original: Model,
    candidate: Model,
    names: Mapping[str, str],
    feeds: Sequence[Feed],
    runtime: Runtime,
    *,
    tolerance: Tolerance,
    graph: ir.Graph,
    shapes: Mapping[ir.Value, ir.Shape | None] | None = None,
    budget_bytes: int = 8 << 20,
    advance: Callable[[int], None] = lambda tensors: None,
    observe: Observe = lambda name, want, got: None,
) -> list[Layer]:
    """Compare the tensors ``names`` of two models, each run without optimization.

    Args:
        original: The reference.
        candidate: The model that should do the same.
        names: Tensor of the original -> tensor of the candidate.
        feeds: What both are run on.
        runtime: Where they are run.
        tolerance: What ``Difference.needed`` is a multiple of.
        graph: Main graph of the original: sizes and order of the tensors.
        shapes: Inferred shapes of its values; a tensor of unknown size takes a part of the
            budget, so that there are many portions.
        budget_bytes: How much the tensors of one portion may take.
        advance: Called with the number of tensors that were compared.
        observe: Called with every tensor of every sample: its name, and both of them. Those
            of one portion come between two calls of ``advance``.

    Returns:
        One entry a tensor, in the order of computation.
    """
    sizes = sizes_of(graph, feeds, shapes or {}, budget_bytes)
    found: dict[str, Layer] = {}
    nodes = {value.name: node for node in graph for value in node.outputs}
    with scratch_folder() as folder:
        left = with_weights_aside(original, folder / "original.onnx")
        right = with_weights_aside(candidate, folder / "candidate.onnx")
        for portion in portions_of(list(names), sizes, budget_bytes):
            for name, measured in _compare(
                left, right, portion, names, feeds, runtime, tolerance, observe
            ):
                node = nodes[name]
                found[name] = dataclasses.replace(
                    measured, op_type=node.op_type, node=node.name or ""
                )
            advance(len(portion))
    return _with_added_noise([found[name] for name in names], graph)


def worst(layers: Sequence[Layer], count: int) -> list[Layer]:
    """Return the ``count`` layers that add most noise, the worst first."""
    guilty = [layer for layer in layers if layer.added_noise > 0]
    return sorted(guilty, key=lambda layer: -layer.added_noise)[:count]


def _compare(
    original: Model,
    candidate: Model,
    portion: Sequence[str],
    names: Mapping[str, str],
    feeds: Sequence[Feed],
    runtime: Runtime,
    tolerance: Tolerance,
    observe: Observe,
) -> Iterator[tuple[str, Layer]]:
    """Yield the layers of one portion; halve it where onnxruntime refuses it."""
    meters = {name: LayerMeter(tolerance) for name in portion}
    there = list(dict.fromkeys(names[name] for name in portion))
    # One after the other, so that only one model is in memory; what the first computed waits
    # on the disk.
    with tempfile.TemporaryFile(prefix="graphopt-") as waiting:
        try:
            with runtime.session(
                original, list(portion), optimize=False, config=_LEAN
            ) as session:
                for feed in feeds:
                    want = session.run(feed)
                    for name in portion:
                        pickle.dump(want.pop(name), waiting, protocol=5)
            waiting.seek(0)
            with runtime.session(candidate, there, optimize=False, config=_LEAN) as session:
                for index, feed in enumerate(feeds):
                    got = session.run(feed)
                    for name, meter in meters.items():
                        one, other = pickle.load(waiting), got[names[name]]
                        meter.add(index, one, other)
                        observe(name, one, other)
                    del got  # before the next ones come
        except ExecutionError as error:
            if len(portion) == 1:
                (name,) = portion
                yield name, Layer(name, names[name], "", "", fault=error.message)
                return
            middle = len(portion) // 2
            for half in (portion[:middle], portion[middle:]):
                yield from _compare(
                    original, candidate, half, names, feeds, runtime, tolerance, observe
                )
            return
    for name, meter in meters.items():
        yield name, meter.layer(name, names[name])


def _with_added_noise(layers: Sequence[Layer], graph: ir.Graph) -> list[Layer]:
    """Fill in ``added_noise``: noise at the output less the largest noise at an input.

    A tensor that was not measured carries on the noise of what it is computed from.
    """
    measured = {layer.name: layer for layer in layers}
    carried: dict[str, float] = {}
    added: dict[str, float] = {}
    for node in graph:
        names = [value.name or "" for value in node.inputs if value is not None]
        incoming = max((carried.get(name, 0.0) for name in names), default=0.0)
        for value in node.outputs:
            name = value.name or ""
            layer = measured.get(name)
            if layer is None or layer.difference is None:
                carried[name] = incoming
                continue
            lost = layer.difference.lost > 0
            carried[name] = math.inf if lost else layer.noise
            added[name] = 0.0 if carried[name] <= incoming else carried[name] - incoming
    return [
        dataclasses.replace(layer, added_noise=added.get(layer.name, 0.0)) for layer in layers
    ]

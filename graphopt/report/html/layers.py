"""The layers: operators with a weight, what became of them, and how far off they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import onnx_ir as ir

from graphopt.analysis.cost import macs_of
from graphopt.answers import first_feeds, tolerance_for
from graphopt.calibration.statistics import TensorStatistics
from graphopt.debug.layers import Layer, compare_layers, match_names
from graphopt.debug.portions import budget_for
from graphopt.errors import ExecutionError
from graphopt.records import graphs_of
from graphopt.report.search import Precision, SearchReport

from .content import Bins, LayerRow
from .distributions import bins_of_statistics, bins_of_tensor
from .follow import Follower
from .graph_rows import Shapes
from .touches import Touches
from .weighted import Weighted, dims_of, weighted

if TYPE_CHECKING:
    from graphopt.api import Result
    from graphopt.passbase import Progress
    from graphopt.runtime import Runtime

__all__ = ["layer_rows"]

EQUAL_DB = 300.0
"""Stands for the signal-to-noise ratio of what is equal; float64 ends before."""

_FEEDS = 2
"""Samples that layers are compared on: each tensor of both models is looked at."""

_INSIDE = "what a subgraph computes cannot be looked at from outside"

_FUSED = 6
"""Nodes that may be fused into a layer: normalization, scales, activation."""


def layer_rows(
    result: Result,
    touches: Touches,
    shape_of: tuple[Shapes, Shapes],
    runtime: Runtime,
    progress: Progress | None,
) -> tuple[LayerRow, ...]:
    """Return one row for each operator that has a weight, those of subgraphs included."""
    original = result.origin.model
    layers = [
        (place, layer)
        for place, graph in graphs_of(original.graph)
        for node in graph
        if (layer := weighted(node)) is not None
    ]
    main = [layer for place, layer in layers if not place]
    measured, seen = _measure(result, main, shape_of[0], runtime, progress)
    follower = Follower(result.ledger, result.model)
    reasons, frozen, searched = _reasons(result), _frozen(result), _searched(result)
    rows = []
    for place, layer in layers:
        output, weight = layer.node.outputs[0].name or "", layer.weight.name or ""
        node = follower.node(layer.node)
        after = None if node is None else weighted(node)
        new = None if after is None else after.tensor
        same = new is layer.tensor
        found, known = measured.get(output), searched.get(layer.label)
        was, now = seen.get(output, (None, None))
        rows.append(
            LayerRow(
                name=layer.label,
                op_type=layer.node.op_type,
                weight=weight,
                shape=dims_of(layer.tensor),
                shape_after=None if new is None else dims_of(new),
                precision="" if new is None else new.dtype.name.lower(),
                error_db=None if found is None else _decibels(found),
                added=None if found is None or found.fault else found.added_noise,
                sensitivity_db=known.kept_db if known is not None else None,
                kept=None if after is None else after.channels,
                channels=layer.channels,
                macs=macs_of(layer.node, {}, shape_of[0]),
                macs_after=None if node is None else macs_of(node, {}, shape_of[1]),
                size_bytes=layer.tensor.nbytes,
                size_after=0 if new is None else new.nbytes,
                reason=_reason(reasons, frozen, layer, after),
                rewrites=touches.numbers([layer.node.name or "", output, weight]),
                weights=bins_of_tensor(layer.tensor),
                weights_after=None if new is None or same else bins_of_tensor(new),
                outputs=was,
                outputs_after=now,
                fault=_INSIDE if place else found.fault if found is not None else "",
                place=place,
            )
        )
    return tuple(rows)


def _measure(
    result: Result,
    layers: Sequence[Weighted],
    shapes: Shapes,
    runtime: Runtime,
    progress: Progress | None,
) -> tuple[dict[str, Layer], dict[str, tuple[Bins | None, Bins | None]]]:
    """Return how far each layer is off, and the distributions of both outputs.

    They are found under the name of the layer's output. Where that is no tensor of the result
    (what follows was fused into the layer), the next tensor that is one is looked at.
    """
    original = result.origin.model
    matched = match_names(original, result.model, result.ledger)
    looked_at = {
        layer.node.outputs[0].name or "": _next_matched(layer.node, matched)
        for layer in layers
    }
    wanted = set(looked_at.values())
    names = {name: other for name, other in matched.items() if name in wanted}
    task = None if progress is None else progress.track("comparing layers", len(names))
    watched: dict[str, tuple[TensorStatistics, TensorStatistics]] = {}
    seen: dict[str, tuple[Bins | None, Bins | None]] = {}

    def observe(name: str, want: object, got: object) -> None:
        if _is_float(want) and _is_float(got):
            both = watched.setdefault(name, (TensorStatistics(), TensorStatistics()))
            both[0].update(want)
            both[1].update(got)

    def advance(tensors: int) -> None:
        # What is known of a portion takes little; what it is made from does not.
        for name, (want, got) in watched.items():
            seen[name] = (bins_of_statistics(want), bins_of_statistics(got))
        watched.clear()
        if task is not None:
            task.advance(tensors)

    try:
        found = compare_layers(
            original,
            result.model,
            names,
            first_feeds(result.origin.samples, _FEEDS),
            runtime,
            tolerance=tolerance_for(original),
            graph=original.graph,
            shapes=shapes,
            budget_bytes=budget_for(original),
            advance=advance,
            observe=observe,
        )
    except ExecutionError:
        found = []  # the verdict says why it does not run
    finally:
        if task is not None:
            task.close()
    measured = {layer.name: layer for layer in found}
    return (
        {name: measured[place] for name, place in looked_at.items() if place in measured},
        {name: seen[place] for name, place in looked_at.items() if place in seen},
    )


def _next_matched(node: ir.Node, matched: Mapping[str, str]) -> str:
    """Return the first tensor from ``node`` on, while there is one way, that is matched."""
    for _ in range(_FUSED):
        value = node.outputs[0]
        if value.name in matched:
            return value.name or ""
        users = {user for user, _ in value.uses() if user.op_type != "Shape"}
        if len(users) != 1:
            break
        (node,) = users
    return ""


def _is_float(value: object) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _decibels(layer: Layer) -> float | None:
    if layer.difference is None or math.isnan(layer.sqnr_db):
        return None
    return max(-EQUAL_DB, min(EQUAL_DB, layer.sqnr_db))


def _reasons(result: Result) -> Mapping[str, str]:
    """Return name of a node, an output or a weight -> why it was left as it was."""
    reasons: dict[str, str] = {}
    for skip in result.ledger.skips:
        if skip.pass_name.startswith(("quantize", "prune", "gptq", "smooth")):
            text = f"{skip.pass_name}: {skip.reason}"
            earlier = reasons.get(skip.anchor)
            reasons[skip.anchor] = f"{earlier}; {text}" if earlier else text
    for name, found in _searched(result).items():
        if found.precision == "float" and found.reason:
            reasons[name] = found.reason
    return reasons


def _frozen(result: Result) -> Mapping[str, str]:
    """Return name of a weight -> why a plan left channels alone that it has part in."""
    frozen: dict[str, str] = {}
    for step in result.steps:
        plan = step.result.details.get("plan")
        groups = plan.get("groups", ()) if isinstance(plan, Mapping) else ()
        for group in groups:
            for weight in group.get("weights", ()) if group.get("reason") else ():
                text = f"{step.pass_.name}: frozen: {group['reason']}"
                frozen.setdefault(str(weight), text)
    return frozen


def _reason(
    reasons: Mapping[str, str],
    frozen: Mapping[str, str],
    layer: Weighted,
    after: Weighted | None,
) -> str:
    """Return why ``layer`` was left as it was, under its name or that which it has now."""
    forms = [layer] if after is None else [layer, after]
    # A weight may be in two groups: where its own channels were cut, it was not left alone.
    if after is None or after.channels == layer.channels:
        reasons = {**frozen, **reasons}
    names = [
        name
        for form in forms
        for name in (form.label, form.node.outputs[0].name or "", form.weight.name or "")
    ]
    return next(filter(None, map(reasons.get, names)), "")


def _searched(result: Result) -> dict[str, Precision]:
    """Return what a search for precisions knows of each operator."""
    return {
        found.operator: found
        for report in result.artifacts.values()
        if isinstance(report, SearchReport)
        for found in report.operators
    }

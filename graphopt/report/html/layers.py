"""The layers: operators with a weight, what became of them, and how far off they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.analysis.cost import macs_of
from graphopt.analysis.facts import attribute, tensor_of
from graphopt.answers import first_feeds, tolerance_for
from graphopt.calibration.statistics import TensorStatistics
from graphopt.debug.layers import Layer, compare_layers, match_names
from graphopt.errors import ExecutionError

from .content import Bins, LayerRow
from .distributions import bins_of_statistics, bins_of_tensor
from .follow import Follower
from .graph_rows import Shapes
from .touches import Touches

if TYPE_CHECKING:
    from graphopt.api import Result
    from graphopt.passbase import Progress
    from graphopt.runtime import Runtime

__all__ = ["layer_rows"]

EQUAL_DB = 300.0
"""Stands for the signal-to-noise ratio of what is equal; float64 ends before."""

_FEEDS = 2
"""Samples that layers are compared on: each tensor of both models is looked at."""

_FUSED = 6
"""Nodes that may be fused into a layer: normalization, scales, activation."""

_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "Gather": 0}
_FORWARD = ("Transpose", "Identity", "Cast", "DequantizeLinear", "Reshape", "Dropout")
"""What may stand between an operator and its weight."""


@dataclasses.dataclass(frozen=True)
class _Weighted:
    """An operator of the original, its weight, and the axis of its output channels."""

    node: ir.Node
    weight: ir.Value
    tensor: ir.TensorProtocol
    axis: int

    @property
    def label(self) -> str:
        return self.node.name or self.node.outputs[0].name or ""


def layer_rows(
    result: Result,
    touches: Touches,
    shape_of: tuple[Shapes, Shapes],
    runtime: Runtime,
    progress: Progress | None,
) -> tuple[LayerRow, ...]:
    """Return one row for each operator of the main graph that has a weight."""
    original = result.origin.model
    layers = [layer for node in original.graph if (layer := _layer(node)) is not None]
    measured, seen = _measure(result, layers, runtime, progress)
    follower = Follower(result.ledger, result.model)
    reasons = _reasons(result)
    rows = []
    for layer in layers:
        output, weight = layer.node.outputs[0].name or "", layer.weight.name or ""
        node = follower.node(layer.node)
        after = None if node is None else _layer(node)
        new = None if after is None else after.tensor
        same_rank = new is not None and len(new.shape) == len(layer.tensor.shape)
        found = measured.get(output)
        rows.append(
            LayerRow(
                layer.label,
                layer.node.op_type,
                weight,
                _dims(layer.tensor),
                None if new is None else _dims(new),
                "" if new is None else new.dtype.name.lower(),
                None if found is None else _decibels(found),
                None if found is None or found.difference is None else found.added_noise,
                _dims(new)[layer.axis] if new is not None and same_rank else None,
                _dims(layer.tensor)[layer.axis],
                macs_of(layer.node, {}, shape_of[0]),
                None if node is None else macs_of(node, {}, shape_of[1]),
                layer.tensor.nbytes,
                0 if new is None else new.nbytes,
                reasons.get(layer.label) or reasons.get(output) or reasons.get(weight) or "",
                touches.numbers([layer.node.name or "", output, weight]),
                bins_of_tensor(layer.tensor),
                None if new is None or new is layer.tensor else bins_of_tensor(new),
                *seen.get(output, (None, None)),
            )
        )
    return tuple(rows)


def _layer(node: ir.Node) -> _Weighted | None:
    """Return the node as a layer, with its largest weight; ``None`` if it has none."""
    best: _Weighted | None = None
    if node.op_type in (*_FORWARD, "Constant") or not node.outputs:
        return best
    for value in node.inputs:
        found = _weight(value)
        if found is None or len(found[1].shape) < 2 or found[1].dtype.is_string():
            continue
        if best is None or found[1].size > best.tensor.size:
            best = _Weighted(node, *found, _axis(node, len(found[1].shape)))
    return best


def _weight(value: ir.Value | None) -> tuple[ir.Value, ir.TensorProtocol] | None:
    for _ in range(4):
        if value is None:
            return None
        tensor = tensor_of(value)
        if tensor is not None:
            return value, tensor
        producer = value.producer()
        if producer is None or producer.op_type not in _FORWARD or not producer.inputs:
            return None
        value = producer.inputs[0]
    return None


def _axis(node: ir.Node, rank: int) -> int:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return _CHANNELS.get(node.op_type, rank - 1)


def _measure(
    result: Result,
    layers: Sequence[_Weighted],
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

    def observe(name: str, want: np.ndarray, got: np.ndarray) -> None:
        if want.dtype.kind == "f" and got.dtype.kind == "f":
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
        users = {user for user, _ in value.uses()}
        if len(users) != 1:
            break
        (node,) = users
    return ""


def _decibels(layer: Layer) -> float | None:
    if layer.difference is None or math.isnan(layer.difference.sqnr_db):
        return None
    return max(-EQUAL_DB, min(EQUAL_DB, layer.difference.sqnr_db))


def _dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(dim) for dim in tensor.shape.numpy())


def _reasons(result: Result) -> Mapping[str, str]:
    """Return name of a node, an output or a weight -> why it was left as it was."""
    reasons: dict[str, str] = {}
    for skip in result.ledger.skips:
        if skip.pass_name.startswith(("quantize", "prune", "gptq", "smooth")):
            text = reasons.get(skip.anchor)
            reasons[skip.anchor] = f"{text}; {skip.reason}" if text else skip.reason
    for step in result.steps:
        plan = step.result.details.get("plan")
        groups = plan.get("groups", ()) if isinstance(plan, Mapping) else ()
        for group in groups:
            for weight in group.get("weights", ()) if group.get("reason") else ():
                reasons.setdefault(str(weight), str(group["reason"]))
    return reasons

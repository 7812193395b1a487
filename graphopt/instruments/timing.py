"""Time, memory, nodes and bytes of every pass; also as a Chrome trace."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

import onnx_ir as ir

from graphopt.ir_access import attributes_of
from graphopt.manager import Step
from graphopt.model_io.staging import write_file
from graphopt.passbase import Pass

__all__ = ["Measurement", "Timing"]

_HOLDERS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSOR)
"""Attributes that hold nodes or weights: few, and all of them are looked at."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one pass cost and what it changed.

    Attributes:
        label: Text of the pass, as in a pipeline.
        started_s: When it started, on the clock of ``time.perf_counter``.
        wall_s: Seconds it took.
        cpu_s: Seconds of processor time of this process; work in the child process that runs
            onnxruntime is in ``wall_s`` only.
        peak_rss_bytes: Most memory this process had in use, from its start to the end of the
            pass; 0 where the platform does not tell.
        rewrites: Rewrites it made that stand.
        nodes: Nodes after it, those of subgraphs included.
        nodes_delta: Nodes it added or (negative) removed.
        weight_bytes: Bytes of all initializers and constants after it.
        weight_bytes_delta: Bytes it added or (negative) removed.
    """

    label: str
    started_s: float
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    rewrites: int
    nodes: int
    nodes_delta: int
    weight_bytes: int
    weight_bytes_delta: int


class Timing:
    """Instrument: keeps a ``Measurement`` of every pass of the latest run, in order."""

    def __init__(self) -> None:
        self.measurements: list[Measurement] = []
        self._last = (0, 0)

    def __call__(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        """Write down what ``previous`` took."""
        del next_
        if previous is None:
            self.measurements = []
            self._last = _size_of(model)
            return
        old = self._last
        if previous.result.modified:
            self._last = _size_of(model)
        nodes, weight_bytes = self._last
        self.measurements.append(
            Measurement(
                previous.label,
                previous.started_s,
                previous.wall_s,
                previous.cpu_s,
                peak_rss_bytes(),
                previous.standing,
                nodes,
                nodes - old[0],
                weight_bytes,
                weight_bytes - old[1],
            )
        )

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the passes as a Chrome trace (open it in ``chrome://tracing`` or Perfetto).

        Format: https://github.com/catapult-project/catapult (Trace Event Format, JSON object).

        Raises:
            OutputError: ``path`` cannot be written.
        """
        origin = self.measurements[0].started_s if self.measurements else 0.0
        events: list[dict[str, Any]] = []
        for one in self.measurements:
            start = round(1e6 * (one.started_s - origin), 3)  # the format counts microseconds
            common = {"pid": 1, "tid": 1, "cat": "pass"}
            arguments = {
                key: value
                for key, value in dataclasses.asdict(one).items()
                if key not in ("label", "started_s")
            }
            span = {
                "ph": "X",
                "name": one.label,
                "ts": start,
                "dur": round(1e6 * one.wall_s, 3),
            }
            events.append({**common, **span, "args": arguments})
            end = round(start + 1e6 * one.wall_s, 3)
            for name in ("nodes", "weight_bytes", "peak_rss_bytes"):
                counter = {"ph": "C", "name": name, "ts": end, "args": {name: arguments[name]}}
                events.append({**common, **counter})
        data = {"traceEvents": events, "displayTimeUnit": "ms"}
        write_file(pathlib.Path(path), json.dumps(data, indent=1).encode())


def _size_of(model: ir.Model) -> tuple[int, int]:
    """Return the nodes of ``model`` and the bytes of its weights; no data is read."""
    nodes = weight_bytes = 0
    seen: set[int] = set()  # a tensor that several initializers share is there once
    waiting = [model.graph, *(function.graph for function in model.functions.values())]
    while waiting:
        graph = waiting.pop()
        nodes += len(graph)
        tensors = [value.const_value for value in graph.initializers.values()]
        for node in graph:
            for attr in attributes_of(node).values():
                if attr.type not in _HOLDERS or attr.is_ref():
                    continue
                if attr.type == ir.AttributeType.GRAPH:
                    waiting.append(attr.as_graph())
                elif attr.type == ir.AttributeType.GRAPHS:
                    waiting += attr.as_graphs()
                elif attr.type == ir.AttributeType.TENSOR:
                    tensors.append(attr.value)  # as_tensor() asks a protocol: 30 us
        for tensor in tensors:
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                weight_bytes += tensor.nbytes
    return nodes, weight_bytes


def peak_rss_bytes() -> int:
    """Return the most memory this process had in use so far; 0 where nobody knows."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, not KiB

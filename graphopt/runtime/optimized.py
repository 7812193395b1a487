"""What onnxruntime makes of a graph when it loads it: which patterns its kernels fuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx

from graphopt.model_io.staging import scratch_folder
from graphopt.runtime.loading import load_into
from graphopt.runtime.process import Process
from graphopt.runtime.session import Level, Model, describe

__all__ = ["OptimizedNode", "nodes_of"]


class OptimizedNode(NamedTuple):
    """A node of the main graph after onnxruntime's optimization."""

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def nodes_of(
    process: Process,
    model: Model,
    level: Level,
    config: Mapping[str, str] | None,
    timeout: float | None,
) -> list[OptimizedNode]:
    """See ``Runtime.optimized_nodes``."""
    with scratch_folder() as folder:
        path = folder / "optimized.onnx"
        entries = {
            "optimized_model_filepath": str(path),
            # Weights aside, so that no model is too large to be written in one piece.
            "session.optimized_model_external_initializers_file_name": "weights",
            **(config or {}),
        }
        key, *_ = load_into(process, model, level=level, config=entries, timeout=timeout)
        process.request("unload", what=describe(model), key=key)
        graph = onnx.load(path, load_external_data=False).graph
    return [
        OptimizedNode(
            node.op_type, node.domain, node.name, tuple(node.input), tuple(node.output)
        )
        for node in graph.node
    ]

"""Evaluates single nodes on constant inputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import ExecutionError
from graphopt.runtime import arrays
from graphopt.runtime.process import Process, error_of
from graphopt.runtime.wire import Opaque

__all__ = ["Evaluator"]

# Sessions of one node take about 50 kB each.
_CACHED = 512


class Evaluator:
    """Evaluates nodes in one process; keeps a session for each kind of node it has seen."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._generation = -1
        self._next = 0
        self._keys: OrderedDict[Any, int] = OrderedDict()

    def evaluate(
        self,
        node: ir.Node,
        inputs: Sequence[np.ndarray | None],
        opset: Mapping[str, int],
        max_bytes: int,
        timeout: float,
    ) -> list[np.ndarray]:
        """See ``Runtime.evaluate``."""
        what = f"node {node.name!r} ({node.op_type})"
        feeds = {
            f"i{index}": arrays.encode(array)
            for index, array in enumerate(inputs)
            if array is not None
        }
        version = opset.get(node.domain, 1)
        signature = (
            node.domain,
            node.op_type,
            version,
            len(inputs),
            len(node.outputs),
            _attributes(node),
            tuple((name, *_kind(value)) for name, value in feeds.items()),
        )
        with self._process.lock:
            if self._process.ensure() != self._generation:
                self._keys.clear()
                self._generation = self._process.generation
            key = self._keys.get(signature)
            model = None
            if key is None:
                key = self._keys[signature] = self._next
                self._next += 1
                model = _one_node_model(node, inputs, feeds, version)
            else:
                self._keys.move_to_end(signature)
            try:
                (answer,) = self._process.request(
                    "evaluate", [(key, model, feeds)], max_bytes, what=what, timeout=timeout
                )
            except ExecutionError:
                self._keys.clear()
                raise
            if answer[0] == "error":
                if model is not None:
                    del self._keys[signature]
                raise error_of(what, answer[1], answer[2])
            if len(self._keys) > _CACHED:
                _, old = self._keys.popitem(last=False)
                self._process.request("forget", [old], what=what)
        outputs = [arrays.decode(value) for value in answer[1]]
        if not all(isinstance(value, np.ndarray) for value in outputs):
            raise ExecutionError("refused", f"{what} returns something that is no tensor.")
        return outputs


def _attributes(node: ir.Node) -> bytes:
    proto = onnx.NodeProto()
    proto.attribute.extend(ir.serde.serialize_node(node).attribute)
    return bytes(proto.SerializeToString(deterministic=True))


def _kind(value: Any) -> tuple[int, int]:
    if isinstance(value, Opaque):
        return value.element_type, len(value.shape)
    return arrays.element_type(value), value.ndim


def _one_node_model(
    node: ir.Node, inputs: Sequence[np.ndarray | None], feeds: Mapping[str, Any], version: int
) -> bytes:
    proto = ir.serde.serialize_node(node)
    names = [f"i{index}" if array is not None else "" for index, array in enumerate(inputs)]
    proto.input[:] = names
    proto.output[:] = [f"o{index}" for index in range(len(node.outputs))]
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(name, kind, [None] * rank)
            for name, (kind, rank) in ((name, _kind(value)) for name, value in feeds.items())
        ],
        [onnx.ValueInfoProto(name=name) for name in proto.output],
    )
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.add(domain=node.domain, version=version)
    if node.domain:
        model.opset_import.add(domain="", version=21)
    return bytes(model.SerializeToString())

"""Evaluates single nodes on constant inputs.

A node becomes a model of one node whose inputs are graph inputs, so that a session is kept for
each kind of node, and the same shape arithmetic on other numbers costs one message.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import ExecutionError
from graphopt.runtime import arrays
from graphopt.runtime.bounds import result_elements
from graphopt.runtime.process import Process, error_of

__all__ = ["Evaluator", "Result"]

Result: TypeAlias = "list[np.ndarray] | ExecutionError"
_Shape: TypeAlias = tuple[int | None, ...]

# The newest that the oldest supported onnxruntime, 1.20, knows.
_IR_VERSION = 10
# Sessions of one node that are kept; each takes about 40 kB.
_KEPT = 1024
# The largest constant of a node that is written into the signature as it is.
_PLAIN_BYTES = 64
# The longest vector whose size is declared.
_VECTOR = 16
_SIMPLE = {
    ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING,
    ir.AttributeType.STRINGS, ir.AttributeType.FLOAT, ir.AttributeType.FLOATS,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Job:
    """A node that is ready to be sent."""

    node: ir.Node
    what: str
    names: list[str]
    values: list[Any]
    kinds: tuple[tuple[int, _Shape], ...]  # element type and declared shape of each value
    signature: tuple[Any, ...]


class Evaluator:
    """Evaluates nodes in one child process.

    Args:
        process: The process; used for nothing else, because its memory is limited.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self._generation = -1
        self._next = 0
        self._keys: OrderedDict[Any, int] = OrderedDict()

    def evaluate(
        self,
        requests: Sequence[tuple[ir.Node, Sequence[np.ndarray | None]]],
        opset: Mapping[str, int],
        max_bytes: int,
        timeout: float,
    ) -> list[Result]:
        """Return the outputs of each node, or why there are none."""
        results: list[Result] = []
        jobs: list[_Job] = []
        for node, inputs in requests:
            try:
                jobs.append(_prepare(node, inputs, opset, max_bytes))
                results.append([])
            except ExecutionError as error:
                results.append(error)
        slots = [at for at, result in enumerate(results) if isinstance(result, list)]
        for at, result in zip(slots, self._run(jobs, opset, max_bytes, timeout), strict=True):
            results[at] = result
        return results

    def _run(
        self, jobs: Sequence[_Job], opset: Mapping[str, int], max_bytes: int, timeout: float
    ) -> list[Result]:
        if not jobs:
            return []
        try:
            return self._ask(jobs, opset, max_bytes, timeout)
        except ExecutionError as error:
            if len(jobs) == 1:
                return [error]
        # One of them has ended the process: alone, each has its own error.
        return [self._run([job], opset, max_bytes, timeout)[0] for job in jobs]

    def _ask(
        self, jobs: Sequence[_Job], opset: Mapping[str, int], max_bytes: int, timeout: float
    ) -> list[Result]:
        with self.process.lock:
            if self.process.ensure() != self._generation:
                self._keys.clear()
                self._generation = self.process.generation
            sent = []
            for job in jobs:
                key, model = self._keys.get(job.signature), None
                if key is None:
                    key, self._next = self._next, self._next + 1
                    self._keys[job.signature] = key
                    model = _model_of(job, opset)
                sent.append((key, model, job.names))
                self._keys.move_to_end(job.signature)
            surplus = max(0, len(self._keys) - max(_KEPT, len(jobs)))
            forget = [self._keys.popitem(last=False)[1] for _ in range(surplus)]
            answers, values = self.process.request(
                "evaluate",
                [value for job in jobs for value in job.values],
                what=jobs[0].what,
                timeout=timeout,
                jobs=sent,
                forget=forget,
                max_bytes=max_bytes,
            )
            results: list[Result] = []
            supply = iter(values)
            for job, answer in zip(jobs, answers, strict=True):
                if isinstance(answer, int):
                    results.append([arrays.decode(next(supply)) for _ in range(answer)])
                else:
                    # It may not have been loaded at all.
                    self._keys.pop(job.signature, None)
                    results.append(error_of(job.what, *answer))
        return [
            _refused(job, "it returns something that is no tensor")
            if isinstance(result, list) and not all(isinstance(v, np.ndarray) for v in result)
            else result
            for job, result in zip(jobs, results, strict=True)
        ]


def _refused(job: _Job, why: str) -> ExecutionError:
    return ExecutionError("refused", f"{job.what} cannot be evaluated: {why}.")


def _prepare(
    node: ir.Node,
    inputs: Sequence[np.ndarray | None],
    opset: Mapping[str, int],
    max_bytes: int,
) -> _Job:
    what = f"node {node.name!r} ({node.op_type})"
    names = [f"i{at}" for at, value in enumerate(inputs) if value is not None]
    try:
        values = [arrays.encode(value) for value in inputs if value is not None]
        kinds = tuple((arrays.element_type(value), _declared(value)) for value in values)
        attributes = tuple(map(_attribute_key, node.attributes.values()))
        _check(node, inputs, opset, max_bytes)
    except (TypeError, ValueError) as error:
        raise ExecutionError("refused", f"{what} cannot be evaluated: {error}.") from error
    signature = (
        node.domain,
        node.op_type,
        node.overload,
        tuple(opset.items()),
        len(node.outputs),
        tuple(names),
        kinds,
        attributes,
    )
    return _Job(node, what, names, values, kinds, signature)


def _declared(value: Any) -> _Shape:
    """Return the shape to declare: the rank only, so that other sizes use the same session.

    Of short vectors the size too: Resize takes ``sizes`` of unknown size for empty
    (onnxruntime 1.31).
    """
    shape: tuple[int, ...] = value.shape
    return shape if len(shape) == 1 and shape[0] <= _VECTOR else (None,) * len(shape)


def _check(
    node: ir.Node,
    inputs: Sequence[np.ndarray | None],
    opset: Mapping[str, int],
    max_bytes: int,
) -> None:
    if node.domain not in opset:
        raise ValueError(f"the model imports no operator set {node.domain!r}")
    elements = result_elements(node, inputs)
    if elements is not None and elements > max_bytes:
        raise ValueError(f"the result has {elements} elements, {max_bytes} bytes are allowed")


def _attribute_key(attribute: ir.Attr) -> tuple[str, Any, Any]:
    """Return what tells an attribute from others; equal only if the attributes are equal.

    Raises:
        ValueError: The attribute stands for one of a function, or is a graph that uses values
            from outside.
    """
    kind = attribute.type
    if attribute.is_ref():
        raise ValueError(f"attribute {attribute.name!r} is a parameter of a function")
    if kind in _SIMPLE:
        # repr tells 0.0 from -0.0.
        return attribute.name, kind, repr(attribute.value)
    if kind in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        graphs = [attribute.value] if kind is ir.AttributeType.GRAPH else attribute.value
        for graph in graphs:
            _check_closed(graph)
    data = ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True)
    if len(data) > _PLAIN_BYTES:
        data = hashlib.sha256(data).digest()
    return attribute.name, kind, data


def _check_closed(graph: ir.Graph) -> None:
    """Check that a body uses no value from outside."""
    inside: set[ir.Value] = set()
    used: list[ir.Value | None] = []

    def visit(body: ir.Graph | ir.Function | ir.GraphView) -> None:
        inside.update(body.inputs)
        if not isinstance(body, ir.Function):
            inside.update(body.initializers.values())
        used.extend(body.outputs)

    visit(graph)
    for node in ir.traversal.RecursiveGraphIterator(graph, enter_graph=visit):
        inside.update(node.outputs)
        used.extend(node.inputs)
    for value in used:
        if value is not None and value not in inside:
            raise ValueError(f"its body uses {value.name!r} from outside")


def _model_of(job: _Job, opset: Mapping[str, int]) -> bytes:
    node = ir.serde.serialize_node(job.node)
    count = max((int(name[1:]) for name in job.names), default=-1) + 1
    node.input[:] = [f"i{at}" if f"i{at}" in job.names else "" for at in range(count)]
    # All outputs, also those that nobody uses: the caller counts on their places.
    node.output[:] = [f"o{at}" for at in range(len(job.node.outputs))]
    model = onnx.ModelProto(ir_version=_IR_VERSION)
    for domain, version in opset.items():
        model.opset_import.add(domain=domain, version=version)
    graph = model.graph
    graph.name = "node"
    graph.node.append(node)
    for name, (element_type, shape) in zip(job.names, job.kinds, strict=True):
        graph.input.append(onnx.helper.make_tensor_value_info(name, element_type, shape))
    for name in node.output:
        graph.output.add().name = name
    return bytes(model.SerializeToString())

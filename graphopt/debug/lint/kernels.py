"""Whether onnxruntime can run every node: it names only the first that it cannot."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping

import onnx
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.analysis.shapes import infer
from graphopt.debug.lint.findings import Finding
from graphopt.errors import ExecutionError
from graphopt.records import anchor_name
from graphopt.runtime import Runtime

__all__ = ["kernels"]

_SMALL = 64
"""Constants of so few elements are given to a node as they are: an axis, a shape, a scale."""


def kernels(path: pathlib.Path, model: ir.Model, runtime: Runtime) -> list[Finding]:
    """Return the nodes of the main graph that onnxruntime does not load, each tried alone.

    Nodes with subgraphs are not tried alone. Where it is no single node, what onnxruntime says
    of the whole model is returned.
    """
    try:
        runtime.session(path, optimize=False).close()
    except ExecutionError as error:
        whole = Finding.of(error)
    else:
        return []
    types = {value: kind for value, (kind, _) in infer(model).items()}
    alike: dict[object, list[ir.Node]] = collections.defaultdict(list)
    for node in model.graph:
        if not any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.values()):
            alike[_kind(node, types)].append(node)
    found = []
    for nodes in alike.values():
        alone = _alone(nodes[0], model, types)
        if alone is None:
            continue
        try:
            runtime.session(alone, optimize=False).close()
        except ExecutionError as error:
            found += [_finding(node, error) for node in nodes]
    return found or [whole]


def _finding(node: ir.Node, error: ExecutionError) -> Finding:
    name = anchor_name(node)
    reason = error.message.partition(": ")[2] or error.message
    return Finding(error.code, f"node {name!r} ({node.op_type}): {reason}", name=name)


def _type(
    value: ir.Value | None, types: Mapping[ir.Value, ir.TypeProtocol | None]
) -> ir.TypeProtocol | None:
    return None if value is None else value.type or types.get(value)


def _kind(node: ir.Node, types: Mapping[ir.Value, ir.TypeProtocol | None]) -> object:
    """Return what the choice of a kernel depends on."""
    attributes = tuple(
        sorted((name, str(attr.value)) for name, attr in node.attributes.items())
    )
    inputs = tuple(str(_type(value, types)) for value in node.inputs)
    return node.domain, node.op_type, node.overload, inputs, attributes, len(node.outputs)


def _alone(
    node: ir.Node, model: ir.Model, types: Mapping[ir.Value, ir.TypeProtocol | None]
) -> ir.Model | None:
    """Return a model of this node; ``None`` where the type of an input is not known."""
    proto = ir.serde.serialize_node(node)
    inputs, weights, seen = [], [], set[str]()
    for value in node.inputs:
        if value is None or value.name in seen:
            continue
        seen.add(value.name or "")
        kind, tensor = _type(value, types), tensor_of(value)
        if tensor is not None and tensor.size <= _SMALL:
            weight = ir.serde.serialize_tensor(tensor)
            weight.name = value.name or ""
            weights.append(weight)
            continue
        if kind is None:
            return None
        info = onnx.ValueInfoProto(name=value.name)
        ir.serde.serialize_type_into(info.type, kind)
        inputs.append(info)
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], node.op_type, inputs, outputs, weights)
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
    functions = [ir.serde.serialize_function(one) for one in model.functions.values()]
    made = onnx.helper.make_model(
        graph, opset_imports=opsets, functions=functions, ir_version=model.ir_version
    )
    return ir.from_proto(made)

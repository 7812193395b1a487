"""Upgrade the model to a later version of the ONNX operator set.

Before -> after::

    <opset 12>                                  <opset 13>
    y = Squeeze<axes = [1]>(x)           ->     y = Squeeze(x, [1])

Preconditions, for the model:
    1. It imports a version of the ONNX operator set below ``to``.
    2. onnx knows how to convert each of its nodes. Where it does not, nothing is changed.
    3. The operators in its subgraphs mean the same in both versions: onnx converts the nodes
       of the main graph only.
    4. It has no model-local functions, which import an operator set of their own.

Numerics: close; an operator may be expressed by others. Measured: rtol 1e-5 of the largest
output for float32.
Scope: main graph.   Leaves alone: other operator sets; a model that is newer already.
Reference: https://onnx.ai/onnx/api/version_converter.html
"""

from __future__ import annotations

import dataclasses
import logging
from typing import ClassVar

import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.edit import Edit
from graphopt.errors import PipelineError
from graphopt.passbase import Context, Pass, PassResult, Promise

__all__ = ["UpgradeOpset"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Upgrade the operator set; see the module docstring for the contract.

    Attributes:
        to: Version of the ONNX operator set to upgrade to. 13 is the first with per-channel
            quantization, 17 with LayerNormalization, 20 with Gelu.
    """

    name: ClassVar[str] = "upgrade-opset"
    promise: ClassVar[Promise] = Promise.CLOSE

    to: int = 21

    def __post_init__(self) -> None:
        """Check the options."""
        if not 1 <= self.to <= onnx.defs.onnx_opset_version():
            raise PipelineError(
                "bad-option",
                f"{self.name}: there is no opset {self.to}; "
                f"the installed onnx knows 1 to {onnx.defs.onnx_opset_version()}.",
            )

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Convert the model in one application."""
        rewriter = context.rewriter(model, self)
        old = model.opset_imports.get("", 0)
        anchor = model.graph.name or "graph"
        # 1.
        if not 0 < old < self.to:
            return PassResult(model, modified=False, summary=f"opset {old} is kept")
        reason = self._refusal(model, old)
        converted = None
        if not reason:
            try:
                converted = _convert(model, self.to)
            except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
                # 2.
                reason = " ".join(str(error).split())
        if converted is None:
            rewriter.skip("convert", anchor, reason)
            return PassResult(model, modified=False, summary=f"opset {old} is kept: {reason}")
        nodes = converted.graph

        def rewrite(edit: Edit) -> None:
            _take_over(edit, model.graph, nodes)
            edit.set_opset("", self.to)
            edit.note(f"opset {old} -> {self.to}")

        done = rewriter.apply("convert", anchor, rewrite)
        summary = f"opset {old} -> {self.to}" if done else f"opset {old} is kept"
        logger.info("%s: %s", self.name, summary)
        return PassResult(model, modified=done is not None, summary=summary)

    def _refusal(self, model: ir.Model, old: int) -> str:
        # 4.
        if model.functions:
            return "it has model-local functions"
        # 3.
        for graph in model.graph.subgraphs():
            for node in graph:
                if not node.domain and _meaning(node, old) != _meaning(node, self.to):
                    return f"{node.op_type} in a subgraph has changed since opset {old}"
        return ""


def _meaning(node: ir.Node, version: int) -> int:
    """Return the version that defines ``node`` where ``version`` is imported."""
    return onnx.defs.get_schema(node.op_type, version).since_version


def _convert(model: ir.Model, version: int) -> onnx.ModelProto:
    """Return the converted model with its large initializers as inputs."""
    proto = model_io.outline(model)
    kept = []
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            info = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
            proto.graph.input.append(info)
        else:
            kept.append(tensor)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return onnx.version_converter.convert_version(proto, version)


def _take_over(edit: Edit, graph: ir.Graph, converted: onnx.GraphProto) -> None:
    """Make the nodes of ``graph`` those of ``converted``; both are in the same order."""
    values = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    news = {tensor.name for tensor in converted.initializer} - values.keys()
    tensors = {t.name: ir.from_proto(t) for t in converted.initializer if t.name in news}
    old_nodes = {value.name: node for node in graph for value in node.outputs}
    pending: list[onnx.NodeProto] = []
    for proto in converted.node:
        old = next((old_nodes[name] for name in proto.output if name in old_nodes), None)
        pending.append(proto)
        if old is None:
            continue
        if len(pending) == 1 and _same_but_attributes(old, proto):
            _set_attributes(edit, old, proto)
        else:
            for new in pending:
                for name in new.input:
                    if name in tensors and name not in values:
                        values[name] = edit.constant(tensors[name], name, near=old)
                _insert(edit, new, old, values)
            for value in old.outputs:
                if value.uses() or value.is_graph_output():
                    edit.replace(value, values[value.name])
            edit.remove(old)
            pending = []
            continue
        values.update({value.name: value for value in old.outputs})
        pending = []


def _same_but_attributes(node: ir.Node, proto: onnx.NodeProto) -> bool:
    inputs = [value.name if value is not None else "" for value in node.inputs]
    outputs = [value.name for value in node.outputs]
    return (node.op_type, inputs, outputs) == (
        proto.op_type,
        list(proto.input),
        list(proto.output),
    )


def _attributes(proto: onnx.NodeProto, old: ir.Node) -> dict[str, ir.Attr]:
    """Return the attributes of ``proto``; subgraphs and tensors are those of ``old``.

    A conversion changes neither, and what was converted had no data in its large tensors.
    """
    kept = {
        name: attr
        for name, attr in old.attributes.items()
        if attr.type
        in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSOR)
    }
    return {
        attr.name: kept.get(attr.name) or ir.serde.deserialize_attribute(attr)
        for attr in proto.attribute
    }


def _set_attributes(edit: Edit, node: ir.Node, proto: onnx.NodeProto) -> None:
    news = _attributes(proto, node)
    for name in [*node.attributes]:
        if name not in news:
            edit.set_attribute(node, name, None)
    for name, attr in news.items():
        before = node.attributes.get(name)
        if before is not attr and before != attr:
            edit.set_attribute(node, name, attr)


def _insert(
    edit: Edit, proto: onnx.NodeProto, old: ir.Node, values: dict[str | None, ir.Value]
) -> None:
    same = {value.name: value for value in old.outputs}
    outputs = edit.node(
        proto.op_type,
        [values[name] if name else None for name in proto.input],
        before=old,
        attributes=dict(_attributes(proto, old)),
        domain=proto.domain,
        outputs=len(proto.output),
        like=[same[name] for name in proto.output if name in same],
        name=proto.name or f"{old.name}_{proto.op_type}",
    )
    values.update(zip(proto.output, outputs, strict=True))

"""Turns a model into a proto without weights, to be put together with them on writing.

The serializer of ``onnx_ir`` would copy every weight into the proto, and protobuf all of it
once more into the bytes of the file. Here it is shown a view of the model in which the large
tensors are replaced by placeholders of a few bytes.
"""

from __future__ import annotations

import bisect
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

from graphopt.errors import OutputError
from graphopt.model_io import wire
from graphopt.model_io.collector import collection_paused
from graphopt.model_io.loading import kept_of, reason_of
from graphopt.model_io.tensors import MappedTensor, SparseTensor
from graphopt.model_io.weights import MIN_MAPPED_BYTES, all_graphs

__all__ = ["External", "large_initializers", "pieces_of", "skeleton"]

External: TypeAlias = "tuple[str, int]"
"""A file with external data, and the first byte of a tensor in it."""


class _View:
    """An object of a model with some of its attributes replaced."""

    def __init__(self, target: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.nodes)


def is_large(tensor: ir.TensorProtocol | None) -> bool:
    """Whether the data of ``tensor`` is written by itself, not as a part of the proto."""
    if tensor is None or isinstance(tensor, SparseTensor):
        return False
    if isinstance(tensor, ir.TensorProtoTensor) and tensor.raw.ByteSize() < MIN_MAPPED_BYTES:
        return False
    if tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return False
    return isinstance(tensor, MappedTensor) or tensor.nbytes >= MIN_MAPPED_BYTES


def large_initializers(model: ir.Model) -> list[ir.TensorProtocol]:
    """Return the initializers, of all graphs, that may become external data."""
    found = []
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and is_large(tensor):
                found.append(tensor)
    return found


def pieces_of(
    model: ir.Model, external: Callable[[ir.TensorProtocol], External | None]
) -> tuple[bytes, list[wire.Piece[ir.TensorProtocol]]]:
    """Return what the file of ``model`` is put together from.

    Args:
        model: The model; not changed.
        external: Where the data of an initializer is, or ``None`` where it is in the model.

    Returns:
        A buffer, and the pieces of the file: ranges of that buffer, bytes, and tensors.

    Raises:
        OutputError: ``onnx_ir`` cannot write something in the model.
    """
    placeholders = _Placeholders(external)
    try:
        with collection_paused():
            proto = ir.serde.serialize_model(placeholders.model(model))
    except ir.serde.SerdeError as error:
        raise OutputError(
            "not-serializable", f"the model cannot be written: {reason_of(error)}."
        ) from error
    _restore(proto, model, placeholders)
    buffer = proto.SerializeToString()
    del proto
    places = [match.start() for match in re.finditer(re.escape(placeholders.token), buffer)]

    def wanted(start: int, end: int) -> bool:
        index = bisect.bisect_left(places, start)
        return index < len(places) and places[index] < end

    def fill(number: int, start: int, end: int) -> list[wire.Piece[ir.TensorProtocol]] | None:
        tensor = placeholders.tensor(buffer[start:end])
        if tensor is None:
            return None
        size = tensor.nbytes
        return [wire.field(number, size), wire.Sized(tensor, size)]

    pieces = wire.rewrite(buffer, wanted, fill) if places else None
    return buffer, pieces or [(0, len(buffer))]


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` as a proto whose large initializers have a type and a shape only.

    For what looks at a graph and not at its weights, such as shape inference. The data of
    those initializers is declared to be in a file that does not exist.
    """
    view = _Placeholders(lambda tensor: ("weights", 0)).model(model)
    proto: onnx.ModelProto = ir.serde.serialize_model(view)
    return proto


class _Placeholders:
    """Makes a view of a model with placeholders for its large tensors."""

    def __init__(self, external: Callable[[ir.TensorProtocol], External | None]) -> None:
        self.token = secrets.token_bytes(16)
        self._external = external
        self._tensors: list[ir.TensorProtocol] = []

    def tensor(self, data: bytes) -> ir.TensorProtocol | None:
        """Return the tensor whose placeholder has ``data``; ``None`` if it is none."""
        if not data.startswith(self.token):
            return None
        return self._tensors[int.from_bytes(data[len(self.token) :], "little")]

    def model(self, model: ir.Model) -> _View:
        functions = {
            key: _View(function, nodes=self._nodes(function), attributes=function.attributes)
            for key, function in model.functions.items()
        }
        return _View(model, graph=self._graph(model.graph), functions=functions)

    def _graph(self, graph: ir.Graph) -> _View:
        values: dict[str, Any] = {}
        for name, value in graph.initializers.items():
            tensor = value.const_value
            shown = None if tensor is None else self._shown(tensor, self._external)
            values[name] = value if shown is tensor else _View(value, const_value=shown)
        return _View(graph, initializers=values, nodes=self._nodes(graph))

    def _nodes(self, nodes: ir.Graph | ir.Function) -> list[Any]:
        return [self._node(node) for node in nodes]

    def _node(self, node: ir.Node) -> Any:
        changed = {}
        for name, attr in node.attributes.items():
            if attr.is_ref():
                continue
            if attr.type == ir.AttributeType.TENSOR:
                shown = self._shown(attr.value)
                if shown is not attr.value:
                    changed[name] = self._attr(attr, shown)
            elif attr.type == ir.AttributeType.TENSORS:
                changed[name] = self._attr(
                    attr, [self._shown(tensor) for tensor in attr.value]
                )
            elif attr.type == ir.AttributeType.GRAPH:
                changed[name] = self._attr(attr, self._graph(attr.value))
            elif attr.type == ir.AttributeType.GRAPHS:
                changed[name] = self._attr(attr, [self._graph(graph) for graph in attr.value])
        if not changed:
            return node
        return _View(node, attributes={**node.attributes, **changed})

    def _attr(self, attr: ir.Attr, value: Any) -> ir.Attr:
        return ir.Attr(attr.name, attr.type, value, doc_string=attr.doc_string)

    def _shown(
        self,
        tensor: ir.TensorProtocol,
        external: Callable[[ir.TensorProtocol], External | None] = lambda tensor: None,
    ) -> ir.TensorProtocol:
        """Return what the serializer is shown in place of ``tensor``; itself, where it may."""
        if is_large(tensor) or isinstance(tensor, SparseTensor):
            proto = onnx.TensorProto(
                name=tensor.name or None,
                data_type=tensor.dtype.value,
                dims=tensor.shape.numpy(),
                doc_string=tensor.doc_string or None,
            )
            self._fill(proto, tensor, external(tensor))
        elif isinstance(tensor, ir.TensorProtoTensor) and tensor.raw.metadata_props:
            # Of these the serializer of onnx_ir 1.1 writes the metadata twice.
            proto = onnx.TensorProto()
            proto.CopyFrom(tensor.raw)
            del proto.metadata_props[:]
        else:
            return tensor
        shown = ir.TensorProtoTensor(proto)
        shown.metadata_props.update(tensor.metadata_props)
        return shown

    def _fill(
        self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, external: External | None
    ) -> None:
        if external is None:
            proto.raw_data = self.token + len(self._tensors).to_bytes(4, "little")
            self._tensors.append(tensor)
            return
        location, offset = external
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", location),
            ("offset", offset),
            ("length", tensor.nbytes),
        ):
            proto.external_data.add(key=key, value=str(value))


def _restore(proto: onnx.ModelProto, model: ir.Model, placeholders: _Placeholders) -> None:
    """Put back what ``onnx_ir`` does not hold."""
    kept = kept_of(model)
    for info in kept.training_info:
        proto.training_info.add().ParseFromString(info)
    sparse = any(isinstance(tensor, SparseTensor) for tensor in placeholders._tensors)
    if not (sparse or kept.types):
        return
    for body in bodies(proto):
        for node in body.node:
            for attr in node.attribute:
                tensor = placeholders.tensor(attr.t.raw_data)
                if isinstance(tensor, SparseTensor):
                    attr.ClearField("t")
                    attr.name, attr.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
                    attr.sparse_tensor.CopyFrom(tensor.proto)
        if isinstance(body, onnx.FunctionProto):
            continue
        dense = list(body.initializer)
        del body.initializer[:]
        for initializer in dense:
            tensor = placeholders.tensor(initializer.raw_data)
            if isinstance(tensor, SparseTensor):
                written = body.sparse_initializer.add()
                written.CopyFrom(tensor.proto)
                written.values.name = initializer.name
            else:
                body.initializer.append(initializer)
        for value in (*body.input, *body.output, *body.value_info):
            if value.name in kept.types and not value.HasField("type"):
                value.type.ParseFromString(kept.types[value.name])


def bodies(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while waiting:
        body = waiting.pop()
        yield body
        for node in body.node:
            for attr in node.attribute:
                if attr.HasField("g"):
                    waiting.append(attr.g)
                waiting += attr.graphs

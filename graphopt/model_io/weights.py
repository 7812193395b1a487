"""Finds the data of a model's tensors where it is: in the model's file, or in others."""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Callable, Iterator

import onnx
import onnx_ir as ir

from graphopt.errors import ModelError
from graphopt.model_io import check_tensors, sniff, wire
from graphopt.model_io.check_nodes import check_text, texts_of
from graphopt.model_io.opening import open_external
from graphopt.model_io.source import SourceFile
from graphopt.model_io.tensors import MappedTensor, ParsedTensor, SparseTensor

__all__ = ["MAX_SKELETON_BYTES", "MIN_MAPPED_BYTES", "Weights", "all_graphs"]

MIN_MAPPED_BYTES = 1024
"""Smaller tensors are parsed: a map of its own costs more than it saves, and shape arithmetic
needs their values anyway."""

MAX_SKELETON_BYTES = (1 << 31) - 1
"""The most that protobuf parses."""

Place = tuple[SourceFile, int, int]
"""A file, the first byte of the data in it, and their number."""


class Weights:
    """The data of the tensors of one model that is not in its proto.

    A tensor whose data is elsewhere carries a mark in its ``segment`` field, which no model
    in use has: the number of a slot, and a random number that cannot be forged.

    Args:
        folder: Where external data may be; ``None`` where none may.
        allow_hardlinks: Accept external data that has a second name somewhere.

    Attributes:
        any_external: Whether external data was found.
        notes: What was odd, in words.
    """

    def __init__(self, folder: pathlib.Path | None, allow_hardlinks: bool = False) -> None:
        self.any_external = False
        self.notes: list[str] = []
        self._folder = folder
        self._allow_hardlinks = allow_hardlinks
        self._token = secrets.randbits(62)
        self._slots: list[Place | SparseTensor] = []
        self._files: dict[str, SourceFile] = {}
        self._unknown_keys: set[str] = set()

    def parse(self, source: SourceFile) -> onnx.ModelProto:
        """Return the model in a file, with the data of its tensors left there.

        Raises:
            ModelError: The file is no model.
        """

        def cut(number: int, start: int, end: int) -> list[wire.Piece[None]]:
            del number
            self._slots.append((source, start, end - start))
            return [self._mark(len(self._slots) - 1)]

        try:
            pieces = wire.rewrite(
                source, lambda start, end: end - start >= MIN_MAPPED_BYTES, cut
            )
        except wire.WireError as error:
            raise sniff.not_scanned(source.path, error) from None
        if pieces is None:
            pieces = [(0, source.size)]
        if (size := wire.length_of(pieces)) > MAX_SKELETON_BYTES:
            raise ModelError(
                "too-large",
                f"{source.path} has {size / 1e9:.1f} GB beside its weights; protobuf reads at "
                "most 2.1 GB.",
            )
        skeleton = b"".join(
            piece if isinstance(piece, bytes) else source[slice(*piece)]
            for piece in pieces
            if not isinstance(piece, wire.Sized)
        )
        try:
            proto: onnx.ModelProto = onnx.ModelProto.FromString(skeleton)
        except Exception as error:  # DecodeError; which class depends on the implementation
            raise sniff.not_parsed(source.path, skeleton, error) from error
        return proto

    def look_at(
        self, tensor: onnx.TensorProto, where: str, may_edit: Callable[[], None]
    ) -> None:
        """Check a tensor, and take a place for its data if that is external.

        Args:
            tensor: The tensor; external data is replaced by a mark.
            where: What it is called in messages.
            may_edit: Called before that; raises where it is not wanted.

        Raises:
            ModelError: The tensor is not valid, or its data not where it should be.
        """
        check_text(where, tensor.name, tensor.doc_string, *texts_of(tensor.metadata_props))
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = self._external(tensor, where)
            may_edit()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            self._set_mark(tensor, place)
        else:
            slot = self._slot_of(tensor)
            cut = slot[2] if isinstance(slot, tuple) else None
            check_tensors.check_data(tensor, where, cut)

    def take_sparse(self, sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
        """Check a sparse tensor; return a dense one in its place, with a mark.

        Raises:
            ModelError: The tensor is not valid.
        """
        check_tensors.check_sparse(sparse, where)
        check_text(where, sparse.values.name)
        copy = onnx.SparseTensorProto()
        copy.CopyFrom(sparse)
        dense = onnx.TensorProto(
            name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims
        )
        self._set_mark(dense, SparseTensor(copy))
        return dense

    def attach(self, model: ir.Model) -> None:
        """Give the tensors of ``model`` that carry a mark their data."""
        for graph in all_graphs(model):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    value.const_value = self._attached(value.const_value)
            for node in graph:
                for attr in node.attributes.values():
                    if attr.type == ir.AttributeType.TENSOR and not attr.is_ref():
                        tensor = self._attached(attr.value)
                        new = ir.AttrTensor(attr.name, tensor, doc_string=attr.doc_string)
                    elif attr.type == ir.AttributeType.TENSORS and not attr.is_ref():
                        tensors = [self._attached(tensor) for tensor in attr.value]
                        new = ir.AttrTensors(attr.name, tensors, doc_string=attr.doc_string)
                    else:
                        continue
                    node.attributes.add(new)

    def _attached(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.TensorProtoTensor):
            return tensor
        slot = self._slot_of(tensor.raw)
        if slot is None:
            return ParsedTensor(tensor.raw)
        if isinstance(slot, SparseTensor):
            return slot
        source, offset, _ = slot
        return MappedTensor(
            source,
            offset,
            tensor.dtype,
            ir.Shape(tuple(tensor.shape.numpy())),
            name=tensor.name,
            doc_string=tensor.doc_string or None,
            metadata_props=dict(tensor.metadata_props) or None,
        )

    def _mark(self, slot: int) -> bytes:
        mark = onnx.TensorProto.Segment(begin=slot, end=self._token)
        segment: bytes = mark.SerializeToString()
        return wire.field(onnx.TensorProto.SEGMENT_FIELD_NUMBER, len(segment)) + segment

    def _set_mark(self, tensor: onnx.TensorProto, slot: Place | SparseTensor) -> None:
        tensor.segment.begin = len(self._slots)
        tensor.segment.end = self._token
        self._slots.append(slot)

    def _slot_of(self, tensor: onnx.TensorProto) -> Place | SparseTensor | None:
        if not tensor.HasField("segment") or tensor.segment.end != self._token:
            return None
        return self._slots[tensor.segment.begin]

    def _external(self, tensor: onnx.TensorProto, where: str) -> Place:
        external = check_tensors.external_of(tensor, where)
        self.any_external = True
        for key in external.unknown:
            if key not in self._unknown_keys:
                self._unknown_keys.add(key)
                self.notes.append(
                    f"{where} has the unknown external data key {key!r}: ignored"
                )
        if self._folder is None:
            raise ModelError(
                "external-no-folder",
                f"{where} has its data in {external.location!r}, and a ModelProto has no "
                "folder.",
                hint="Pass the path of the model, or its folder.",
            )
        source = self._files.get(external.location)
        if source is None:
            source = open_external(
                self._folder, external.location, where, self._allow_hardlinks
            )
            self._files[external.location] = source
        if external.offset + external.size > source.size:
            raise ModelError(
                "external-range",
                f"{where} has its data at bytes {external.offset} to "
                f"{external.offset + external.size} of {os.fspath(source.path)!r}, which has "
                f"{source.size}.",
                hint="The data file is cut off or belongs to another model.",
            )
        return source, external.offset, external.size


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph, subgraph and function body of ``model``."""
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        yield graph
        yield from graph.subgraphs()

"""Types and shapes of intermediate values, from onnx's inference and from the symbolic one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.analysis.symbolic import Shape, Symbols
from graphopt.ir_access import attributes_of
from graphopt.records import graphs_in, nodes_in

__all__ = ["Inferred", "infer", "merged", "shapes_of_run"]

Dims: TypeAlias = "tuple[int | str | None, ...]"

Inferred = tuple[ir.TypeProtocol | None, ir.Shape | None]
"""Type and shape of one value; ``None`` where unknown."""

STANDARD = ("", "ai.onnx")
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def infer(model: ir.Model) -> dict[ir.Value, Inferred]:
    """Return what is known about the values of ``model``.

    Large weights stay where they are: onnx's inference sees the model without their data.
    What the file says about the results of standard operators is not shown to it, because it
    would be believed, and an edited file is often wrong there; it is asked only for what
    neither inference knows. The model is not changed.

    Returns:
        Value -> (type, shape) for every intermediate value that something is known of, in the
        main graph and its subgraphs. A dimension is a number, the name of a dimension of an
        input, or unknown.
    """
    official = _told_by_onnx(model)
    symbols = Symbols(model, official.shapes)
    found: dict[ir.Value, Inferred] = {}
    for node in nodes_in(model.graph):
        for value in node.outputs:
            if not value.name or value.is_graph_output():
                continue
            kind = official.kinds.get(value) or value.type
            dims = symbols.shape(value)
            shape = value.shape if dims is None else _same_or(value.shape, symbols, dims)
            if kind is not None or shape is not None:
                found[value] = (kind, shape)
    return found


def shapes_of_run(
    model: ir.Model, fed: Mapping[str, Sequence[int]]
) -> dict[ir.Value, ir.Shape | None]:
    """Return the shapes of inputs and results of nodes in one run, as far as they are known.

    Args:
        model: The model. It is not changed.
        fed: Name of an input -> its shape; inputs that are missing may have any.
    """
    try:
        said = _told_by_onnx(model).shapes
    except onnx.shape_inference.InferenceError:
        said = {}  # onnx finds a contradiction in the model
    symbols = Symbols(model, said, fed)
    results = (value for node in nodes_in(model.graph) for value in node.outputs)
    found: dict[ir.Value, ir.Shape | None] = {}
    for value in (*model.graph.inputs, *results):
        dims = symbols.shape(value)
        found[value] = None if dims is None else ir.Shape(symbols.recordable(dims))
    return found


def _told_by_onnx(model: ir.Model) -> _Official:
    """Return what onnx's inference knows."""
    proto = onnx.shape_inference.infer_shapes(
        model_io.outline(model, _is_believed),
        check_type=False,
        strict_mode=False,
        data_prop=True,
    )
    official = _Official()
    official.read(model.graph, proto.graph)
    return official


def _is_believed(value: ir.Value) -> bool:
    """Whether onnx is shown what the file says: where it has no rule of its own."""
    producer = value.producer()
    return producer is None or producer.domain not in STANDARD


def _same_or(recorded: ir.Shape | None, symbols: Symbols, shape: Shape) -> ir.Shape:
    """Return ``recorded`` if it says the same as ``shape``, which is what to record."""
    dims = symbols.recordable(shape)
    return recorded if dims_of(recorded) == dims and recorded is not None else ir.Shape(dims)


class _Official:
    """What onnx's inference says of the results of nodes.

    Attributes:
        kinds: Types; one object for all tensors of a type.
        shapes: Shapes, with the sizes that the file knows where the inference does not.
    """

    def __init__(self) -> None:
        self.kinds: dict[ir.Value, ir.TypeProtocol | None] = {}
        self.shapes: dict[ir.Value, Dims | None] = {}
        self._tensors: dict[int, ir.TypeProtocol | None] = {}

    def read(self, graph: ir.Graph, proto: onnx.GraphProto) -> None:
        """Take what ``proto``, which is ``graph``, says."""
        found = {info.name: info.type for info in proto.value_info}
        for node, node_proto in zip(graph, proto.node, strict=True):
            for value in node.outputs:
                kind = found.get(value.name or "")
                if kind is not None and not value.is_graph_output():
                    self._take(value, kind)
            attributes = attributes_of(node).values()
            if any(attr.type in _GRAPHS for attr in attributes):
                by_name = {attr.name: attr for attr in node_proto.attribute}
                for attr in attributes:
                    written = by_name[attr.name]
                    protos = [*written.graphs, *([written.g] if written.HasField("g") else [])]
                    for inner, inner_proto in zip(graphs_in(attr), protos, strict=True):
                        self.read(inner, inner_proto)

    def _take(self, value: ir.Value, kind: onnx.TypeProto) -> None:
        if not kind.HasField("tensor_type"):
            self.kinds[value] = ir.serde.deserialize_type_proto_for_type(kind)
            shape = ir.serde.deserialize_type_proto_for_shape(kind)
            self.shapes[value] = merged_dims(dims_of(shape), dims_of(value.shape))
            return
        tensor = kind.tensor_type
        if tensor.elem_type not in self._tensors:
            self._tensors[tensor.elem_type] = ir.serde.deserialize_type_proto_for_type(kind)
        self.kinds[value] = self._tensors[tensor.elem_type]
        dims = None
        if tensor.HasField("shape"):
            dims = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in tensor.shape.dim
            )
        self.shapes[value] = merged_dims(dims, dims_of(value.shape))


def dims_of(shape: ir.Shape | None) -> Dims | None:
    """Return a shape as a tuple."""
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def merged(known: ir.Shape | None, found: ir.Shape | None) -> ir.Shape | None:
    """Return ``known`` with the dimensions that only ``found`` knows.

    Where both know a size and differ, ``known`` is kept.
    """
    dims = merged_dims(dims_of(known), dims_of(found))
    return None if dims is None else ir.Shape(dims)


def merged_dims(known: Dims | None, found: Dims | None) -> Dims | None:
    """Return ``known`` with the dimensions that only ``found`` knows, as of ``merged``."""
    if known is None or found is None:
        return known if found is None else found
    if len(known) != len(found):
        return known
    return tuple(
        new if old is None or (isinstance(new, int) and not isinstance(old, int)) else old
        for old, new in zip(known, found, strict=True)
    )

"""Checks a whole model, and brings it into the form that ``onnx_ir`` can hold.

What ``onnx_ir`` 1.1 cannot hold is taken out of the proto and kept beside it, so that it can
be put back on writing: sparse tensors, types with maps, training information.
"""

from __future__ import annotations

import dataclasses

import onnx

from graphopt.errors import ModelError
from graphopt.model_io import check_tensors
from graphopt.model_io.check_graph import GraphChecker
from graphopt.model_io.check_nodes import (
    FunctionId,
    Operators,
    check_imports,
    check_text,
    label,
    standard_domain,
    texts_of,
)
from graphopt.model_io.weights import Weights

__all__ = ["Kept", "ModelChecker", "NotOursError"]

OLDEST_IR_VERSION = 3
"""The first version with operator sets; older files cannot be interpreted."""


class NotOursError(Exception):
    """The proto would have to be changed, and it belongs to the caller."""


@dataclasses.dataclass
class Kept:
    """What is kept of a model beside its graph.

    Attributes:
        training_info: Serialized ``TrainingInfoProto`` messages.
        types: Name of a value -> its serialized ``TypeProto``, where that has a map in it.
        external: Whether the model had external data.
        notes: What was put right while reading, in words.
    """

    training_info: list[bytes] = dataclasses.field(default_factory=list)
    types: dict[str, bytes] = dataclasses.field(default_factory=dict)
    external: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)


class ModelChecker:
    """Checks one model.

    Args:
        proto: The model; changed where ``onnx_ir`` cannot hold it as it is.
        weights: Finds the data of tensors that is not in the proto.
        ours: Whether the proto may be changed.
    """

    def __init__(self, proto: onnx.ModelProto, weights: Weights, ours: bool) -> None:
        self.kept = Kept()
        self._proto = proto
        self._weights = weights
        self._ours = ours

    def check(self) -> None:
        """Check the model.

        Raises:
            ModelError: It is not a valid model, or one that cannot be held.
            NotOursError: It must be changed, and may not be.
        """
        proto = self._proto
        check_text("the model", proto.producer_name, proto.producer_version, proto.domain,
                   proto.doc_string, *texts_of(proto.metadata_props))  # fmt: skip
        if not proto.HasField("graph"):
            raise ModelError("no-graph", "the model has no graph.", hint="Export it again.")
        if not OLDEST_IR_VERSION <= proto.ir_version <= onnx.IR_VERSION:
            raise ModelError(
                "ir-version",
                f"the model has the IR version {proto.ir_version}; known are "
                f"{OLDEST_IR_VERSION} to {onnx.IR_VERSION}.",
                hint="Export it for one of those, or install a newer onnx.",
            )
        imports = check_imports(proto.opset_import, "the model")
        functions = _function_ids(proto)
        checker = self._checker(Operators(imports, functions))
        checker.check_graph(proto.graph)
        for value in proto.graph.input:
            if not value.HasField("type") and value.name not in self.kept.types:
                raise ModelError("untyped-input", f"input {value.name!r} has no type.")
        self._note_sorting(checker)
        self._check_functions(imports, functions)
        if any(entry.domain == "ai.onnx" for entry in proto.opset_import):
            self._may_edit()
            for entry in proto.opset_import:
                entry.domain = standard_domain(entry.domain)
        if proto.training_info:
            self.kept.training_info = [
                info.SerializeToString() for info in proto.training_info
            ]
        self.kept.external = self._weights.any_external
        self.kept.notes += self._weights.notes

    def _checker(self, operators: Operators) -> GraphChecker:
        return GraphChecker(operators, self._look_at_graph, self._look_at_attribute,
                            self._may_edit)  # fmt: skip

    def _check_functions(
        self, imports: dict[str, int], functions: dict[FunctionId, onnx.FunctionProto]
    ) -> None:
        calls: dict[FunctionId, set[FunctionId]] = {}
        for key, function in functions.items():
            own = imports
            check_text(
                f"function {function.name!r}",
                *(function.name, function.domain, function.overload, function.doc_string),
                *(*function.attribute, *texts_of(function.metadata_props)),
            )
            if function.opset_import:
                own = check_imports(function.opset_import, f"function {function.name!r}")
            checker = self._checker(Operators(own, functions))
            checker.check_function(function)
            self._note_sorting(checker)
            calls[key] = checker.calls & functions.keys()
        _check_recursion(calls)

    def _note_sorting(self, checker: GraphChecker) -> None:
        self.kept.notes += [
            f"the nodes of {where} were not in order; they were sorted"
            for where in checker.sorted_graphs
        ]

    def _may_edit(self) -> None:
        if not self._ours:
            raise NotOursError

    def _look_at_graph(self, graph: onnx.GraphProto) -> None:
        where = f"graph {graph.name!r}"
        check_text(where, graph.name, graph.doc_string, *texts_of(graph.metadata_props))
        for annotation in graph.quantization_annotation:
            parameters = texts_of(annotation.quant_parameter_tensor_names)
            check_text(where, annotation.tensor_name, *parameters)
        for tensor in graph.initializer:
            self._weights.look_at(tensor, f"initializer {tensor.name!r}", self._may_edit)
        for sparse in graph.sparse_initializer:
            self._may_edit()
            where = f"sparse initializer {sparse.values.name!r}"
            graph.initializer.append(self._weights.take_sparse(sparse, where))
        del graph.sparse_initializer[:]
        for what, values in (
            ("input", graph.input),
            ("output", graph.output),
            ("value", graph.value_info),
        ):
            for value in values:
                self._look_at_type(value, f"{what} {value.name!r}")

    def _look_at_attribute(
        self, node: onnx.NodeProto, index: int, attr: onnx.AttributeProto
    ) -> None:
        where = f"attribute {attr.name!r} of {label(node, index)}"
        if attr.type == onnx.AttributeProto.TENSOR:
            self._weights.look_at(attr.t, where, self._may_edit)
        elif attr.type == onnx.AttributeProto.TENSORS:
            for tensor in attr.tensors:
                self._weights.look_at(tensor, where, self._may_edit)
        elif attr.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
            self._may_edit()
            dense = self._weights.take_sparse(attr.sparse_tensor, where)
            attr.ClearField("sparse_tensor")
            attr.name, attr.type = "value", onnx.AttributeProto.TENSOR
            attr.t.CopyFrom(dense)
        elif attr.type in (
            onnx.AttributeProto.SPARSE_TENSOR,
            onnx.AttributeProto.SPARSE_TENSORS,
        ):
            raise ModelError("unsupported", f"{where} is a sparse tensor.")
        elif attr.type in (onnx.AttributeProto.TYPE_PROTO, onnx.AttributeProto.TYPE_PROTOS):
            for kind in (attr.tp, *attr.type_protos):
                if not self._check_type(kind, where):
                    raise ModelError("unsupported", f"{where} is a type with a map in it.")

    def _look_at_type(self, value: onnx.ValueInfoProto, where: str) -> None:
        check_text(where, value.name, value.doc_string, *texts_of(value.metadata_props))
        if not self._check_type(value.type, where):
            self._may_edit()
            self.kept.types[value.name] = value.type.SerializeToString()
            value.ClearField("type")

    def _check_type(self, kind: onnx.TypeProto, where: str) -> bool:
        """Check a type; return whether ``onnx_ir`` can hold it."""
        check_text(where, kind.denotation)
        which = kind.WhichOneof("value")
        if which in (None, "tensor_type", "sparse_tensor_type"):
            tensor = getattr(kind, which) if which else None
            if tensor is not None and tensor.elem_type:
                check_tensors.dtype_of(tensor.elem_type, where)
                self._look_at_dims(tensor, where)
            return tensor is None or bool(tensor.elem_type)
        if which in ("sequence_type", "optional_type"):
            inner = getattr(kind, which).elem_type
            if inner.WhichOneof("value") is None:
                raise ModelError("element-type", f"{where} is a sequence of nothing.")
            return self._check_type(inner, where)
        return False

    def _look_at_dims(self, tensor: onnx.TypeProto.Tensor, where: str) -> None:
        for dim in tensor.shape.dim:
            check_text(where, dim.dim_param, dim.denotation)
            if dim.dim_value < 0:
                # How some converters write a dimension that is not known.
                self._may_edit()
                dim.ClearField("dim_value")
                self.kept.notes.append(f"{where} had a negative dimension: taken as unknown")


def _function_ids(proto: onnx.ModelProto) -> dict[FunctionId, onnx.FunctionProto]:
    found: dict[FunctionId, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = (standard_domain(function.domain), function.name, function.overload)
        if found.setdefault(key, function) is not function:
            raise ModelError(
                "duplicate-function", f"the model has two functions {function.name!r}."
            )
    return found


def _check_recursion(calls: dict[FunctionId, set[FunctionId]]) -> None:
    done: set[FunctionId] = set()
    for start in calls:
        path: dict[FunctionId, list[FunctionId]] = {start: sorted(calls[start])}
        while path:
            at = next(reversed(path))
            if not path[at]:
                del path[at]
                done.add(at)
                continue
            follow = path[at].pop()
            if follow in path:
                names = [key[1] for key in path]
                cycle = names[list(path).index(follow) :]
                raise ModelError(
                    "recursive-function",
                    f"functions call each other in a circle: "
                    f"{' -> '.join([*cycle, cycle[0]])}.",
                )
            if follow not in done:
                path[follow] = sorted(calls[follow])

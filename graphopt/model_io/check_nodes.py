"""Checks nodes against the operators of the ONNX standard."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

import onnx

from graphopt.errors import ModelError, nearest

__all__ = [
    "FunctionId",
    "Operators",
    "check_imports",
    "check_text",
    "label",
    "standard_domain",
    "texts_of",
]

FunctionId = tuple[str, str, str]
"""Domain, name and overload of a function of the model."""

# Operators that onnxruntime accepts in the ONNX domain beside those of the standard; models
# written by its own tools hold them. Read from onnxruntime 1.31 (get_all_operator_schema).
_RUNTIME_OPERATORS = frozenset({
    "Affine", "Crop", "DynamicSlice", "GRUUnit", "GivenTensorFill", "ImageScaler",
    "LayerNormalization", "MeanVarianceNormalization", "ParametricSoftplus", "Scale",
    "ScaledTanh", "SimplifiedLayerNormalization", "ThresholdedRelu",
})  # fmt: skip
_TYPE_NAMES = {number: name for name, number in onnx.AttributeProto.AttributeType.items()}
# Types whose value cannot be left out; some writers leave out a number that is 0.
_VALUE_FIELD = {
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
}


def standard_domain(domain: str) -> str:
    """Return ``domain``, with the ONNX domain always spelled as the empty string."""
    return "" if domain == "ai.onnx" else domain


def check_text(where: str, *texts: str | bytes) -> None:
    """Check that names and descriptions are text: protobuf gives bytes where they are not.

    Raises:
        ModelError: One of them is not.
    """
    for text in texts:
        if not isinstance(text, str):
            raise ModelError("encoding", f"{where} has text that is not UTF-8: {text!r:.80}.")


def texts_of(entries: Iterable[onnx.StringStringEntryProto]) -> list[str]:
    """Return the keys and values of metadata."""
    return [text for entry in entries for text in (entry.key, entry.value)]


def label(node: onnx.NodeProto, index: int) -> str:
    """Return what a node is called in messages."""
    name = repr(node.name) if node.name else f"#{index}"
    return f"node {name} ({node.op_type})"


def check_imports(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    """Return the operator sets that a model or function imports.

    Raises:
        ModelError: There is none, or one that is not known here.
    """
    known = onnx.defs.C.schema_version_map()
    found: dict[str, int] = {}
    for entry in imports:
        domain = standard_domain(entry.domain)
        if found.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                "opset",
                f"{where} imports the operator set {domain or 'ai.onnx'!r} in versions "
                f"{found[domain]} and {entry.version}.",
            )
        first, last = known.get(domain, (entry.version, entry.version))
        if not first <= entry.version <= last:
            raise ModelError(
                "opset",
                f"{where} imports version {entry.version} of the operator set "
                f"{domain or 'ai.onnx'!r}; known are {first} to {last}.",
                hint="Export for one of those, or install a newer onnx.",
            )
    if not found:
        raise ModelError(
            "no-opset",
            f"{where} does not say which operator set it is written for (opset_import).",
            hint="Export it again.",
        )
    return found


@dataclasses.dataclass(frozen=True)
class _Schema:
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: dict[str, int]
    required: tuple[str, ...]


class Operators:
    """The operators that the nodes of one graph or function may be.

    Args:
        imports: Domain -> version, as ``check_imports`` returns it.
        functions: The functions of the model.
    """

    def __init__(self, imports: dict[str, int], functions: Collection[FunctionId]) -> None:
        self._imports = imports
        self._functions = functions
        self._known: dict[tuple[str, str], _Schema | None] = {}

    def check(self, node: onnx.NodeProto, index: int) -> None:
        """Check one node: operator, number of inputs and outputs, attributes.

        Operators of domains that are not of the standard, and functions of the model, are
        taken as they are.

        Raises:
            ModelError: The node does not fit.
        """
        domain = standard_domain(node.domain)
        key = (domain, node.op_type)
        if key not in self._known:
            self._known[key] = self._find(node, index, domain)
        schema = self._known[key]
        if schema is None or (domain, node.op_type, node.overload) in self._functions:
            self._check_attributes(node, index, None)
            return
        for what, names, (least, most) in (
            ("inputs", node.input, schema.inputs),
            ("outputs", node.output, schema.outputs),
        ):
            if not least <= len(names) <= most:
                expected = f"{least}" if least == most else f"{least} to {most}"
                raise ModelError(
                    f"operator-{what}",
                    f"{label(node, index)} has {len(names)} {what}; expected are {expected}.",
                )
        self._check_attributes(node, index, schema)

    def _find(self, node: onnx.NodeProto, index: int, domain: str) -> _Schema | None:
        if any(name[:2] == (domain, node.op_type) for name in self._functions):
            return None
        version = self._imports.get(domain)
        if version is None:
            raise ModelError(
                "opset",
                f"{label(node, index)} is of the domain {domain or 'ai.onnx'!r}, which the "
                "model does not import.",
            )
        if domain not in onnx.defs.C.schema_version_map():
            return None
        try:
            schema = onnx.defs.get_schema(node.op_type, version, domain)
        except onnx.defs.SchemaError:
            schema = None
        if schema is None or schema.deprecated:
            if not domain and node.op_type in _RUNTIME_OPERATORS:
                return None
            names = {s.name for s in onnx.defs.get_all_schemas() if s.domain == domain}
            gone = schema is not None
            raise ModelError(
                "operator",
                f"{label(node, index)} is no operator of {domain or 'ai.onnx'} {version}"
                + (", which has dropped it." if gone else "."),
                hint="" if gone else nearest(node.op_type, names),
            )
        return _Schema(
            (schema.min_input, schema.max_input),
            (schema.min_output, schema.max_output),
            {name: _number(attr.type) for name, attr in schema.attributes.items()},
            tuple(name for name, attr in schema.attributes.items() if attr.required),
        )

    def _check_attributes(
        self, node: onnx.NodeProto, index: int, schema: _Schema | None
    ) -> None:
        names = set()
        for attr in node.attribute:
            name, kind = attr.name, attr.type
            check_text(label(node, index), name, attr.doc_string, attr.ref_attr_name)
            if name in names:
                raise ModelError(
                    "attribute", f"{label(node, index)} has two attributes {name!r}."
                )
            names.add(name)
            if not kind:
                raise ModelError(
                    "attribute-type", f"{label(node, index)} has no type for {name!r}."
                )
            if schema is not None:
                expected = schema.attributes.get(name)
                if expected is None:
                    raise ModelError(
                        "attribute",
                        f"{label(node, index)} has no attribute {name!r} in the standard.",
                        hint=nearest(name, schema.attributes),
                    )
                if kind != expected:
                    raise ModelError(
                        "attribute-type",
                        f"{label(node, index)} has the attribute {name!r} of type "
                        f"{_type_name(kind)}; expected is {_type_name(expected)}.",
                    )
            field = _VALUE_FIELD.get(kind)
            if field and not attr.ref_attr_name and not attr.HasField(field):
                raise ModelError(
                    "attribute-type",
                    f"{label(node, index)} has the attribute {name!r} without a value.",
                )
        if schema is not None:
            for name in schema.required:
                if name not in names:
                    raise ModelError(
                        "attribute-missing",
                        f"{label(node, index)} lacks the attribute {name!r}, of type "
                        f"{_type_name(schema.attributes[name])}.",
                    )


def _type_name(number: int) -> str:
    return str(_TYPE_NAMES.get(number, number))


def _number(kind: object) -> int:
    # The enumeration of the native module; its stub calls it an int, which it is not: int()
    # has no overload for an object, and what getattr returns has no type.
    return int(getattr(kind, "value", kind))  # type: ignore[call-overload, no-any-return]

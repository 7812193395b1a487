"""Constants and attributes of a graph."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from graphopt.ir_access import attributes_of

__all__ = ["attribute", "is_constant", "tensor_of"]


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a constant, without reading its data; ``None`` for a variable.

    A constant is an initializer that is not a graph input (the caller could override it), or
    the output of a ``Constant`` node.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    producer = value.producer()
    if producer is None or producer.op_type != "Constant" or producer.domain:
        return None
    plain = attributes_of(producer).get("value")
    if plain is not None and plain.type == ir.AttributeType.TENSOR and not plain.is_ref():
        # Not as_tensor(), which looks for each method of the protocol every time.
        return plain.value  # type: ignore[no-any-return]  # what the type says it is
    return ir.convenience.get_const_tensor(value)


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is the same in every run (see ``tensor_of``)."""
    return tensor_of(value) is not None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Return the Python value of an attribute, or ``default`` where it is not set."""
    attr = attributes_of(node).get(name)
    return default if attr is None or attr.is_ref() else attr.value

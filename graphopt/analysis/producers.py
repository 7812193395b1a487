"""What computes a value, if it is an operator that a rule knows."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["producer"]


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that computes ``value`` if it is one of ``op_types`` of the standard."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types and not node.domain else None

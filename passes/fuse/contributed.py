"""Operators of onnxruntime's own domain, ``com.microsoft``."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.analysis.symbolic.expressions import Dim
from graphopt.edit import Edit

__all__ = ["MICROSOFT", "import_microsoft", "is_vector"]

MICROSOFT = "com.microsoft"


def import_microsoft(edit: Edit) -> None:
    """Let the model import the domain, if it does not yet."""
    if MICROSOFT not in edit.model.opset_imports:
        edit.set_opset(MICROSOFT, 1)


def is_vector(value: ir.Value | None, width: Dim, facts: Facts) -> bool:
    """Whether ``value`` is an initializer of the shape ``[width]``: there from the start."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return False
    return facts.shape(value) == (width,)

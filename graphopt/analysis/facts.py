"""What rules ask about a graph: constants, uses, opset, shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, is_constant, tensor_of
from graphopt.analysis.symbolic import Shape, Symbols
from graphopt.ir_access import use_count

if TYPE_CHECKING:
    from graphopt.passbase import Context

__all__ = ["Facts", "attribute", "is_constant", "tensor_of"]


class Facts:
    """A view of one model for the time of one run of a driver.

    Attributes:
        model: The model.
        context: What the run shares; a rule that must execute something asks it.
    """

    def __init__(self, model: ir.Model, context: Context) -> None:
        self.model = model
        self.context = context
        self._symbols: Symbols | None = None

    @property
    def opset(self) -> int:
        """Version of the ONNX operator set that the model imports; 0 where it imports none."""
        return self.model.opset_imports.get("", 0)

    def array(
        self, value: ir.Value | None, max_elements: int | None = None
    ) -> np.ndarray | None:
        """Return the data of a constant; ``None`` for a variable or a larger constant."""
        tensor = tensor_of(value)
        if tensor is None or tensor.dtype == ir.DataType.UNDEFINED:
            return None
        if max_elements is not None and tensor.size > max_elements:
            return None
        return tensor.numpy()

    def only_use(self, value: ir.Value) -> ir.Node | None:
        """Return the one node that uses ``value``, once; ``None`` if it has any other use."""
        if use_count(value) != 1 or value.is_graph_output():
            return None
        return next(iter(value.uses())).node

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return the shape of ``value``, its sizes symbolic; ``None``: its rank is unknown."""
        return self.symbols.shape(value)

    def content(self, value: ir.Value | None) -> np.ndarray | None:
        """Return the elements of a small integer tensor; see ``Symbols.content``."""
        return self.symbols.content(value)

    @property
    def symbols(self) -> Symbols:
        """Symbolic shapes and contents; they stay true when the graph changes."""
        if self._symbols is None:
            self._symbols = Symbols(self.model)
        return self._symbols

    def forget(self) -> None:
        """Drop what was cached and may no longer be true: the graph has changed."""

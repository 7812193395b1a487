"""What is known of shapes, and of small integer tensors, while sizes are symbols.

onnx's shape inference gives up at the first ``Reshape`` whose target is computed from a
``Shape``; here the sizes are polynomials over the dimensions of the graph inputs, and the
integers that exporters compute shapes with are followed as well::

    x: float[batch, seq, 768]
    s = Shape(x)                        content [batch, seq, 768]
    t = Concat(Gather(s, 0), [-1])      content [batch, -1]
    y = Reshape(x, t)                   shape (batch, 768*seq)

What is believed: the sizes of graph inputs, where equal names mean equal sizes, as the ONNX
standard has it, and the rules of the operators. What the file says about other values is only
asked where no rule knows better (so does onnxruntime): an edited file is often wrong there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import tensor_of
from graphopt.analysis.symbolic.base import Shape
from graphopt.analysis.symbolic.compute import COMPUTE_RULES
from graphopt.analysis.symbolic.content import CONTENT_RULES
from graphopt.analysis.symbolic.contributed import CONTRIBUTED_RULES
from graphopt.analysis.symbolic.expressions import Dim, Expr, is_nonnegative, symbol
from graphopt.analysis.symbolic.layout import LAYOUT_RULES

__all__ = ["MAX_ELEMENTS", "Symbols"]

SHAPE_RULES = {
    "": {**LAYOUT_RULES, **COMPUTE_RULES},
    "com.microsoft": CONTRIBUTED_RULES,
}
"""Domain -> operator -> its rule."""

MAX_ELEMENTS = 256
"""Integer tensors with more elements than this are data, and not shapes or indices."""

MIN_OPSET = 7
"""Before this version operators broadcast by an attribute; only the file is asked then."""

_CONTRADICTIONS = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


class Symbols:
    """Shapes and contents of the values of one model, computed when they are asked for.

    What was found stays true as long as every rewrite keeps the value of what it replaces, so
    nothing is forgotten when the graph changes.

    Args:
        model: The model.
        said: Shapes to go by where no rule knows; default: those recorded in the model.
        fed: Name of an input -> its shape in the run in question; default: any run.
    """

    def __init__(
        self,
        model: ir.Model,
        said: Mapping[ir.Value, Sequence[int | str | None] | None] | None = None,
        fed: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.opset = model.opset_imports.get("", 0)
        self._main = model.graph
        self._said = said or {}
        self._fed = fed or {}
        self._names: dict[Dim, str] = {}
        self._shapes: dict[ir.Value, Shape | None] = {}
        self._contents: dict[ir.Value, np.ndarray | None] = {}
        self._visited: set[ir.Node] = set()
        self._sizes: set[Dim] = set()
        self._unknowns = 0

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return the shape of ``value``; ``None`` where not even its rank is known."""
        if value is None:
            return None
        if value not in self._shapes:
            self._find(value)
        return self._shapes[value]

    def content(self, value: ir.Value | None) -> np.ndarray | None:
        """Return the elements of a small tensor of integers or truth values.

        Returns:
            object array of ``int``, ``bool`` and ``Expr`` in the shape of the tensor; ``None``
            where ``value`` is something else, or its shape is not fixed.
        """
        if value is None:
            return None
        if value not in self._contents:
            self._find(value)
        return self._contents[value]

    def recordable(self, shape: Shape) -> tuple[int | str | None, ...]:
        """Return ``shape`` as a model can state it: numbers, and names of input dimensions."""
        return tuple(dim if isinstance(dim, int) else self._names.get(dim) for dim in shape)

    def nonnegative(self, dim: Dim) -> bool:
        """Whether ``dim`` is known to be at least 0: by itself, or because it is a size."""
        return is_nonnegative(dim) or dim in self._sizes

    def unknown(self, *, nonnegative: bool = True, given: bool = False) -> Expr:
        """Return an expression of which nothing is known; no other is equal to it."""
        self._unknowns += 1
        name = f"?{self._unknowns}"
        return symbol(name, nonnegative=nonnegative, opaque=True, given=given)

    def _find(self, value: ir.Value) -> None:
        producer = value.producer()
        if producer is not None:
            self._visit(producer)
        if value not in self._shapes:
            self._shapes[value] = self._given_shape(value)
        if value not in self._contents:
            self._contents[value] = self._given_content(value)

    def _visit(self, node: ir.Node) -> None:
        """Evaluate ``node`` after what feeds it; without recursion, since chains are long."""
        stack = [node]
        opened: set[ir.Node] = set()
        while stack:
            current = stack[-1]
            if current in self._visited:
                stack.pop()
                continue
            if current not in opened:
                opened.add(current)
                pending = [near for near in _feeding(current) if near not in self._visited]
                stack += [near for near in pending if near not in opened]
                if pending:
                    continue
            stack.pop()
            self._visited.add(current)
            self._evaluate(current)

    def _evaluate(self, node: ir.Node) -> None:
        found = self._shapes_of(node)
        for index, value in enumerate(node.outputs):
            shape = found[index] if index < len(found) else None
            self._shapes[value] = shape = self._completed(value, shape)
            # Inside of a subgraph that may never run a size could be impossible.
            if shape is not None and node.graph is self._main:
                self._sizes.update(shape)
        for index, value in enumerate(node.outputs):
            content = self._computed(node) if index == 0 else None
            if content is None:
                content = self._given_content(value)
            else:
                self._shapes[value] = content.shape
            self._contents[value] = content

    def _shapes_of(self, node: ir.Node) -> Sequence[Shape | None]:
        if node.op_type == "Constant" and (tensor := tensor_of(node.outputs[0])) is not None:
            return (tuple(int(dim) for dim in tensor.shape.numpy()),)
        rule = SHAPE_RULES.get(node.domain, {}).get(node.op_type)
        if rule is None or self.opset < MIN_OPSET:
            return ()
        # A node that contradicts itself is for onnxruntime to refuse.
        try:
            return rule(node, self)
        except _CONTRADICTIONS:
            return ()

    def _computed(self, node: ir.Node) -> np.ndarray | None:
        rule = CONTENT_RULES.get(node.op_type)
        if rule is None or node.domain or self.opset < MIN_OPSET:
            return None
        try:
            content = rule(node, self)
        except _CONTRADICTIONS:
            return None
        return content if content is not None and content.size <= MAX_ELEMENTS else None

    def _completed(self, value: ir.Value, shape: Shape | None) -> Shape | None:
        """Return ``shape`` with the sizes that only the file knows."""
        if shape is not None and not any(map(_is_opaque, shape)):
            return shape
        recorded = self._said.get(value, value.shape)
        if shape is None:
            if recorded is None:
                return None
            shape = tuple(self.unknown() for _ in recorded)
        if recorded is None or len(recorded) != len(shape):
            return shape
        return tuple(
            said if isinstance(said, int) and said >= 0 and _is_opaque(dim) else dim
            for dim, said in zip(shape, recorded, strict=True)
        )

    def _given_shape(self, value: ir.Value) -> Shape | None:
        """Return the shape of a value that no node of this model computes."""
        tensor = tensor_of(value)
        if tensor is not None:
            return tuple(int(dim) for dim in tensor.shape.numpy())
        # What a Loop carries into its body may have another shape in each iteration.
        if value.shape is None or value.graph is not self._main:
            return None
        fed = self._fed.get(value.name or "") if value.is_graph_input() else None
        if fed is not None:
            return tuple(fed)
        return tuple(self._input_dim(dim) for dim in value.shape)

    def _input_dim(self, dim: int | ir.SymbolicDim) -> Dim:
        if isinstance(dim, int):
            return dim if dim >= 0 else self.unknown(given=True)
        name = dim.value
        # Some exporters write "?" for each size that they do not know.
        if not isinstance(name, str) or not any(sign.isalnum() for sign in name):
            return self.unknown(given=True)
        found = symbol(name if name.isidentifier() else repr(name), given=True)
        self._names[found] = name
        return found

    def _given_content(self, value: ir.Value) -> np.ndarray | None:
        """Return the elements of a constant, or unknowns for an integer vector that is fed."""
        tensor = tensor_of(value)
        if tensor is not None:
            if tensor.dtype not in (*_INTEGERS, ir.DataType.BOOL):
                return None
            return tensor.numpy().astype(object) if tensor.size <= MAX_ELEMENTS else None
        shape = self._shapes.get(value)
        if shape is None or value.dtype not in _INTEGERS or len(shape) > 1:
            return None
        size = shape[0] if shape else 1
        if not isinstance(size, int) or size > MAX_ELEMENTS:
            return None
        content = np.empty(size, object)
        content[:] = [self.unknown(nonnegative=False) for _ in range(size)]
        return content if shape else content.reshape(())


def _is_opaque(dim: Dim) -> bool:
    return isinstance(dim, Expr) and dim.opaque


def _feeding(node: ir.Node) -> Iterator[ir.Node]:
    yield from node.predecessors()
    if node.op_type == "If":
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH:
                for value in attr.as_graph().outputs:
                    if (producer := value.producer()) is not None:
                        yield producer

"""The weights of a model, as matrices of outputs by inputs."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of
from graphopt.errors import PipelineError

__all__ = ["Place", "Weight", "find_weights", "matches", "place_of", "require_matches"]

_INPUTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "GRU": (1, 2),
    "Gemm": (0, 1),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "RNN": (1, 2),
}
"""Operator -> inputs that may hold a weight."""

_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a constant is that a node reads: its own input, or that of a Transpose before it.

    Attributes:
        node, index: What reads the constant itself.
        axes: For every axis that arrives, which of the constant it is; ``()``: they are the
            same.
        alone: Whether nothing else reads what the Transpose returns.
    """

    node: ir.Node
    index: int
    axes: tuple[int, ...] = ()
    alone: bool = True

    @property
    def value(self) -> ir.Value | None:
        """The constant, or what there is instead."""
        return self.node.inputs[self.index] if self.index < len(self.node.inputs) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A constant that operators multiply with.

    Attributes:
        value: The constant.
        node, index: Its first use as a weight.
        axes: See ``Place``.
        users: All nodes that use it, those behind a Transpose instead of that.
    """

    value: ir.Value
    node: ir.Node
    index: int
    axes: tuple[int, ...]
    users: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        """Name of the constant."""
        return self.value.name or ""

    @property
    def names(self) -> Sequence[str]:
        """What a pattern may match: its name, and names and operators of the users."""
        users = self.users
        return [self.name, *(n.name or "" for n in users), *(n.op_type for n in users)]

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The tensor as it is now."""
        tensor = tensor_of(self.value)
        assert tensor is not None
        return tensor

    def matrix(self, data: np.ndarray) -> np.ndarray:
        """Return ``data``, of the shape of the weight, as ``[outputs, inputs]``; a view."""
        return data.transpose(self._order).reshape(-1, self._inputs)

    def restored(self, matrix: np.ndarray) -> np.ndarray:
        """Return the array of which ``matrix`` is the view ``[outputs, inputs]``."""
        shape = [self.tensor.shape.numpy()[axis] for axis in self._order]
        back = np.argsort(self._order)
        return np.ascontiguousarray(matrix.reshape(shape).transpose(back))

    @property
    def _order(self) -> list[int]:
        """Axes of the constant with the outputs first."""
        axes = self.axes or range(len(self.tensor.shape))
        return [axes[axis] for axis in self._order_read]

    @property
    def _order_read(self) -> list[int]:
        """The same of what arrives at the node."""
        rank = len(self.tensor.shape)
        if self.node.op_type == "MatMul":
            swap = self.index == 1
        elif self.node.op_type == "Gemm":
            transposed = attribute(self.node, "transB" if self.index else "transA", 0)
            swap = (not transposed) if self.index else bool(transposed)
        else:
            # Of a ConvTranspose the inputs come first, the outputs of a group second.
            order = list(range(rank))
            if self.node.op_type == "ConvTranspose":
                order[:2] = [1, 0]
            return order
        last = [rank - 1, rank - 2] if swap else [rank - 2, rank - 1]
        return [*range(rank - 2), *last]

    @property
    def _inputs(self) -> int:
        """Number of inputs of one output."""
        shape = self.tensor.shape.numpy()
        if self.node.op_type in ("Conv", "ConvTranspose"):
            return int(np.prod([shape[axis] for axis in self._order[1:]], dtype=np.int64))
        return int(shape[self._order[-1]])


def place_of(node: ir.Node, index: int) -> Place:
    """Return where the constant is that ``node`` reads there: behind a Transpose, too.

    Exporters leave the weight of a linear layer as ``MatMul(x, Transpose(W))``.
    """
    place = Place(node, index)
    value = place.value
    mover = value.producer() if value is not None else None
    if value is None or mover is None or not _is_transpose(mover):
        return place
    tensor = tensor_of(mover.inputs[0])
    if tensor is None:
        return place
    backwards = range(len(tensor.shape))[::-1]
    axes = tuple(int(axis) for axis in attribute(mover, "perm", backwards))
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return Place(mover, 0, axes, alone)


def _is_transpose(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and node.domain in ("", "ai.onnx")


def find_weights(model: ir.Model) -> list[Weight]:
    """Return every floating-point constant that is a weight, in graph order, each once."""
    found: dict[ir.Value, Weight] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        for index in _INPUTS.get(node.op_type, ()):
            place = place_of(node, index)
            value, tensor = place.value, tensor_of(place.value)
            if value is None or tensor is None or value in found:
                continue
            if tensor.dtype in _FLOATS and len(tensor.shape) >= 2 and tensor.size:
                users = tuple(dict.fromkeys(_users(value)))
                found[value] = Weight(value, node, index, place.axes, users)
    return list(found.values())


def _users(value: ir.Value) -> Iterator[ir.Node]:
    for use in value.uses():
        if not _is_transpose(use.node):
            yield use.node
            continue
        behind = [use.node for use in use.node.outputs[0].uses()]
        yield from behind or [use.node]


def matches(weight: Weight, patterns: Iterable[str]) -> str:
    """Return the first pattern that matches the weight or one of its users, or ``""``."""
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(name, pattern) for name in weight.names):
            return pattern
    return ""


def require_matches(names: Iterable[str], **options: Iterable[str]) -> None:
    """Check that every pattern of ``options`` matches one of ``names``.

    Raises:
        PipelineError: One does not; a spelling mistake would change what is pruned.
    """
    known = sorted(set(names))
    for option, patterns in options.items():
        for pattern in patterns:
            if any(fnmatch.fnmatchcase(name, pattern) for name in known):
                continue
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3)
            raise PipelineError(
                "pattern",
                f"{option} {pattern!r} matches no node, operator or weight to prune.",
                hint=f"Nearest: {', '.join(map(repr, near))}." if near else "",
            )

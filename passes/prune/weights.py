"""The weights of a model, as matrices of outputs by inputs."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of
from graphopt.errors import PipelineError

__all__ = ["Weight", "find_weights", "matches", "require_matches"]

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


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A constant that operators multiply with.

    Attributes:
        value: The constant.
        node, index: Its first use as a weight.
        users: All nodes that use it.
    """

    value: ir.Value
    node: ir.Node
    index: int
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
        """Axes with the outputs first."""
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


def find_weights(model: ir.Model) -> list[Weight]:
    """Return every floating-point constant that is a weight, in graph order, each once."""
    found: dict[ir.Value, Weight] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        for index in _INPUTS.get(node.op_type, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            tensor = tensor_of(value)
            if value is None or tensor is None or value in found:
                continue
            if tensor.dtype in _FLOATS and len(tensor.shape) >= 2 and tensor.size:
                users = tuple(dict.fromkeys(use.node for use in value.uses()))
                found[value] = Weight(value, node, index, users)
    return list(found.values())


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

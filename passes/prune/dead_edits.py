"""What takes the place of channels that carry nothing: sums of weights, and biases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.coupling.cut import drop_unused
from graphopt.edit import Edit

from .compaction import Compactor
from .dead import Read, Reads

__all__ = ["Absorption", "can_absorb"]


def can_absorb(read: Read) -> bool:
    """Whether a constant that enters a sum can be added to what comes out of it."""
    node = read.node
    if node.domain:
        return False
    if node.op_type == "Conv":
        padded = any(attribute(node, "pads", ()))
        whole = attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return (
            not padded
            and whole
            and attribute(node, "group", 1) == 1
            and (bias is None or tensor_of(bias) is not None)
        )
    if node.op_type == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        known = bias is None or tensor_of(bias) is not None
        return read.index == 1 and known and attribute(node, "beta", 1.0) == 1.0
    if node.op_type == "MatMul":
        return read.index == 1 and read.site is not None and len(read.site.axes) == 2
    return False


class Absorption:
    """Indices of a group that go, and the edits that make up for them.

    Args:
        reads: How the indices of the group are used.
        unread: Which indices nothing depends on, bool ``[size]``.
        constants: Index -> its constant at every sum that it ends in.
        copies: Index -> the index that it is a copy of.

    Attributes:
        removed: The indices that go, ascending.
        adds_constants: Whether a constant comes in that no analysis knows.
    """

    def __init__(
        self,
        reads: Reads,
        unread: np.ndarray,
        constants: dict[int, list[float]],
        copies: dict[int, int],
    ) -> None:
        self.reads = reads
        size = reads.group.size
        # One index stays; if all could go, the last one does not.
        gone = {i for i in range(size) if unread[i]} | set(constants) | set(copies)
        if len(gone) == size:
            gone.discard(max(gone))
        if any(read.site is not None and len(read.site.uses) > 1 for read in reads.reads):
            # A shared matrix is not changed.
            gone -= set(copies)
        self.removed = sorted(gone)
        self._constants = {
            i: value for i, value in constants.items() if i in gone and not unread[i]
        }
        self._copies = {i: j for i, j in copies.items() if i in gone}
        self.adds_constants = any(
            any(values[k] for values in self._constants.values()) and _lacks_bias(read)
            for k, read in enumerate(reads.reads)
        )

    def prepare(self, compactor: Compactor) -> Callable[[Edit], None]:
        """Return the edits to make before the indices are removed."""

        def rewrite(edit: Edit) -> None:
            for k, read in enumerate(self.reads.reads):
                if read.site is None:
                    continue
                alive = compactor.alive(read.site.axes[read.axis])
                position = read.position[alive]
                values = np.zeros(self.reads.group.size)
                for index, constants in self._constants.items():
                    values[index] = constants[k]
                if values.any():
                    _add_to_bias(edit, read, position, values)
                if self._copies:
                    _add_copies(edit, read, position, self._copies)

        return rewrite


def _lacks_bias(read: Read) -> bool:
    node = read.node
    return node.op_type == "MatMul" or len(node.inputs) < 3 or node.inputs[2] is None


def _weight(read: Read) -> tuple[ir.Value, np.ndarray]:
    value = read.node.inputs[read.index]
    tensor = tensor_of(value)
    assert value is not None
    assert tensor is not None
    return value, tensor.numpy()


def _add_copies(edit: Edit, read: Read, position: np.ndarray, copies: dict[int, int]) -> None:
    """Let each kept index be read by the weights of its copies, too."""
    value, data = _weight(read)
    rows = np.moveaxis(data.astype(np.float64), read.axis, 0).copy()
    for index, kept in sorted(copies.items()):
        rows[position == kept] += rows[position == index]
    new = np.moveaxis(rows, 0, read.axis).astype(data.dtype)
    _set(edit, read.node, read.index, value, np.ascontiguousarray(new))


def _add_to_bias(edit: Edit, read: Read, position: np.ndarray, values: np.ndarray) -> None:
    """Add what constants contribute to the sum to what comes out of it."""
    node = read.node
    _, data = _weight(read)
    rows = np.moveaxis(data.astype(np.float64), read.axis, 0)
    there = position >= 0
    each = rows[there] * values[position[there]].reshape(-1, *[1] * (rows.ndim - 1))
    total = each.sum(axis=0)
    if node.op_type == "Conv":
        # What is left is [outputs, kernel...].
        total = total.reshape(total.shape[0], -1).sum(axis=1)
    elif node.op_type == "Gemm":
        total = total * float(attribute(node, "alpha", 1.0))
    if node.op_type == "MatMul":
        _add_after(edit, node, total.astype(data.dtype))
        return
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = tensor_of(bias)
    old = np.zeros((), data.dtype) if tensor is None else tensor.numpy()
    new = (old + total).astype(data.dtype)
    name = (bias.name if bias is not None else "") or f"{node.name or 'node'}_bias"
    edit.set_input(node, 2, edit.constant(new, name, near=node))
    if bias is not None:
        drop_unused(edit, bias)


def _add_after(edit: Edit, node: ir.Node, vector: np.ndarray) -> None:
    """Add ``vector`` to what ``node`` returns."""
    (y,) = node.outputs
    constant = edit.constant(vector, f"{node.name or 'node'}_bias", near=node)
    (new,) = edit.node("Add", [y, constant], after=node, like=[y])
    edit.replace(y, new)


def _set(edit: Edit, node: ir.Node, index: int, value: ir.Value, data: np.ndarray) -> None:
    if value.is_initializer() and len(value.uses()) == 1:
        edit.set_tensor(value, data)
    else:
        edit.set_input(node, index, edit.constant(data, value.name or "weight", near=node))

"""Which nodes ``fold-constants`` folds and what that may cost; its page is the contract."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.constants import tensor_of
from graphopt.analysis.cost import weights
from graphopt.ir_access import attributes_of, is_used, use_count
from graphopt.rewrite import Reason

__all__ = ["SMALL_BYTES", "Budget", "refusal_of"]

NEVER = {
    # Another answer each time.
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
    # Would undo a quantization.
    "DequantizeLinear",
}  # fmt: skip

GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
SMALL_BYTES = 64
"""A result of this size costs nothing: the node that computed it took as much in the file."""
MANY_USES = 64
"""Each user of a constant looks at all the others; beyond this that would take long."""


class Budget:
    """The bytes that a run may still make the file grow by."""

    def __init__(self, max_bytes: int, max_share: float) -> None:
        self._most: int | None = None
        self._max_bytes, self._max_share = max_bytes, max_share
        self._spent = 0
        self._made: dict[ir.Value, int] = {}

    def allowed(self, node: ir.Node, model: ir.Model, wanted: int) -> int:
        """Return how large the results of ``node``, ``wanted`` bytes, may be."""
        if self._most is None:
            stored = sum(tensor.nbytes for tensor in weights(model))
            self._most = self._max_bytes + int(self._max_share * stored)
        freed = freed_bytes(node)
        if wanted > self._most - self._spent + freed:
            # A normalization that is fused takes its constants with it.
            for value in [value for value in self._made if not is_used(value)]:
                self._spent -= self._made.pop(value)
        return max(self._most - self._spent + freed, SMALL_BYTES)

    def spend(self, node: ir.Node, size: int) -> None:
        """Take note that ``node``, still in its graph, becomes constants of ``size`` bytes."""
        self._spent += (size if size > SMALL_BYTES else 0) - freed_bytes(node)
        for value in node.inputs:
            if value is not None and use_count(value) == 1:
                self._made.pop(value, None)  # counted as freed

    def made(self, value: ir.Value, size: int) -> None:
        """Remember what was added to the file."""
        self._made[value] = size


def freed_bytes(node: ir.Node) -> int:
    """Return the bytes of the initializers that are not needed any more without ``node``.

    One that several nodes use, all of which can be folded, is freed in equal parts; one that
    many use counts for nothing.
    """
    freed = 0
    for value in dict.fromkeys(node.inputs):
        if value is None or not value.is_initializer() or value.is_graph_output():
            continue
        if value.const_value is None or use_count(value) > MANY_USES:
            continue
        users = value.consumers()
        if all(user is node or is_foldable(user) for user in users):
            freed += value.const_value.nbytes // len(users)
    return freed


def is_foldable(node: ir.Node) -> bool:
    if refusal_of(node) is not None:
        return False
    return all(value is None or tensor_of(value) is not None for value in node.inputs)


def refusal_of(node: ir.Node) -> Reason | None:
    """Return why ``node`` is not folded even where its inputs are constants."""
    # 2.
    if node.domain:
        return Reason(f"operators of domain {node.domain!r} are not folded")
    if node.op_type in NEVER:
        return Reason(f"{node.op_type} is never folded")
    if node.op_type == "Dropout" and len(node.inputs) > 2:
        return Reason("a Dropout in training mode gives another answer each time")
    if any(
        v is not None and v.dtype == ir.DataType.STRING for v in (*node.inputs, *node.outputs)
    ):
        return Reason("strings are not folded")
    if any(attr.type in GRAPHS for attr in attributes_of(node).values()):
        return Reason("it holds a subgraph")
    # 3.
    if node.op_type == "Identity" and node.outputs[0].is_graph_output():
        return Reason("it is a graph output")
    if any(value.is_graph_output() and value.type is None for value in node.outputs):
        return Reason("the type of a graph output is not known")
    return None

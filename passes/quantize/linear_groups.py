"""Products with constant weights, grouped by the activation they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy.typing as npt
import onnx_ir as ir

from graphopt.edit import Edit
from graphopt.rewriter import Rewriter

from .linear import Linear, read_linear
from .selection import Selection

__all__ = ["linear_groups", "readers_of", "set_weight"]


class _Patterns(Protocol):
    """A pass with the options that say which operators it is for."""

    @property
    def name(self) -> str: ...
    @property
    def include(self) -> tuple[str, ...]: ...
    @property
    def exclude(self) -> tuple[str, ...]: ...


def linear_groups(
    model: ir.Model, pass_: _Patterns, rewriter: Rewriter
) -> dict[str, list[Linear]]:
    """Return name of an activation of the main graph -> the products that read it.

    A group is left out, with a reason in the ledger, if an operator outside of it uses one of
    its weights: the weight could not be changed without changing that.
    """
    selection = Selection(pass_.include, pass_.exclude)
    selection.check(model.graph)
    groups: dict[str, list[Linear]] = {}
    for node in model.graph:
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        linear = read_linear(node)
        if not isinstance(linear, Linear):
            continue
        if refusal := selection.refusal(node):
            rewriter.skip(pass_.name, node, refusal)
        else:
            groups.setdefault(linear.x.name or "", []).append(linear)
    for name, group in list(groups.items()):
        nodes = {linear.node for linear in group}
        for linear in group:
            if not set(readers_of(linear.weight)) <= nodes:
                text = f"another operator uses the weight {linear.weight.name!r}"
                rewriter.skip(pass_.name, group[0].node, text)
                del groups[name]
                break
    return groups


def readers_of(weight: ir.Value) -> Iterator[ir.Node]:
    """Yield the operators that use the constant ``weight``, also behind a Transpose."""
    for node in weight.consumers():
        if node.op_type == "Transpose" and not node.outputs[0].is_graph_output():
            yield from node.outputs[0].consumers()
        else:
            yield node


def set_weight(edit: Edit, linear: Linear, data: npt.NDArray[Any]) -> ir.Value:
    """Give the weight of ``linear`` other elements, and return the value that holds them.

    Args:
        edit: The transaction.
        linear: The operator.
        data: The weight as it is stored.
    """
    if linear.weight.is_initializer():
        edit.set_tensor(linear.weight, data)
        return linear.weight
    # The output of a Constant node.
    near = linear.weight.producer()
    assert near is not None
    constant = edit.constant(data, f"{linear.weight.name}_scaled", near=near)
    edit.replace(linear.weight, constant)
    edit.remove(near)
    return constant

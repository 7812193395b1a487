"""Merge the products of one tensor with several weights into one ``MatMul`` and a ``Split``.

Before -> after, as in queries, keys and values, ``W`` the weights side by side, ``b`` the
biases end to end, and zeros where there is none::

    q = Add(MatMul(x, Wq), bq)
    k = MatMul(x, Wk)                         y = Add(MatMul(x, W), b)
    v = Add(MatMul(x, Wv), bv)      ->        q, k, v = Split<axis = -1>(y)

The same with ``Gemm``. It saves nodes and starts fewer kernels, which counts on accelerators;
on the CPU it is no faster, since ``Split`` copies (docs/fusion.md), and so it is in no preset
for it.

Preconditions, per merge:
    1. The first input is the same value; all are in one graph, of one operator, one type and,
       as ``Gemm``, with the same attributes.
    2. Weights are initializers, matrices of floats, and nothing else uses them: a second copy
       would make the file grow.
    3. A bias is a constant of one element a column, and the ``Add`` the only use of the
       product; another ``Add`` stays behind. Another bias of a ``Gemm`` keeps it apart.
    4. The rank of ``x`` is known, and above 1.

Numerics: close. Measured: rtol 1e-6 of the largest output.
Scope: main graph and subgraphs; model-local functions are not visited.
Reference: https://onnx.ai/onnx/operators/onnx__Split.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute
from graphopt.edit import AttributeValue, Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .products import Product, biases_of, product_of, weights_of

__all__ = ["MergeMatMuls"]

SIZES_AS_INPUT = 13
"""Version from which ``Split`` takes its sizes as an input."""

SETTINGS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


@dataclasses.dataclass(frozen=True)
class MergeMatMuls(RulePass):
    """Merge products of one tensor; see the module docstring for the contract."""

    name: ClassVar[str] = "merge-matmuls"
    promise: ClassVar[Promise] = Promise.CLOSE

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        del context
        return [Rule("one-matmul", ("MatMul", "Gemm"), _match)]


def _match(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    x = node.inputs[0]
    if x is None or len(x.consumers()) < 2:
        return None
    # 2. and 3.
    own = product_of(node, facts)
    if own is None or isinstance(own, Reason):
        return own
    # 4.
    shape = facts.shape(x)
    if shape is None or len(shape) < 2:
        return Reason("the rank of its input is not known, or 1")
    # 1.
    alike = [
        other
        for other in x.consumers()
        if (other.op_type, other.domain, other.graph) == (node.op_type, "", node.graph)
        and other.inputs[0] is x
    ]
    found = [own if other is node else product_of(other, facts) for other in alike]
    products = [one for one in found if isinstance(one, Product) and _fits(one, own)]
    if len(products) < 2:
        return Reason("no other product of its input fits")

    def rewrite(edit: Edit) -> None:
        results = _split(edit, x, products, axis=len(shape) - 1, facts=facts)
        for one, result in zip(products, results, strict=True):
            edit.supersede(one.last, result)
            if one.last is not one.node:
                edit.remove(one.node)

    return rewrite


def _fits(one: Product, other: Product) -> bool:
    """Whether two products of one tensor can be one."""
    first, second = (
        [attribute(each.node, name, default) for name, default in SETTINGS.items()]
        for each in (one, other)
    )
    return one.weight.dtype == other.weight.dtype and first == second


def _split(
    edit: Edit, x: ir.Value, products: Sequence[Product], axis: int, facts: Facts
) -> tuple[ir.Value, ...]:
    """Insert the one product behind ``x``, before all others, and return its parts."""
    node, graph = products[0].node, products[0].node.graph
    assert graph is not None
    source = x.producer()
    after = source if source is not None and source.graph is graph else None
    before = graph[0] if after is None else None
    near = after or graph[0]
    inputs = [x, edit.constant(weights_of(products), "weights", near=near)]
    bias = None
    if any(one.bias is not None for one in products):
        bias = edit.constant(biases_of(products), "biases", near=near)
    if bias is not None and node.op_type == "Gemm":
        inputs.append(bias)
    like = ir.Value(name=f"{x.name}_products", type=node.outputs[0].type)
    (y,) = edit.node(
        node.op_type,
        inputs,
        before=before,
        after=after,
        attributes={**node.attributes},
        like=[like],
        name=node.name or "",
    )
    if bias is not None and node.op_type == "MatMul":
        (y,) = edit.node("Add", [y, bias], after=y.producer(), like=[like])
    sizes = [one.columns for one in products]
    attributes: dict[str, AttributeValue] = {"axis": axis}
    parts: list[ir.Value | None] = [y]
    if facts.opset < SIZES_AS_INPUT:
        attributes["split"] = sizes
    else:
        parts.append(edit.constant(np.array(sizes, np.int64), "split", near=near))
    return edit.node(
        "Split",
        parts,
        after=y.producer(),
        attributes=attributes,
        outputs=len(products),
        like=[one.last.outputs[0] for one in products],
    )

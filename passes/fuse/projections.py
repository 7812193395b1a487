"""Queries, keys and values that are products of one tensor with constants."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit

from .attention.find import Attention
from .products import Product, biases_of, product_of, weights_of

__all__ = ["Projections", "find_projections"]


@dataclasses.dataclass(frozen=True)
class Projections:
    """``x`` times the weights of queries, keys and values, plus their biases.

    Attributes:
        x: float32 [batch, length, width].
        products: Those of queries, keys and values; or the one that gives all three.
        sizes: Columns of queries, keys and values.
    """

    x: ir.Value
    products: tuple[Product, ...]
    sizes: tuple[int, int, int]

    def inputs(self, edit: Edit, near: ir.Node) -> list[ir.Value | None]:
        """Return x, weights and biases as ``com.microsoft.Attention`` takes them."""
        # onnxruntime reads the bias, which its schema calls optional, without asking.
        biases = edit.constant(biases_of(self.products), "biases", near=near)
        weights = self.products[0].node.inputs[1]
        if len(self.products) > 1:
            weights = edit.constant(weights_of(self.products), "weights", near=near)
        return [self.x, weights, biases]


def find_projections(found: Attention, facts: Facts) -> Projections | None:
    """Return what queries, keys and values are projections of, if it is one tensor.

    The projections serve this attention alone.
    """
    forms = (found.q, found.k, found.v)
    widths = [form.width * form.heads for form in forms if isinstance(form.width, int)]
    sizes = [size for size in widths if isinstance(size, int)]
    if (
        len(sizes) < 3
        or found.pasts
        or any(form.rank != 3 or not form.exact for form in forms)
    ):
        return None
    parts = {(form.value, form.part) for form in forms}
    packed = [form.parts for form in forms] == [3, 3, 3]
    if packed and [form.part for form in forms] != [0, 1, 2]:
        return None
    values = list(dict.fromkeys(form.value for form in forms))
    if len(parts) != 3 or len(values) != (1 if packed else 3):
        return None
    products = [_projection(value, found, facts) for value in values]
    whole = tuple(one for one in products if one is not None)
    sources = {one.node.inputs[0] for one in whole}
    x = next(iter(sources), None)
    shape = facts.shape(x)
    if len(whole) < len(products) or len(sources) > 1 or x is None or shape is None:
        return None
    return Projections(x, whole, (sizes[0], sizes[1], sizes[2])) if len(shape) == 3 else None


def _projection(value: ir.Value, found: Attention, facts: Facts) -> Product | None:
    """Return the product that ``value`` is, if only the attention uses it."""
    node = value.producer()
    sources = (
        [node]
        if node is None or node.op_type != "Add"
        else [one.producer() for one in node.inputs if one is not None]
    )
    for source in sources:
        if source is None or source.op_type != "MatMul" or source.domain:
            continue
        product = product_of(source, facts)
        if isinstance(product, Product) and product.last is node:
            alone = not value.is_graph_output() and found.between(value) is not None
            return product if alone else None
    return None

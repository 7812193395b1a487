"""The analysis: what a ``Softmax`` is the middle of, if it is the middle of an attention.

``softmax(scale * Q K^T + masks) V``: queries, keys and values are followed back through layout
and constant factors, masks are recognized as additions and ``Where``, and the result is
followed ahead to where its heads are together again. Found are many heads and one, groups of
queries that share keys and values by ``Expand`` or by broadcasting, three tensors or one that
holds all three, four dimensions or batch and heads in one.
"""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.rewrite import Reason

from .axes import Axis, View
from .masks import Mask
from .operands import Form, forms
from .results import forms_ahead
from .scores import (
    probabilities_of,
    runs_over_last_axis,
    score_view,
    scores_of,
    views_of_factors,
)

__all__ = ["Attention", "find_attention"]

MOST = 32
"""Operators of layout, and of its shapes, between a tensor and a product of the attention."""


@dataclasses.dataclass(frozen=True)
class Attention:
    """One attention.

    Attributes:
        q, k, v: Queries, keys and values; of one rank.
        result: What it gives, of that rank.
        scale: What the product of queries and keys is multiplied by.
        masks: What is added to the scores after that.
        guarded: Whether queries without any finite score get 0 rather than ``NaN``.
        nodes: What computes scores, probabilities and result, and nothing else uses.
        product: The last of them to need an operand.
    """

    q: Form
    k: Form
    v: Form
    result: Form
    scale: float
    masks: tuple[Mask, ...]
    guarded: bool
    nodes: tuple[ir.Node, ...]
    product: ir.Node

    @property
    def pasts(self) -> tuple[ir.Value, ir.Value] | None:
        """Keys and values from before, where there are."""
        if self.k.past is None or self.v.past is None:
            return None
        return self.k.past, self.v.past

    def between(self, value: ir.Value) -> list[ir.Node] | None:
        """Return what is made of ``value`` for ``nodes``; ``None`` if it leads elsewhere."""
        found: dict[ir.Node, None] = {}
        waiting = [value]
        while waiting:
            for user in waiting.pop().consumers():
                if user in self.nodes or user in found:
                    continue
                found[user] = None
                if len(found) > MOST or any(one.is_graph_output() for one in user.outputs):
                    return None
                waiting += user.outputs
        return list(found)

    @property
    def heads(self) -> int:
        """Heads of the queries."""
        assert isinstance(self.q.heads, int)
        return self.q.heads

    @property
    def shared_heads(self) -> int:
        """Heads of keys and values, each of which serves as many heads of queries."""
        assert isinstance(self.k.heads, int)
        return self.k.heads


def find_attention(
    softmax: ir.Node, facts: Facts, *, past: bool = True
) -> Attention | Reason | None:
    """Return the attention around ``softmax``, the reason why it is none, or ``None``.

    Args:
        softmax: The node.
        facts: Facts of the model.
        past: Whether keys and values may be those from before and new ones, joined.
    """
    shape = facts.shape(softmax.inputs[0])
    if shape is None or len(shape) not in (3, 4):
        return None
    if not runs_over_last_axis(softmax, len(shape), facts.opset):
        return None
    view = score_view(shape)
    scores = scores_of(softmax, view, facts)
    if scores is None or isinstance(scores, Reason):
        return scores
    found = probabilities_of(softmax, view, facts)
    if isinstance(found, Reason):
        return found
    by = found.guarded_by
    if by is not None and [(one.value, one.fill) for one in scores.masks] != [(by, None)]:
        return Reason("rows are made 0 by another mask than that of the scores")
    if not (_is_of_scores(scores.view) and _is_of_scores(found.view)):
        return Reason("the Softmax is not along the keys alone")
    keys, values = scores.product, found.product
    width, value_width = _last_size(keys.inputs[0], facts), _last_size(values.inputs[1], facts)
    if width is None or value_width is None:
        return Reason("the width of a head is not known")
    of_keys = views_of_factors(keys, scores.view, Axis("width", width), facts)
    result_width = Axis("width", value_width)
    after: View = (*found.view[:-1], (result_width,) if value_width != 1 else ())
    column = found.view[-1][0] if found.view[-1] else Axis("column", 1)
    of_values = views_of_factors(values, after, column, facts)
    if of_keys is None or of_values is None:
        return Reason("the shapes of the products are not known")
    operands = [(keys.inputs[0], of_keys[0]), (keys.inputs[1], of_keys[1])]
    operands.append((values.inputs[1], of_values[1]))
    q, k, v = (list(_forms_of(value, *view, facts)) for value, view in operands)
    v = [form for form in v if form.scale == 1.0]
    results = list(forms_ahead(values.outputs[0], after, facts))
    chosen = _choice(q, k, v, results) if past else None
    if chosen is None:
        k, v = ([form for form in several if form.past is None] for several in (k, v))
        chosen = _choice(q, k, v, results)
    if chosen is None:
        return Reason("queries, keys, values and result are not divided into the same heads")
    scale = scores.scale * chosen[0].scale * chosen[1].scale
    if not 0 < scale < math.inf:
        return Reason(f"scores are scaled by {scale:g}")
    nodes = [*scores.nodes, *found.nodes, values, *_behind(values, chosen[3].last)]
    guarded = found.guarded or by is not None
    return Attention(
        *chosen, scale, scores.masks, guarded, tuple(dict.fromkeys(nodes)), values
    )


def _is_of_scores(view: View) -> bool:
    """Whether the last two dimensions are queries and keys, and no others are."""
    roles = [{axis.role for axis in group} for group in view]
    lead, row, column = set().union(*roles[:-2]), roles[-2], roles[-1]
    return lead <= {"lead"} and row <= {"row"} and column <= {"column"} and len(view[-1]) < 2


def _last_size(value: ir.Value | None, facts: Facts) -> int | None:
    shape = facts.shape(value)
    return shape[-1] if shape and isinstance(shape[-1], int) else None


def _forms_of(
    value: ir.Value | None, view: View, repeated: list[Axis], facts: Facts
) -> list[Form]:
    return [] if value is None else list(forms(value, view, facts, repeated))


def _choice(
    q: list[Form], k: list[Form], v: list[Form], results: list[Form]
) -> tuple[Form, Form, Form, Form] | None:
    """Return forms that fit together, the most heads first, and rank 3 rather than 4."""
    many = [*reversed(q)]
    many.sort(key=lambda form: -form.heads if isinstance(form.heads, int) else 0)
    for rank in (3, 4):
        for queries in many:
            heads = queries.heads
            if queries.rank != rank or queries.repeats != 1 or not isinstance(heads, int):
                continue
            key = _fitting(k, queries)
            value = _fitting(v, queries)
            result = _fitting([one for one in results if one.exact or rank == 3], queries)
            if key is None or value is None or result is None or result.repeats != 1:
                continue
            if (key.heads, key.past is None) != (value.heads, value.past is None):
                continue
            if len({key.parts, value.parts, queries.parts}) == 1:
                return queries, key, value, result
    return None


def _fitting(several: list[Form], queries: Form) -> Form | None:
    """Return the last form that is divided like ``queries``; one tensor of its own first."""
    fit = [
        form
        for form in several
        if form.rank == queries.rank
        and form.batch == queries.batch
        and isinstance(form.heads, int)
        and form.heads * form.repeats == queries.heads
        and (form.parts == queries.parts or form.last is not None)
    ]
    best = [form for form in fit if form.exact] or fit
    return best[-1] if best else None


def _behind(first: ir.Node, last: ir.Node | None) -> list[ir.Node]:
    """Return the nodes of the chain of only uses that leads from ``first`` to ``last``."""
    nodes: list[ir.Node] = []
    node = first
    while node is not last:
        node = next(iter(node.outputs[0].uses())).node
        nodes.append(node)
    return nodes

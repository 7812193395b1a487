"""Fuse attention, however it is spelled, into one operator.

Before -> after, ``q``, ``k``, ``v``: ``float[batch, length, heads * width]``::

    Q = Transpose(Reshape(q)); K = ...; V = ...
    s = Add(Mul(MatMul(Q, K), scale), mask)
    y = MatMul(Softmax(s), V)
    z = Reshape(Transpose(y))        ->  z = Attention<q_num_heads, scale>(q, k, v, mask)

What counts is what is computed (``attention/find.py``): scale on queries, keys or scores; mask
added or by ``Where``; heads split and merged by any ``Reshape``, ``Transpose`` ...; keys and
values repeated by ``Expand``, or joined with those from before; ``NaN`` of rows without a key
made 0 or not.

``emit=standard`` writes ``Attention`` of opset 23; ``emit=onnxruntime``, which the run may ask
for as well, writes ``com.microsoft.MultiHeadAttention`` where that is as good or better: it
alone does not store the scores of long sequences, as long as there is no mask. With
``projections`` it writes ``com.microsoft.Attention``, wherever queries, keys and values are
products of one tensor with constants: the fewest nodes, what kernels of accelerators are made
for, and slower on the CPU::

    q = Add(MatMul(x, Wq), bq); k = ...; v = ...
    z = ...             ->  z = com.microsoft.Attention<num_heads, scale>(x, W, b, ..., mask)

Preconditions, per match:
    1. Nothing else uses the scores, the probabilities and what is between them and the result.
    2. It is ``softmax(scale * Q K^T + masks) V`` along the last axes, with a scale above 0.
       Masks add no dimension; what ``Where`` puts in is beyond all scores, and where that is
       finite, the scores were not masked before.
    3. Queries, keys, values and result have the same batch and number of heads; those of keys
       and values may be repeated, each for queries that follow each other.
    4. The type is float32 or float16: onnxruntime has no kernels of others.
    5. A mask has the dimensions batch, heads, queries and keys, or fewer with no batch and
       heads to tell apart.
    6. The operator answers like the graph for a query that may look at no key: its scores are
       all ``-inf`` (0 in ``Attention``; ``NaN`` in ``MultiHeadAttention`` and ``Softmax``), or
       all the lowest number (the mean of the values; in ``Attention`` from -3e38 up). In
       float16 ``Attention`` adds low masks in that type, and takes none but ``-inf``.
    7. ``Attention``: the model imports opset 23. Those of ``com.microsoft``: keys and values
       are not repeated, and heads come from a tensor of rank 3.
    8. Keys and values from before, in front of new ones by ``Concat``, are taken in where
       they are as many, nothing in between uses both together, no queries and no mask are made
       of it, and a mask is as long as both; else the ``Concat`` stays. For
       MultiHeadAttention keys are as wide as values.
    9. Projections: the weights are of rank 2, and nothing but this attention uses them or what
       they give; of one weight for all three, queries come first and values last.

Numerics: close where queries and keys are finite; measured: rtol 1e-5 of the largest output,
5e-3 in float16.
Lengths are above 0: of none, ``Attention`` of onnxruntime raises; MultiHeadAttention does not.
Scope: main graph and subgraphs.   Leaves alone: dropout in training, other axes of Softmax.
Reference: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise, Target
from graphopt.rewrite import Reason, Rule, RulePass

from .attention.emit import add_masks, inputs_of, put_result
from .attention.find import Attention, find_attention
from .attention.masks import LOW, NO_KEY, MaskPlan, plan_masks
from .attention.operands import Form
from .contributed import MICROSOFT, import_microsoft
from .projections import Projections, find_projections

__all__ = ["FuseAttention"]

OPSET = 23


@dataclasses.dataclass(frozen=True)
class FuseAttention(RulePass):
    """Fuse attention; see the module docstring for the contract.

    Attributes:
        emit: ``standard``: ``Attention`` only. ``onnxruntime``: what is fastest there.
        projections: Whether, among onnxruntime's operators, the one that takes the projections
            of queries, keys and values in comes first.
    """

    name: ClassVar[str] = "fuse-attention"
    promise: ClassVar[Promise] = Promise.CLOSE

    emit: Target = Target.STANDARD
    projections: bool = False

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return the one rule."""
        contrib = Target.ONNXRUNTIME in (self.emit, context.target)
        match = functools.partial(_match, contrib=contrib, packed=contrib and self.projections)
        return [Rule("attention", ("Softmax",), match)]


def _match(
    node: ir.Node, facts: Facts, *, contrib: bool, packed: bool
) -> Rewrite | Reason | None:
    # 1., 2. and 3.
    found = find_attention(node, facts)
    if found is None or isinstance(found, Reason):
        return found
    match = _plan(found, facts, contrib=contrib, packed=packed)
    if isinstance(match, Reason) and found.pasts:
        found = find_attention(node, facts, past=False)
        if isinstance(found, Attention):
            return _plan(found, facts, contrib=contrib, packed=packed)
    return match


def _plan(found: Attention, facts: Facts, *, contrib: bool, packed: bool) -> Rewrite | Reason:
    # 4.
    kinds = {one.value.dtype for one in (found.q, found.k, found.v)}
    kind = found.q.value.dtype
    if len(kinds) > 1 or kind is None or kind not in LOW:
        return Reason("onnxruntime has no such kernel for this type")
    # 5. and 6.
    masks = plan_masks(
        found.masks, found.q.batch, found.heads, kind, guarded=found.guarded, facts=facts
    )
    if isinstance(masks, Reason):
        return masks
    # 8.
    earlier = {shape[2] for one in found.pasts or () if (shape := facts.shape(one))}
    if found.pasts and len(earlier) != 1:
        return Reason("not as many keys as values are known to be from before")
    if found.pasts and not (_is_apart(found.k, found) and _is_apart(found.v, found)):
        return Reason("keys and values so far are used for something else, too")
    if found.pasts and masks.masks and not masks.full:
        return Reason("the mask is not of all keys")
    standard = _refusal_of_standard(masks, kind, facts)
    if contrib:
        contributed = _refusal_of_contributed(found, masks)
        # 9.
        projections = find_projections(found, facts) if packed and not contributed else None
        if projections is not None:
            return functools.partial(
                _write_packed, found=found, masks=masks, projections=projections, facts=facts
            )
        # Measured: a mask costs MultiHeadAttention its advantage, and then Attention wins.
        if not contributed and (standard or not masks.masks):
            return functools.partial(_write_contributed, found=found, masks=masks, facts=facts)
    if standard:
        return Reason(standard)
    return functools.partial(_write_standard, found=found, masks=masks, facts=facts)


def _is_apart(form: Form, found: Attention) -> bool:
    """Whether all keys or values together are used as such alone, or are an output."""
    between = found.between(form.present) if form.present is not None else None
    operands = [found.q.value, found.k.value, found.v.value, *(m.value for m in found.masks)]
    return between is not None and all(one.producer() not in between for one in operands)


def _refusal_of_standard(masks: MaskPlan, kind: ir.DataType, facts: Facts) -> str:
    """Return why it cannot be an ``Attention``, or ``""``."""
    # 7.
    if facts.opset < OPSET:
        return f"Attention needs opset {OPSET}; upgrade-opset{{to={OPSET}}} raises it"
    # 6.
    if masks.floors is None:
        return "the mask may be -inf for all keys"
    if NO_KEY in masks.floors and not (masks.guarded and masks.floors == {NO_KEY}):
        return "a query whose scores are all -inf would get 0"
    if kind == ir.DataType.FLOAT16 and masks.floors - {NO_KEY}:
        return "float16 keeps nothing of scores that are all low"
    return ""


def _refusal_of_contributed(found: Attention, masks: MaskPlan) -> str:
    """Return why it cannot be a ``MultiHeadAttention``, or ``""``."""
    # 7.
    if found.q.rank != 3 or found.k.repeats != 1:
        return "MultiHeadAttention takes rank 3, and as many keys as queries"
    # 8.
    if found.pasts and found.k.width != found.v.width:
        return "MultiHeadAttention has one width for keys and values from before"
    # 6.
    if masks.guarded and (masks.floors is None or NO_KEY in masks.floors):
        return "a query whose scores are all -inf would get NaN"
    return ""


def _write_contributed(edit: Edit, found: Attention, masks: MaskPlan, facts: Facts) -> None:
    import_microsoft(edit)
    q, k, v = inputs_of(edit, found, facts)
    mask = add_masks(edit, found, masks, q, k, facts, keep_lowest=True)
    results = edit.node(
        "MultiHeadAttention",
        [q, k, v, None, None, mask, *(found.pasts or ())],
        before=found.product,
        domain=MICROSOFT,
        attributes={"num_heads": found.heads, "scale": found.scale},
        outputs=3 if found.pasts else 1,
    )
    put_result(edit, found, results, facts)


def _write_packed(
    edit: Edit, found: Attention, masks: MaskPlan, projections: Projections, facts: Facts
) -> None:
    import_microsoft(edit)
    x = projections.x
    mask = add_masks(edit, found, masks, x, x, facts, keep_lowest=True)
    results = edit.node(
        "Attention",
        [*projections.inputs(edit, found.product), None, None, mask],
        before=found.product,
        domain=MICROSOFT,
        attributes={
            "num_heads": found.heads,
            "scale": found.scale,
            "qkv_hidden_sizes": list(projections.sizes),
        },
    )
    put_result(edit, found, results, facts)


def _write_standard(edit: Edit, found: Attention, masks: MaskPlan, facts: Facts) -> None:
    q, k, v = inputs_of(edit, found, facts)
    mask = add_masks(edit, found, masks, q, k, facts, keep_lowest=False)
    heads = {"q_num_heads": found.heads, "kv_num_heads": found.shared_heads}
    results = edit.node(
        "Attention",
        [q, k, v, mask, *(found.pasts or ())],
        before=found.product,
        attributes={**(heads if found.q.rank == 3 else {}), "scale": found.scale},
        outputs=3 if found.pasts else 1,
    )
    put_result(edit, found, results, facts)

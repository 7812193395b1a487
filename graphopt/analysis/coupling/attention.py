"""Rules of fused attention: heads, the width of queries and keys, the width of values.

Attention that is written out in MatMul, Reshape and Softmax needs no rule of its own; these
are for the operators it is fused into. The scores are divided by the root of the width unless
an attribute says otherwise: where the width is cut, it gets the divisor of before.
"""

from __future__ import annotations

import dataclasses
import math

from graphopt.analysis.coupling.cut import Cut
from graphopt.analysis.coupling.rules import ONE, Axis, Op, rule

__all__: list[str] = []


@dataclasses.dataclass
class _Heads:
    """The dimensions of one attention.

    Attributes:
        shared: Heads of keys and values.
        repeats: Heads of queries for each of those.
        width: Width of a query and of a key.
        value_width: Width of a value.
    """

    shared: Axis
    repeats: Axis
    width: Axis
    value_width: Axis

    def queries(self, op: Op) -> Axis:
        """Return the axis of all query heads."""
        return op.merge([self.shared, self.repeats])


def _divide(op: Op, q: Axis, k: Axis, v: Axis, heads: int, shared: int) -> _Heads:
    """Return the dimensions behind the flat axes of queries, keys and values."""
    sizes = [axis.size for axis in (q, k, v) if axis.size is not None]
    if len(sizes) < 3 or not heads or not shared or heads % shared:
        op.refuse("its heads are not known")
    if sizes[0] % heads or sizes[1] % shared or sizes[2] % shared:
        op.refuse("its heads do not divide its width")
    width, value_width = sizes[0] // heads, sizes[2] // shared
    of_query, repeats, query_width = op.split(q, [shared, heads // shared, width])
    of_key, key_width = op.split(k, [shared, width])
    of_value, of_width = op.split(v, [shared, value_width])
    op.unify(of_query, of_key)
    op.unify(of_query, of_value)
    op.unify(query_width, key_width)
    op.mixes(of_query, repeats, query_width, of_width)
    return _Heads(of_query, repeats, query_width, of_width)


def _keep_scale(op: Op, width: Axis) -> None:
    """Keep the divisor of the scores when ``width`` is cut."""
    if not op.attr("scale") and width.size is not None:
        scale = 1.0 / math.sqrt(width.size)
        op.fix([width], lambda cut: cut.set_attribute("scale", scale))


def _bias_of_scores(op: Op, index: int, heads: Axis) -> None:
    """Align an input ``[batch, heads, queries, keys]`` that is added to the scores."""
    if op.has(index):
        axes = op.axes(index)
        if len(axes) == 4:
            op.broadcast(axes[1], heads)
        op.whole([*axes[-2:], *axes[:-3]], "masks positions")


@rule("com.microsoft::Attention")
def attention(op: Op) -> None:
    """Projection included: ``weights [inputs, queries + keys + values]``."""
    x, w = op.axes(0), op.axes(1)
    count, size = op.attr_int("num_heads", 0), w[1].size
    if len(x) != 3 or size is None or op.attr("do_rotary"):
        op.refuse("its shapes are not known")
    sizes = [int(one) for one in op.attr("qkv_hidden_sizes", [size // 3] * 3)]
    if sum(sizes) != size:
        op.refuse(f"{sizes} do not make up {size}")
    op.contract((0, x[2]), (1, w[0]))
    if op.has(2):
        op.unify(op.axes(2)[0], w[1])
    ends = [sizes[0], sizes[0] + sizes[1], size]
    parts = [
        op.part(w[1], slice(end - one, end)) for end, one in zip(ends, sizes, strict=True)
    ]
    heads = _divide(op, parts[0], parts[1], parts[2], count, count)
    present = [ONE, ONE, ONE, ONE, ONE]
    if op.has(4) or (len(op.node.outputs) > 1 and op.node.outputs[1].name):
        op.unify(heads.width, heads.value_width)
        dims = op.dims(1) if len(op.node.outputs) > 1 else None
        length = Axis(symbol=object()) if dims is None else op.frozen(dims[3], "is a cache")
        two = op.frozen(2, "holds keys and values")
        present = [two, x[0], heads.shared, length, heads.width]
    if op.has(4):
        past = op.axes(4)
        op.whole(past[:1], "holds keys and values")
        op.unify(past[2], heads.shared)
        op.unify(past[4], heads.width)
    _bias_of_scores(op, 5, heads.shared)
    _keep_scale(op, heads.width)
    op.count("num_heads", heads.shared)

    def set_sizes(cut: Cut) -> None:
        lengths = [cut.length(part) for part in parts]
        if cut.length(w[1]) != 3 * lengths[0] or op.attr("qkv_hidden_sizes") is not None:
            cut.set_attribute("qkv_hidden_sizes", lengths)

    op.fix(parts, set_sizes)
    op.layer(1)
    op.cost([x[0], x[1], w[0], w[1]])
    op.output([x[0], x[1], op.merge([heads.shared, heads.value_width])])
    op.output(present, 1)


@rule("com.microsoft::MultiHeadAttention")
def multi_head_attention(op: Op) -> None:
    """Queries, keys and values ``[batch, length, heads * width]``, one bias for all three."""
    q = op.axes(0)
    if not op.has(1) or not op.has(2):
        op.refuse("packed queries, keys and values are not divided")
    k, v = op.axes(1), op.axes(2)
    if not len(q) == len(k) == len(v) == 3:
        op.refuse(f"its inputs have ranks {len(q)}, {len(k)} and {len(v)}")
    count = op.attr_int("num_heads", 0)
    heads = _divide(op, q[2], k[2], v[2], count, count)
    if op.has(3):
        op.unify(op.axes(3)[0], op.concatenate([q[2], k[2], v[2]]))
    _bias_of_scores(op, 5, heads.shared)
    _caches(op, heads, (6, 7))
    _keep_scale(op, heads.width)
    op.count("num_heads", heads.shared)
    op.broadcast(k[0], v[0])
    op.cost([q[0], q[1], k[1], heads.shared, heads.width])
    op.output([q[0], q[1], op.merge([heads.shared, heads.value_width])])
    _present(op, heads, q[0])


def _caches(op: Op, heads: _Heads, indices: tuple[int, int]) -> None:
    """Couple the inputs ``[batch, heads, length, width]`` of earlier keys and values."""
    for index, width in zip(indices, (heads.width, heads.value_width), strict=True):
        if op.has(index):
            past = op.axes(index)
            op.unify(past[1], heads.shared)
            op.unify(past[3], width)


def _present(op: Op, heads: _Heads, batch: Axis) -> None:
    """Give the outputs ``[batch, heads, length, width]`` of all keys and values."""
    for index, width in ((1, heads.width), (2, heads.value_width)):
        if index < len(op.node.outputs):
            dims = op.dims(index)
            length = op.frozen(dims[2] if dims is not None else None, "is a cache")
            op.output([batch, heads.shared, length, width], index)


@rule("com.microsoft::GroupQueryAttention")
def group_query_attention(op: Op) -> None:
    """Several query heads share one head of keys and values, which is what may be cut."""
    q = op.axes(0)
    if not op.has(1) or not op.has(2) or len(q) != 3:
        op.refuse("packed queries, keys and values are not divided")
    k, v = op.axes(1), op.axes(2)
    heads = _divide(
        op, q[2], k[2], v[2], op.attr_int("num_heads", 0), op.attr_int("kv_num_heads", 0)
    )
    op.unify(heads.width, heads.value_width)
    if op.attr("do_rotary"):
        op.whole([heads.width], "rotates it")
    _caches(op, heads, (3, 4))
    _keep_scale(op, heads.width)
    queries = heads.queries(op)
    op.count("kv_num_heads", heads.shared)
    op.count("num_heads", queries)
    op.cost([q[0], q[1], queries, heads.width])
    op.output([q[0], q[1], op.merge([queries, heads.value_width])])
    _present(op, heads, q[0])


@rule("Attention")
def standard_attention(op: Op) -> None:
    """``[batch, heads, length, width]``, or flat with the heads as attributes (opset 23)."""
    q, k, v = op.axes(0), op.axes(1), op.axes(2)
    if not len(q) == len(k) == len(v) or len(q) not in (3, 4):
        op.refuse(f"its inputs have ranks {len(q)}, {len(k)} and {len(v)}")
    if len(q) == 3:
        count, shared = op.attr_int("q_num_heads", 0), op.attr_int("kv_num_heads", 0)
        heads = _divide(op, q[2], k[2], v[2], count, shared)
        op.count("kv_num_heads", heads.shared)
        op.count("q_num_heads", heads.queries(op))
        batch, length = q[0], q[1]
    else:
        if q[1].size is None or k[1].size is None or q[1].size % k[1].size:
            op.refuse("its heads are not known")
        of_query, repeats = op.split(q[1], [k[1].size, q[1].size // k[1].size])
        op.unify(of_query, k[1])
        op.unify(k[1], v[1])
        op.unify(q[3], k[3])
        heads = _Heads(of_query, repeats, q[3], v[3])
        op.mixes(q[1], q[3], v[3])
        batch, length = q[0], q[2]
    _bias_of_scores(op, 3, heads.queries(op))
    _caches(op, heads, (4, 5))
    _keep_scale(op, heads.width)
    op.cost([batch, length, heads.queries(op), heads.width])
    if len(q) == 3:
        op.output([batch, length, op.merge([heads.queries(op), heads.value_width])])
    else:
        op.output([batch, q[1], length, heads.value_width])
    _present(op, heads, batch)


@rule("com.microsoft::RotaryEmbedding", "RotaryEmbedding")
def rotary_embedding(op: Op) -> None:
    """Rotates pairs within a head: its width is needed whole, heads are not."""
    x = op.axes(0)
    tables = (2, 3) if op.node.domain else (1, 2)
    for index in tables:
        op.whole(op.axes(index), "rotates by it")
    if len(x) == 4:
        op.whole(x[3:], "rotates it")
    else:
        count = op.attr_int("num_heads", 0)
        half = op.axes(tables[0])[-1].size
        size = x[2].size
        if not count and size is not None and half and not op.attr("rotary_embedding_dim"):
            count = size // (2 * half)
        if not count or size is None or size % count:
            op.refuse("its heads are not known")
        heads, width = op.split(x[2], [count, size // count])
        op.whole([width], "rotates it")
        if op.attr("num_heads"):
            op.count("num_heads", heads)
    op.output(x)

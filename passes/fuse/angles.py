"""Tables of angles: whether the two numbers of each two are the same."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.facts import Facts, attribute

__all__ = ["has_equal_twos"]

ELEMENTWISE = ("Cast", "Cos", "Div", "Mul", "Sin", "Unsqueeze")
MAX_DISTANCE = 12


def has_equal_twos(value: ir.Value, interleaved: bool, facts: Facts) -> bool:
    """Whether both halves of the last axis are the same; ``interleaved``: all neighbours."""
    for _ in range(MAX_DISTANCE):
        array = facts.array(value)
        if array is not None:
            half = array.shape[-1] // 2
            low, high = array[..., :half], array[..., half:]
            if interleaved:
                low, high = array[..., ::2], array[..., 1::2]
            return bool((low == high).all())
        node, shape = value.producer(), facts.shape(value)
        if node is None or node.domain or not shape:
            return False
        first, second = (*node.inputs, None, None)[:2]
        if node.op_type == "Concat":
            return not interleaved and _is_of_itself(node, len(shape))
        if node.op_type == "Reshape":
            pairs = facts.shape(first)
            in_pairs = pairs is not None and pairs[-1:] == (2,) and len(pairs) > 1
            if not in_pairs or pairs is None or pairs[-2] * 2 != shape[-1]:
                return False
            return interleaved and _is_repeated(first, facts)
        if node.op_type in ("Mul", "Div") and facts.array(first, max_elements=1) is not None:
            first, second = second, first
        number = facts.array(second, max_elements=1)
        if node.op_type in ("Mul", "Div") and (number is None or number.size != 1):
            return False
        before = facts.shape(first)
        same_axis = before is not None and before[-1:] == shape[-1:]
        if node.op_type not in ELEMENTWISE or first is None or not same_axis:
            return False
        value = first
    return False


def _is_of_itself(concat: ir.Node, rank: int) -> bool:
    """Whether ``concat`` puts one value behind itself along the last axis."""
    twice = len(concat.inputs) == 2 and concat.inputs[0] is concat.inputs[1]
    return twice and attribute(concat, "axis") in (-1, rank - 1)


def _is_repeated(value: ir.Value | None, facts: Facts) -> bool:
    """Whether all numbers along the last axis of ``value`` are the same."""
    node, shape = (value.producer() if value is not None else None), facts.shape(value)
    if node is None or node.domain or not shape:
        return False
    before = facts.shape(node.inputs[0])
    if node.op_type == "Concat":
        return _is_of_itself(node, len(shape)) and before is not None and before[-1:] == (1,)
    return node.op_type in ("Expand", "Tile") and before is not None and before[-1:] == (1,)

"""Sizes foreseen are those that come out."""

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.runtime.bounds import result_elements

OPSET = {"": 21}
sizes = st.integers(1, 4)


def node_of(op_type: str, count: int, **attributes) -> ir.Node:
    return ir.node(op_type, [ir.val(f"in{n}") for n in range(count)], attributes)


@st.composite
def broadcastable(draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    whole = draw(st.lists(sizes, max_size=4))

    def part() -> tuple[int, ...]:
        kept = whole[draw(st.integers(0, len(whole))) :]
        return tuple(size if draw(st.booleans()) else 1 for size in kept)

    return part(), part()


@st.composite
def requests(draw) -> tuple[ir.Node, list[np.ndarray]]:
    op_type = draw(
        st.sampled_from(
            ["ConstantOfShape", "Expand", "MatMul", "OneHot", "Pad", "Range", "Tile", "Add"]
        )
    )
    a, b = draw(broadcastable())
    node = node_of(op_type, 2)
    if op_type == "ConstantOfShape":
        return node_of(op_type, 1), [np.array(a, np.int64)]
    if op_type == "Expand":
        return node, [np.ones(a), np.array(b, np.int64)]
    if op_type == "Tile":
        repeats = draw(st.lists(st.integers(0, 3), min_size=len(a), max_size=len(a)))
        return node, [np.ones(a), np.array(repeats, np.int64)]
    if op_type == "Pad":
        widths = draw(st.lists(sizes, min_size=2 * len(a) + 2, max_size=2 * len(a) + 2))
        return node, [np.ones((*a, 2)), np.array(widths, np.int64)]
    if op_type == "Range":
        start, limit = draw(st.integers(-9, 9)), draw(st.integers(-9, 9))
        step = draw(st.sampled_from([-3, -1, 1, 2]))
        return node_of(op_type, 3), [np.array(v) for v in (start, limit, step)]
    if op_type == "OneHot":
        depth = np.array(draw(sizes))
        return node_of(op_type, 3), [
            np.zeros((*a, 2), np.int64),
            depth,
            np.array([0, 1], np.float32),
        ]
    if op_type == "MatMul":
        inner = draw(sizes)
        return node, [np.ones((*a, 2, inner)), np.ones((*b, inner, 3))]
    return node, [np.ones(a), np.ones(b)]


@given(requests())
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_foreseen_is_what_comes_out(shared_runtime, request_):
    node, inputs = request_
    (out,) = shared_runtime.evaluate(node, inputs, OPSET)
    assert result_elements(node, inputs) == out.size


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        (((3,), (3,)), 1),
        (((2, 3), (3,)), 2),
        (((3,), (3, 4)), 4),
        (((5, 2, 3), (3, 4)), 40),
    ],
)
def test_products_of_vectors_and_stacks(shapes, size):
    inputs = [np.ones(shape) for shape in shapes]
    assert np.matmul(*inputs).size == size
    assert result_elements(node_of("MatMul", 2), inputs) == size


def test_sizes_do_not_overflow():
    huge = np.array([1 << 62, 1 << 62, 4])
    assert result_elements(node_of("ConstantOfShape", 1), [huge]) == math.prod(huge.tolist())
    assert result_elements(node_of("ConstantOfShape", 1), [huge]) > 1 << 64


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (node_of("Neg", 1), [np.ones(3)]),
        (
            ir.node("Tile", [ir.val("a"), ir.val("b")], domain="other"),
            [np.ones(2), np.ones(1)],
        ),
        (node_of("Expand", 2), [np.ones(2), None]),
        (node_of("Expand", 1), [np.ones(2)]),
        (node_of("Range", 3), [np.array([1, 2]), np.array(3), np.array(1)]),
        (node_of("Pad", 2), [np.ones((2, 2)), np.array([1])]),
    ],
    ids=["unknown", "other domain", "omitted", "too few", "no scalar", "too short"],
)
def test_what_cannot_be_foreseen_is_left_to_onnxruntime(node, inputs):
    assert result_elements(node, inputs) is None

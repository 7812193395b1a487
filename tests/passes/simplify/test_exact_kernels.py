"""What numpy computes in the place of onnxruntime has the same bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.simplify.exact_kernels import compute

from graphopt.runtime import Runtime

OPSETS = {"": 18}
NUMBERS = np.array(
    [0.0, -0.0, 1.5, -2.25, 1e-42, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, 1 / 3, 7.0],
    np.float32,
).reshape(3, 4)
RANDOM = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
INTEGERS = np.array([[3, -7, 0], [1 << 40, 5, -(1 << 33)]])
SMALL = np.array([2, 0, -3])
TRUTHS = np.array([[True, False, True, False]])
ONE, TWO = np.array([1]), np.array([0, 1])

CASES: dict[str, tuple[str, list[np.ndarray], dict[str, object]]] = {
    **{
        f"{op}_{at}": (op, pair, {})
        for op in ("Add", "Sub", "Mul", "Div", "Greater", "Less", "Equal")
        for at, pair in enumerate(
            ([NUMBERS[:2], RANDOM[:2]], [RANDOM.astype(float), RANDOM[0].astype(float)])
        )
    },
    "neg": ("Neg", [NUMBERS], {}),
    "sqrt": ("Sqrt", [np.float32(64.5)[None]], {}),
    "sqrt_of_a_scalar": ("Sqrt", [np.array(3.0)], {}),
    "and": ("And", [TRUTHS, TRUTHS[:, ::-1]], {}),
    "or": ("Or", [TRUTHS, TRUTHS[:, ::-1]], {}),
    "not": ("Not", [TRUTHS], {}),
    "equal_integers": ("Equal", [INTEGERS, INTEGERS[:1]], {}),
    "equal_truths": ("Equal", [TRUTHS, TRUTHS[:, ::-1]], {}),
    **{
        f"{op.lower()}_{kind.__name__}": (op, [INTEGERS.astype(kind), SMALL.astype(kind)], {})
        for op in ("Add", "Sub", "Mul", "Max", "Min")
        for kind in (np.int64, np.int32)
        if kind is np.int64 or op in ("Max", "Min")
    },
    "max_of_one": ("Max", [INTEGERS], {}),
    "min_of_three": ("Min", [INTEGERS, SMALL, -INTEGERS], {}),
    "add_nothing": ("Add", [INTEGERS[:0], SMALL], {}),
    "gather_nd": ("GatherND", [RANDOM, np.array([[[2], [-1]]])], {}),
    "gather_nd_elements": ("GatherND", [RANDOM, np.array([[2, 3], [0, -4]])], {}),
    "cast_like": ("CastLike", [RANDOM * 9, SMALL], {}),
    "concat": ("Concat", [INTEGERS, INTEGERS[:1]], {"axis": -2}),
    "expand": ("Expand", [RANDOM, np.array([2, 1, 4])], {}),
    "expand_to_less": ("Expand", [RANDOM, ONE], {}),
    "expand_half": ("Expand", [RANDOM.astype(np.float16)[:1], np.array([3, 1])], {}),
    "constant_of_shape": ("ConstantOfShape", [np.array([2, 3])], {}),
    "constant_of_shape_of_sevens": (
        "ConstantOfShape", [np.array([2])],
        {"value": ir.AttrTensor("value", ir.tensor(np.array([7])))},
    ),
    "gather": ("Gather", [RANDOM, np.array([[2, -1], [0, -3]])], {}),
    "gather_one_column": ("Gather", [RANDOM, np.array(-1)], {"axis": 1}),
    "slice": ("Slice", [RANDOM, np.array([1]), np.array([99]), ONE], {}),
    "slice_backwards": (
        "Slice", [RANDOM, np.array([-1, 99]), np.array([-99, 0]), TWO, np.array([-1, -2])], {},
    ),
    "slice_all_axes": ("Slice", [RANDOM, np.array([-2, 1]), np.array([3, -1])], {}),
    "range": ("Range", [np.array(3), np.array(-1000), np.array(-2)], {}),
    "range_of_nothing": ("Range", [np.int32(3), np.int32(3), np.int32(1)], {}),
    "where": ("Where", [TRUTHS, NUMBERS, RANDOM[:1]], {}),
    **{
        f"cast_{source.__name__}_{to.name}": ("Cast", [RANDOM.astype(source) * 9], {"to": to})
        for source in (np.float32, np.float64, np.int32)
        for to in (
            ir.DataType.INT8, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE,
            ir.DataType.BOOL,
        )
    },
    "cast_large_integers": ("Cast", [INTEGERS * 12345677], {"to": ir.DataType.FLOAT}),
    "cast_to_infinity": ("Cast", [np.array([1e300, -1e300])], {"to": ir.DataType.FLOAT}),
    "cast_truth": ("Cast", [TRUTHS], {"to": ir.DataType.FLOAT}),
}  # fmt: skip


def node_of(op: str, inputs: list[np.ndarray], attributes: dict[str, object]) -> ir.Node:
    values = [ir.Value(name=f"i{index}") for index in range(len(inputs))]
    attrs = [
        value
        if isinstance(value, ir.Attr)
        else ir.convenience.convert_attribute(
            name, int(value) if isinstance(value, ir.DataType) else value
        )
        for name, value in attributes.items()
    ]
    return ir.Node("", op, values, attrs, name="n")


@pytest.fixture(scope="module")
def runtime():
    with Runtime() as runtime:
        yield runtime


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_onnxruntime(name: str, runtime: Runtime) -> None:
    op, inputs, attributes = CASES[name]
    node = node_of(op, inputs, attributes)
    ours = compute(node, inputs, OPSETS, max_bytes=1 << 20)
    (theirs,) = runtime.evaluate(node, inputs, OPSETS)
    assert ours is not None
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_ieee_operations_on_any_bits(seed: int, runtime: Runtime) -> None:
    bits = np.random.default_rng(seed).integers(0, 1 << 32, (2, 1000), dtype=np.uint32)
    one, other = bits.view(np.float32)
    for op in ("Add", "Sub", "Mul", "Div"):
        with np.errstate(all="ignore"):
            answer = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
            kept = np.isfinite(answer[op](one, other))
        inputs = [one[kept], other[kept]]
        node = node_of(op, inputs, {})
        ours = compute(node, inputs, OPSETS, max_bytes=1 << 20)
        assert ours is not None
        assert ours.tobytes() == runtime.evaluate(node, inputs, OPSETS)[0].tobytes()


REFUSED = {
    "a_range_of_floats": ("Range", [np.array(0.1), np.array(1.0), np.array(0.1)], {}),
    "nan_in_the_result": ("Sub", [NUMBERS, NUMBERS], {}),
    "an_overflow": ("Add", [np.array([(1 << 63) - 1]), ONE], {}),
    "integers_of_two_types": ("Mul", [SMALL, SMALL.astype(np.int32)], {}),
    "extremes_of_floats": ("Max", [NUMBERS, RANDOM], {}),
    "batches_of_indices": ("GatherND", [RANDOM, np.array([[2], [1], [0]])], {"batch_dims": 1}),
    "an_index_outside_of_one_axis": ("GatherND", [RANDOM, np.array([[3]])], {}),
    "half_precision": ("Add", [RANDOM.astype(np.float16)] * 2, {}),
    "a_slice_from_in_front_of_the_first": (
        "Slice", [RANDOM, np.array([-9]), np.array([-9]), ONE, np.array([-1])], {},
    ),
    "a_slice_backwards_to_the_largest_end": (
        "Slice", [RANDOM, np.array([2]), np.array([2**31 - 1]), ONE, np.array([-1])], {},
    ),
    "a_choice_of_minus_zero": ("Where", [TRUTHS, np.float32(-0.0), RANDOM], {}),
    "many_square_roots": ("Sqrt", [np.abs(RANDOM)], {}),
    "an_index_outside": ("Gather", [RANDOM, np.array([3])], {}),
    "a_number_that_does_not_fit": ("Cast", [np.array([300.0])], {"to": ir.DataType.INT8}),
    "infinity_as_an_integer": ("Cast", [np.array([np.inf])], {"to": ir.DataType.INT64}),
    "types_that_differ": ("Where", [TRUTHS, RANDOM, INTEGERS[:1, :1]], {}),
    "an_operator_that_rounds": ("Exp", [RANDOM], {}),
    "a_result_that_is_too_large": ("Expand", [RANDOM, np.array([1 << 20, 1, 1])], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_left_to_onnxruntime(name: str) -> None:
    op, inputs, attributes = REFUSED[name]
    node = node_of(op, inputs, attributes)
    assert compute(node, inputs, OPSETS, max_bytes=1 << 20) is None


def test_other_versions_are_left_to_onnxruntime() -> None:
    node = node_of("Add", [RANDOM, RANDOM], {})
    assert compute(node, [RANDOM, RANDOM], {"": 6}, max_bytes=1 << 20) is None
    assert compute(node, [RANDOM, None], OPSETS, max_bytes=1 << 20) is None

"""A constant node is evaluated as onnxruntime would, whatever it is and whatever it does."""

import threading
import time

import graphs
import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.backend.test.loader import load_model_tests

from graphopt.errors import ExecutionError
from graphopt.runtime import Runtime
from graphopt.runtime.wire import ELEMENT_TYPES

OPSET = {"": 21}


def node_of(op_type: str, inputs: int = 1, outputs: int = 1, domain: str = "", **attributes):
    return ir.node(
        op_type,
        [ir.val(f"in{n}") for n in range(inputs)],
        attributes,
        domain=domain,
        num_outputs=outputs,
        name="the_node",
    )


def first_node(text: str) -> ir.Node:
    return next(iter(graphs.load(text).graph))


DTYPES = [
    np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64,
    np.uint8, np.uint16, np.uint32, np.uint64, np.bool_,
    ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)], ids=str)
def test_every_element_type_goes_in_and_comes_out(shared_runtime, dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    array = values.astype(dtype)
    # Cast is the one operator that knows every type.
    node = node_of("Cast", to=ir.DataType.from_numpy(array.dtype).value)
    (out,) = shared_runtime.evaluate(node, [values.astype(np.float32)], OPSET)
    assert (out.dtype, out.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(out.astype(np.float32), array.astype(np.float32))
    (back,) = shared_runtime.evaluate(node_of("Cast", to=1), [out], OPSET)
    np.testing.assert_array_equal(back, array.astype(np.float32))


def test_4_bit_integers_keep_their_sign_and_their_order(shared_runtime):
    values = np.array([-8, 7, -1, 3, 0], ml_dtypes.int4)
    (out,) = shared_runtime.evaluate(
        node_of("Cast", to=ir.DataType.INT8.value), [values], OPSET
    )
    assert out.dtype == np.int8
    np.testing.assert_array_equal(out, [-8, 7, -1, 3, 0])


@pytest.mark.parametrize("kind", [object, np.str_, np.dtypes.StringDType()], ids=str)
def test_strings(shared_runtime, kind):
    words = np.array(["a", "", "zwölf"], kind)
    (out,) = shared_runtime.evaluate(node_of("Identity"), [words], OPSET)
    assert out.dtype == object
    assert out.tolist() == ["a", "", "zwölf"]


def test_arrays_of_the_other_byte_order(shared_runtime):
    (out,) = shared_runtime.evaluate(node_of("Neg"), [np.arange(3, dtype=">i4")], OPSET)
    np.testing.assert_array_equal(out, [0, -1, -2])


def test_views_and_broadcasts(shared_runtime):
    a, b = np.arange(6.0).reshape(2, 3).T, np.broadcast_to(np.float64(2), (3, 2))
    (out,) = shared_runtime.evaluate(node_of("Mul", 2), [a, b], OPSET)
    np.testing.assert_array_equal(out, a * 2)


@pytest.mark.parametrize("bad", [np.array("2026-01-01", "M8[D]"), np.array([1 + 2j])], ids=str)
def test_types_that_onnx_or_the_operator_lacks_are_refused(shared_runtime, bad):
    with pytest.raises(ExecutionError) as info:
        shared_runtime.evaluate(node_of("Neg"), [bad], OPSET)
    assert info.value.code == "runtime/refused"
    assert "the_node" in str(info.value)


def test_omitted_inputs(shared_runtime):
    x, high = np.array([-5.0, 5.0], np.float32), np.array(1.0, np.float32)
    (out,) = shared_runtime.evaluate(node_of("Clip", 3), [x, None, high], OPSET)
    np.testing.assert_array_equal(out, [-5, 1])
    (out,) = shared_runtime.evaluate(node_of("Clip", 3), [x, high, None], OPSET)
    np.testing.assert_array_equal(out, [1, 5])


def test_every_output_comes_also_the_unnamed(shared_runtime):
    node = ir.node("TopK", [ir.val("x"), ir.val("k")], num_outputs=2)
    node.outputs[0].name = ""
    values, places = shared_runtime.evaluate(
        node, [np.array([3.0, 9, 5]), np.array([2])], OPSET
    )
    np.testing.assert_array_equal(values, [9, 5])
    np.testing.assert_array_equal(places, [1, 2])


def test_attributes_tell_nodes_apart(shared_runtime):
    x = np.array([-1.0, 1.0], np.float32)

    def leaky(alpha):
        (out,) = shared_runtime.evaluate(node_of("LeakyRelu", alpha=alpha), [x], OPSET)
        return out

    np.testing.assert_array_equal(leaky(0.5), [-0.5, 1])
    np.testing.assert_array_equal(leaky(0.25), [-0.25, 1])
    # Equal numbers that are not the same.
    assert np.signbit(leaky(0.0)[0])
    assert not np.signbit(leaky(-0.0)[0])


def test_tensor_attributes_tell_nodes_apart(shared_runtime):
    for value in (np.float32(1), np.float32(2), np.int8(3)):
        node = node_of("ConstantOfShape", value=ir.tensor(np.array([value])))
        (out,) = shared_runtime.evaluate(node, [np.array([2])], OPSET)
        assert out.dtype == value.dtype
        np.testing.assert_array_equal(out, [value, value])


def test_the_opset_version_counts(shared_runtime):
    x = np.ones((2, 3, 4), np.float32)
    outs = [
        shared_runtime.evaluate(node_of("Softmax"), [x], {"": v})[0].ravel()[0]
        for v in (11, 13)
    ]
    # Until version 12 the default axis is 1 and everything after it is one axis.
    np.testing.assert_allclose(outs, [1 / 12, 1 / 4])


def test_operators_of_onnxruntime(shared_runtime):
    node = node_of("Gelu", domain="com.microsoft")
    (out,) = shared_runtime.evaluate(
        node, [np.zeros(2, np.float32)], {"": 21, "com.microsoft": 1}
    )
    np.testing.assert_array_equal(out, [0, 0])


def test_a_missing_operator_set_is_refused(shared_runtime):
    node = node_of("Gelu", domain="com.microsoft")
    with pytest.raises(ExecutionError, match=r"imports no operator set 'com\.microsoft'"):
        shared_runtime.evaluate(node, [np.zeros(2, np.float32)], OPSET)


def test_an_unknown_operator_is_refused_and_named(shared_runtime):
    with pytest.raises(ExecutionError, match=r"'the_node' \(Frobnicate\)") as info:
        shared_runtime.evaluate(node_of("Frobnicate"), [np.ones(2)], OPSET)
    assert info.value.code == "runtime/refused"
    # And again, though it was seen before.
    with pytest.raises(ExecutionError) as again:
        shared_runtime.evaluate(node_of("Frobnicate"), [np.ones(2)], OPSET)
    assert str(again.value) == str(info.value)


def test_a_failure_is_reported_and_the_session_is_still_good(shared_runtime):
    node = node_of("Gather", 2)
    with pytest.raises(ExecutionError, match="element out of data bounds") as info:
        shared_runtime.evaluate(node, [np.ones(2), np.array([5])], OPSET)
    assert info.value.code == "runtime/failed"
    (out,) = shared_runtime.evaluate(node, [np.ones(2), np.array([1])], OPSET)
    np.testing.assert_array_equal(out, [1])


@pytest.mark.parametrize("op_type", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8])
def test_integer_division_by_zero_kills_nobody(shared_runtime, op_type, dtype):
    ones, zeros = np.ones(3, dtype), np.zeros(3, dtype)
    with pytest.raises(ExecutionError) as info:
        shared_runtime.evaluate(node_of(op_type, 2), [ones, zeros], OPSET)
    assert info.value.code in {"runtime/failed", "runtime/crashed"}
    (out,) = shared_runtime.evaluate(node_of(op_type, 2), [ones * 5, ones * 3], OPSET)
    np.testing.assert_array_equal(out, ones * (1 if op_type == "Div" else 2))


def test_the_least_integer_divided_by_minus_one_kills_nobody(shared_runtime):
    # Its result does not fit, and on x86-64 the instruction traps.
    least = np.array([np.iinfo(np.int64).min])
    for op_type in ("Div", "Mod"):
        try:
            shared_runtime.evaluate(node_of(op_type, 2), [least, -np.ones_like(least)], OPSET)
        except ExecutionError as error:
            assert error.code in {"runtime/failed", "runtime/crashed"}  # noqa: PT017 - it may answer
    (out,) = shared_runtime.evaluate(node_of("Div", 2), [least, least], OPSET)
    np.testing.assert_array_equal(out, [1])


BOMBS = {
    "constant-of-shape": (node_of("ConstantOfShape"), [np.array([1 << 40])]),
    "overflow": (node_of("ConstantOfShape"), [np.array([1 << 40, 1 << 40])]),
    "expand": (node_of("Expand", 2), [np.ones(1), np.array([1 << 20, 1 << 20])]),
    "tile": (node_of("Tile", 2), [np.ones((2, 2)), np.array([1 << 20, 1 << 20])]),
    "range": (node_of("Range", 3), [np.array(0), np.array(10**12), np.array(1)]),
    "pad": (node_of("Pad", 2), [np.ones(1), np.array([1 << 40, 0])]),
    "one-hot": (
        node_of("OneHot", 3, axis=-1),
        [np.zeros(1 << 10, int), np.array(1 << 30), np.array([0.0, 1])],
    ),
    "broadcast": (
        node_of("Add", 2),
        [np.ones((1 << 20, 1), np.float32), np.ones((1, 1 << 20), np.float32)],
    ),
    "outer-product": (
        node_of("MatMul", 2),
        [np.ones((1 << 20, 1), np.float32), np.ones((1, 1 << 20), np.float32)],
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_sent(name):
    node, inputs = BOMBS[name]
    with Runtime() as fresh:
        start = time.monotonic()
        with pytest.raises(ExecutionError, match="elements") as info:
            fresh.evaluate(node, inputs, OPSET)
        assert info.value.code == "runtime/refused"
        assert time.monotonic() - start < 1
        assert fresh._evaluator.process.pid is None


def test_a_bomb_that_is_not_known_runs_into_the_memory_limit(runtime):
    # 2^17 x 2^17 doubles by an operator whose size is not foreseen.
    x = np.ones((1 << 17, 1))
    node = node_of("Einsum", 2, equation="ij,kj->ik")
    start = time.monotonic()
    with pytest.raises(ExecutionError) as info:
        runtime.evaluate(node, [x, x], OPSET)
    assert info.value.code in {"runtime/failed", "runtime/crashed"}
    assert time.monotonic() - start < 5
    (out,) = runtime.evaluate(node_of("Neg"), [np.ones(2)], OPSET)
    np.testing.assert_array_equal(out, [-1, -1])


def test_the_memory_limit_follows_from_what_is_allowed(runtime):
    """512 MB, of which the machine has plenty, where 1 MB is allowed."""
    x = np.ones((1 << 13, 1))
    node = node_of("Einsum", 2, equation="ij,kj->ik")
    with pytest.raises(ExecutionError) as info:
        runtime.evaluate(node, [x, x], OPSET, max_bytes=1 << 20)
    assert info.value.code in {"runtime/failed", "runtime/crashed"}
    # What is allowed is not less for having been little before.
    (out,) = runtime.evaluate(node, [x, x], OPSET, max_bytes=1 << 30)
    assert out.shape == (1 << 13, 1 << 13)


def test_a_result_over_the_limit_is_refused(shared_runtime):
    node = node_of("Einsum", 2, equation="i,j->ij")
    with pytest.raises(ExecutionError, match=r"80000 bytes.* 1000 are allowed") as info:
        shared_runtime.evaluate(node, [np.ones(100), np.ones(100)], OPSET, max_bytes=1000)
    assert info.value.code == "runtime/refused"


def test_a_loop_without_end_is_ended(runtime):
    node = first_node("""
        agraph (int64 n, bool c, float x) => (float y) {
            y = Loop (n, c, x) <body = b (int64 i, bool c0, float v) => (bool c1, float w) {
                c1 = Identity(c0)
                w = Add(v, v)
            }>
        }""")
    inputs = [np.array(1 << 62), np.array(True), np.array(0.5, np.float32)]
    with pytest.raises(ExecutionError) as info:
        runtime.evaluate(node, inputs, OPSET, timeout=0.5)
    assert info.value.code == "runtime/timeout"
    (out,) = runtime.evaluate(node, [np.array(3), *inputs[1:]], OPSET)
    assert out == 4


def test_a_body_that_uses_values_from_outside_is_refused(shared_runtime):
    node = first_node("""
        agraph (bool c, float x) => (float y) {
            y = If (c) <then_branch = a () => (float p) { p = Neg(x) },
                        else_branch = b () => (float q) { q = Abs(x) }>
        }""")
    with pytest.raises(ExecutionError, match="uses 'x' from outside") as info:
        shared_runtime.evaluate(node, [np.array(True)], OPSET)
    assert info.value.code == "runtime/refused"


def test_a_closed_body_is_evaluated(shared_runtime):
    node = first_node("""
        agraph (bool c) => (float y) {
            y = If (c) <
                then_branch = a () => (float p) { p = Constant <value_float = 1.0> () },
                else_branch = b () => (float q) { q = Constant <value_float = 2.0> () }>
        }""")
    (out,) = shared_runtime.evaluate(node, [np.array(False)], OPSET)
    assert out == 2


def test_a_parameter_of_a_function_is_refused(shared_runtime):
    node = ir.Node(
        "", "Elu", [ir.val("x")], [ir.RefAttr("alpha", "a", ir.AttributeType.FLOAT)]
    )
    with pytest.raises(ExecutionError, match="parameter of a function"):
        shared_runtime.evaluate(node, [np.ones(2, np.float32)], OPSET)


def test_a_sequence_is_refused(shared_runtime):
    with pytest.raises(ExecutionError, match="no tensor") as info:
        shared_runtime.evaluate(node_of("SequenceConstruct", 2), [np.ones(2)] * 2, OPSET)
    assert info.value.code == "runtime/refused"


def test_many_nodes_in_one_message(shared_runtime):
    rng = np.random.default_rng(0)
    nodes = [node_of("Add", 2), node_of("Mul", 2), node_of("Concat", 2, axis=0)]
    numpy_of = [np.add, np.multiply, lambda a, b: np.concatenate([a, b])]
    picks = rng.integers(0, 3, 200)
    inputs = [[rng.standard_normal(4), rng.standard_normal(4)] for _ in picks]
    results = shared_runtime.evaluate_many(
        [(nodes[pick], pair) for pick, pair in zip(picks, inputs, strict=True)], OPSET
    )
    for (out,), pick, pair in zip(results, picks, inputs, strict=True):
        np.testing.assert_array_equal(out, numpy_of[pick](*pair))


def test_the_bad_ones_among_many_do_not_spoil_the_others(runtime):
    """One that is refused here, one there, one that fails and one that ends the process."""
    loop = first_node("""
        agraph (int64 n, bool c, float x) => (float y) {
            y = Loop (n, c, x) <body = b (int64 i, bool c0, float v) => (bool c1, float w) {
                c1 = Identity(c0)
                w = Identity(v)
            }>
        }""")
    good = (node_of("Neg"), [np.ones(2)])
    requests = [
        good,
        BOMBS["expand"],
        (node_of("Frobnicate"), [np.ones(2)]),
        (node_of("Gather", 2), [np.ones(2), np.array([9])]),
        (loop, [np.array(1 << 62), np.array(True), np.float32(1)]),
        good,
    ]
    results = runtime.evaluate_many(requests, OPSET, timeout=0.5)
    codes = [r.code if isinstance(r, ExecutionError) else "" for r in results]
    assert codes == [
        "", "runtime/refused", "runtime/refused", "runtime/failed", "runtime/timeout", "",
    ]  # fmt: skip
    for at in (0, 5):
        np.testing.assert_array_equal(results[at][0], [-1, -1])


def test_none_of_nothing(shared_runtime):
    assert shared_runtime.evaluate_many([], OPSET) == []


def test_sessions_are_forgotten_and_made_again(runtime, monkeypatch):
    monkeypatch.setattr("graphopt.runtime.evaluation._KEPT", 3)
    x = np.array([-1.0], np.float32)
    for alpha in [0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0.5, 0.3]:
        (out,) = runtime.evaluate(node_of("LeakyRelu", alpha=alpha), [x], OPSET)
        np.testing.assert_allclose(out, [-alpha], rtol=1e-6)
        assert len(runtime._evaluator._keys) <= 3


def test_sessions_are_kept_for_other_sizes_and_numbers(runtime):
    for size in (1, 2, 50, 1000):
        runtime.evaluate(node_of("Add", 2), [np.ones((size, 2)), np.ones((1, 2))], OPSET)
    assert len(runtime._evaluator._keys) == 1


def test_threads_share_a_runtime(shared_runtime):
    wrong = []

    def work(number):
        for step in range(50):
            (out,) = shared_runtime.evaluate(
                node_of("Add", 2), [np.array([number]), np.array([step])], OPSET
            )
            if out != number + step:
                wrong.append((number, step, out))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_results_belong_to_the_caller(shared_runtime):
    x = np.zeros(3)
    (out,) = shared_runtime.evaluate(node_of("Identity"), [x], OPSET)
    out[0] = 5
    (again,) = shared_runtime.evaluate(node_of("Identity"), [x], OPSET)
    np.testing.assert_array_equal(again, [0, 0, 0])


@pytest.mark.filterwarnings("ignore")  # of the generator of the cases
def test_the_node_tests_of_onnx(shared_runtime):
    """All of ONNX's own tests of one node with tensors: bit for bit as in a model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    same, different, refused = 0, [], 0
    for case in load_model_tests(kind="node"):
        if case.model is None or len(case.model.graph.node) != 1:
            continue
        inputs, outputs = case.data_sets[0]
        if any(isinstance(value, list) or value is None for value in [*inputs, *outputs]):
            continue
        model = ir.from_proto(case.model)
        (node,) = model.graph
        feeds = dict(
            zip((v.name for v in model.graph.inputs), map(_array, inputs), strict=True)
        )
        arrays = [None if v is None else feeds.get(v.name) for v in node.inputs]
        wanted = _run(case.model, feeds, options) or list(map(_array, outputs))
        try:
            results = shared_runtime.evaluate(node, arrays, model.opset_imports)
        except ExecutionError:
            refused += 1
            if _run(case.model, feeds, options):
                different.append(case.name)
            continue
        named = dict(zip((v.name for v in node.outputs), results, strict=True))
        for value, want in zip(model.graph.outputs, wanted, strict=True):
            if not _is_same(named[value.name], want):
                different.append(case.name)
        same += 1
    assert different == []
    # Of 1,329 with onnx 1.23 and onnxruntime 1.31; the others are of newer operator sets.
    assert same > 1000
    assert refused < 400


def _run(proto: onnx.ModelProto, feeds, options) -> list[np.ndarray]:
    """Return what onnxruntime answers in this process; nothing if it refuses."""
    try:
        return ort.InferenceSession(proto.SerializeToString(), options).run(None, feeds)
    except Exception:
        return []


def _array(value: np.ndarray | onnx.TensorProto) -> np.ndarray:
    if isinstance(value, onnx.TensorProto):
        return ir.from_proto(value).numpy()
    return np.asarray(value)


def _is_same(got: np.ndarray, want: np.ndarray) -> bool:
    if got.dtype == object:
        return got.tolist() == want.astype(str).tolist()
    if got.dtype == want.dtype and got.dtype not in ELEMENT_TYPES:
        # ONNX's own result, which may be another NaN.
        return np.array_equal(got.astype(float), want.astype(float), equal_nan=True)
    # onnxruntime returns 8-bit floats as bytes.
    return got.shape == want.shape and got.tobytes() == want.tobytes()

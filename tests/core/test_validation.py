"""A model that differs never passes, one that does not always does, and the reason is said."""

import json
import math
import os
import signal

import graphs
import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt import model_io
from graphopt.errors import ExecutionError, ModelError, SamplesError, ValidationError
from graphopt.passbase import Promise
from graphopt.runtime import Runtime
from graphopt.samples import Samples
from graphopt.validation import Comparison, Tolerance, compare
from graphopt.validation.bench import Bench, DiffersError, Pair

TEXT = """
    net (float[N, 4] x) => (float[N, 3] y, int64[N] label, bool[N, 3] positive)
    <float[4, 3] w = {0.5, -1, 2, 1, 0.25, -0.5, 3, 1, -2, 0.125, 1, 1},
     float[3] b = {1, 2, -1}> {
        p = MatMul (x, w)
        y = Add (p, b)
        label = ArgMax <axis = 1, keepdims = 0> (y)
        zero = Constant <value = float {0}> ()
        positive = Greater (y, zero)
    }"""


@pytest.fixture(scope="module")
def runtime():
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def net() -> ir.Model:
    return graphs.load(TEXT)


def feeds_of(*rows: list) -> Samples:
    return Samples.from_feeds([{"x": np.array(row, np.float32)} for row in rows])


FEEDS = feeds_of([[1, 2, 3, 4]], [[1, 0, 0, 0], [0, 1, 0, 0]], [[-1, 2, 0.5, 1]])


def check(
    runtime: Runtime,
    original: ir.Model,
    candidate: ir.Model,
    promise: Promise = Promise.CLOSE,
    samples: Samples = FEEDS,
    **options,
) -> Comparison:
    found = compare(original, candidate, samples, promise, runtime, **options)
    assert found.passed == (not found.reason)
    # Everything that is said can be written down.
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["passed"] == found.passed
    return found


@pytest.mark.parametrize("promise", Promise)
def test_a_model_is_what_it_is(runtime, net, promise):
    found = check(runtime, net, graphs.load(TEXT), promise)
    assert found.reason == ""
    assert found.notes == ()
    assert found.samples == 3
    assert [o.name for o in found.outputs] == ["y", "label", "positive"]
    assert [o.dtype for o in found.outputs] == ["float32", "int64", "bool"]
    assert all(output.difference.equal == 1 for output in found.outputs)


def test_both_levels_are_compared_with_the_plain_original(runtime, net):
    found = check(runtime, net, net, Promise.EXACT)
    levels = [(one.original_level, one.candidate_level, one.promise) for one in found.levels]
    assert levels == [
        ("disable", "disable", Promise.EXACT),
        ("disable", "all", Promise.CLOSE),
    ]


def changed_weight(by: float) -> ir.Model:
    model = graphs.load(TEXT)
    weight = model.graph.initializers["w"]
    array = weight.const_value.numpy().copy()
    array[0, 0] += by
    weight.const_value = ir.tensor(array, name="w")
    return model


@pytest.mark.parametrize("promise", [Promise.EXACT, Promise.CLOSE])
def test_a_changed_weight(runtime, net, promise):
    found = check(runtime, net, changed_weight(0.01), promise)
    assert "output 'y'" in found.reason
    assert "label" not in found.reason
    assert found.outputs[0].difference.max_abs == pytest.approx(0.01, rel=1e-4)


def test_the_last_bits_of_a_weight_are_close_and_not_exact(runtime, net):
    other = changed_weight(1e-6)
    assert check(runtime, net, other, Promise.CLOSE).passed
    found = check(runtime, net, other, Promise.EXACT)
    assert "of 12 elements differ, by up to" in found.reason
    assert "without onnxruntime's optimizations" in found.reason


def test_zeros_of_the_other_sign_are_close_and_not_exact(runtime):
    original, other = affine("y = Add (x, c)"), affine("y = Identity (x)")
    samples = feeds_of([1, -0.0])
    assert check(runtime, original, other, Promise.CLOSE, samples).passed
    found = check(runtime, original, other, Promise.EXACT, samples)
    assert "1 of 2 elements are zeros of the other sign" in found.reason


def test_one_element_of_one_sample(runtime):
    """An error of 1e-3 in one element of 3,000, in the second of three samples."""
    original = graphs.load("net (float[1000] x) => (float[1000] y) { y = Identity (x) }")
    wrong = graphs.load("""
        net (float[1000] x) => (float[1000] y) <float seven = {7}, float[1] off = {0.001},
                                                 float[1] none = {0}> {
            hit = Equal (x, seven)
            by = Where (hit, off, none)
            y = Add (x, by)
        }""")
    rng = np.random.default_rng(0)
    rows = [rng.uniform(-1, 1, 1000).astype(np.float32) for _ in range(3)]
    assert check(runtime, original, wrong, samples=feeds_of(*rows)).passed
    rows[1][123] = 7.0
    found = check(runtime, original, wrong, samples=feeds_of(*rows))
    assert "worst in sample 1" in found.reason
    assert "it differs by up to 0.001" in found.reason


def test_swapped_outputs(runtime):
    original = graphs.load(
        "net (float[2] x) => (float[2] a, float[2] b) { a = Neg(x) b = Abs(x) }"
    )
    swapped = graphs.load(
        "net (float[2] x) => (float[2] b, float[2] a) { a = Neg(x) b = Abs(x) }"
    )
    crossed = graphs.load(
        "net (float[2] x) => (float[2] a, float[2] b) { b = Neg(x) a = Abs(x) }"
    )
    samples = feeds_of([1, 2])
    assert "another order" in check(runtime, original, swapped, samples=samples).reason
    reason = check(runtime, original, crossed, samples=samples).reason
    assert "'a'" in reason
    assert "'b'" in reason


INTERFACES = {
    "missing output": ("(float[N] x) => (float[N] y)", "y = Neg (x)", "'z' missing"),
    "added output": (
        "(float[N] x) => (float[N] y, float[N] z, float[N] q)",
        "y = Neg (x) z = Abs (x) q = Exp (x)",
        "'q' added",
    ),
    "renamed output": (
        "(float[N] x) => (float[N] y, float[N] q)",
        "y = Neg (x) q = Abs (x)",
        "'z' missing, 'q' added",
    ),
    "type of an output": (
        "(float[N] x) => (float[N] y, double[N] z)",
        "y = Neg (x) a = Abs (x) z = Cast <to = 11> (a)",
        "output 'z' has type float64 and had float32",
    ),
    "rank of an output": (
        "(float[N] x) => (float[N] y, float[N, M] z)",
        "y = Neg (x) a = Abs (x) i = Constant <value_ints = [1]> () z = Unsqueeze (a, i)",
        "output 'z' is [",
    ),
    "renamed input": (
        "(float[N] u) => (float[N] y, float[N] z)",
        "y = Neg (u) z = Abs (u)",
        "the inputs are not the same: 'x' missing, 'u' added",
    ),
    "added input": (
        "(float[N] x, float[N] u) => (float[N] y, float[N] z)",
        "y = Neg (x) z = Abs (u)",
        "'u' added",
    ),
    "input made fixed": (
        "(float[2] x) => (float[2] y, float[2] z)",
        "y = Neg (x) z = Abs (x)",
        "input 'x' is [2] and was [N]",
    ),
    "type of an input": (
        "(double[N] x) => (float[N] y, float[N] z)",
        "a = Cast <to = 1> (x) y = Neg (a) z = Abs (a)",
        "input 'x' has type float64 and had float32",
    ),
}


@pytest.mark.parametrize("name", INTERFACES)
def test_another_interface(runtime, name):
    head, body, reason = INTERFACES[name]
    original = graphs.load(
        "net (float[N] x) => (float[N] y, float[N] z) { y = Neg (x) z = Abs (x) }"
    )
    candidate = graphs.load(f"net {head} {{ {body} }}")
    for promise in Promise:
        found = check(runtime, original, candidate, promise, feeds_of([1, 2]))
        assert reason in found.reason
        assert found.levels == ()


def test_an_interface_that_says_more_about_outputs_or_less_about_inputs_fits(runtime):
    original = graphs.load("net (float[2] x) => (float[N] y) { y = Neg (x) }")
    freer = graphs.load("net (float[M] x) => (float[M] y) { y = Neg (x) }")
    assert check(runtime, original, freer, samples=feeds_of([1, 2])).passed


def test_an_input_with_a_default_that_is_gone(runtime):
    original = graphs.load(
        "net (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Mul (x, w) }"
    )
    fixed = graphs.load(
        "net (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul (x, w) }"
    )
    found = check(runtime, original, fixed, samples=feeds_of([1, 2]))
    assert "overridable inputs are not the same: 'w' missing" in found.reason
    assert check(runtime, original, original, samples=feeds_of([1, 2])).passed


def test_a_shape_that_differs_in_one_sample(runtime):
    """Declared the same; of a different size where an element is zero."""
    original = graphs.load("net (float[N] x) => (float[M] y) { y = Identity (x) }")
    other = graphs.load("""
        net (float[N] x) => (float[M] y) <float zero = {0}> {
            e = Equal (x, zero)
            k = Not (e)
            y = Compress (x, k)
        }""")
    assert check(runtime, original, other, samples=feeds_of([1, 2], [3])).passed
    found = check(runtime, original, other, samples=feeds_of([1, 2], [0, 1]))
    assert "output 'y' is float32[1] and was float32[2] in sample 1" in found.reason


def affine(text: str) -> ir.Model:
    return graphs.load(f"net (float[N] x) => (float[N] y) <float c = {{0}}> {{ {text} }}")


def test_nan_in_one_model_only(runtime):
    """1/x - 1/x is 0, but NaN where x is 0."""
    original = affine("y = Sub (x, x)")
    other = affine("r = Reciprocal (x) y = Sub (r, r)")
    assert check(runtime, original, other, samples=feeds_of([1, 2])).passed
    for promise in Promise:
        found = check(runtime, original, other, promise, feeds_of([1, 2], [1, 0]))
        assert "NaN or infinite" in found.reason


def test_nan_in_both_models_is_the_same(runtime):
    model = affine("r = Reciprocal (x) y = Sub (r, r)")
    for promise in Promise:
        assert check(runtime, model, model, promise, feeds_of([1, 0], [0, 2])).passed


def test_an_integer_off_by_one(runtime):
    original = graphs.load("net (int64[N] x) => (int64[N] y) { y = Identity (x) }")
    other = graphs.load("""
        net (int64[N] x) => (int64[N] y)
        <int64 big = {1000000}, int64 one = {1}, int64 nil = {0}> {
            hit = Equal (x, big)
            by = Where (hit, one, nil)
            y = Add (x, by)
        }""")
    # One in a million: within any tolerance, and wrong.
    samples = Samples.from_feeds([{"x": np.array([5, 1000000])}])
    for promise in (Promise.EXACT, Promise.CLOSE):
        found = check(runtime, original, other, promise, samples)
        assert "1 of 2 elements differ, by up to 1" in found.reason


def test_words(runtime):
    original = graphs.load("net (string[N] x) => (string[N] y) { y = Identity (x) }")
    other = graphs.load("""
        net (string[N] x) => (string[N] y) <string b = {"b"}, string c = {"c"}> {
            hit = Equal (x, b)
            y = Where (hit, c, x)
        }""")
    samples = Samples.from_feeds([{"x": np.array(["A", "b"], object)}])
    assert check(runtime, original, original, samples=samples).passed
    found = check(runtime, original, other, samples=samples)
    assert "1 of 2 elements differ" in found.reason
    # Judged by the share of what is the same, whatever the metric.
    for metric in ("cosine", "top1", "sqnr"):
        options = {"samples": samples, "metric": metric}
        lossy = check(runtime, original, other, Promise.LOSSY, target=0.9, **options)
        assert "its share of equal elements is 0.5, and the target is 0.9" in lossy.reason


def test_sequences(runtime):
    def split(sizes: str) -> ir.Model:
        return graphs.load(f"""
            net (float[6] x) => (seq(float[K]) y) <int64[2] s = {sizes}> {{
                y = SplitToSequence (x, s)
            }}""")

    samples = feeds_of([1, 2, 3, 4, 5, 6])
    assert check(runtime, split("{2, 4}"), split("{2, 4}"), samples=samples).passed
    found = check(runtime, split("{2, 4}"), split("{3, 3}"), samples=samples)
    assert "output 'y[0]' is float32[3] and was float32[2]" in found.reason
    one = graphs.load("net (float[6] x) => (seq(float[6]) y) { y = SequenceConstruct (x) }")
    found = check(runtime, split("{2, 4}"), one, samples=samples)
    assert "output 'y' has 1 parts and had 2" in found.reason


@pytest.mark.parametrize(
    ("want", "got", "said"),
    [
        ([], None, "output 'y' is no value and was a sequence in sample 0"),
        (None, [], "output 'y' is a sequence and was no value in sample 0"),
        ({}, [], "output 'y' is a sequence and was a map in sample 0"),
        ([], np.zeros(0), "output 'y' is a tensor and was a sequence in sample 0"),
    ],
)
def test_what_holds_nothing_is_not_the_same_as_anything_else(want, got, said):
    pair = Pair(("original", "all"), ("candidate", "all"), Tolerance())
    with pytest.raises(DiffersError, match=said.replace("[", "\\[")):
        pair.add(0, {"y": want}, {"y": got}, {})


# What is not proven is no success.


def test_no_samples(runtime, net):
    with pytest.raises(SamplesError, match="samples/empty"):
        check(runtime, net, net, samples=Samples.from_feeds([]))


def test_samples_that_turn_out_to_be_none(runtime, net):
    class Nothing(Samples):
        def feeds(self):
            return iter(())

    samples = Nothing(list, None, "nothing")
    for promise in Promise:
        found = check(runtime, net, net, promise, samples)
        assert "there were no samples" in found.reason
        assert found.samples == 0


def test_an_output_that_is_always_empty(runtime):
    model = graphs.load("""
        net (float[N] x) => (float[M] y, float[N] z) <float c = {100}> {
            k = Greater (x, c)
            y = Compress (x, k)
            z = Neg (x)
        }""")
    found = check(runtime, model, model, samples=feeds_of([1, 2], [3]))
    assert "output 'y': it was empty in every sample, which proves nothing" in found.reason
    assert check(runtime, model, model, samples=feeds_of([1, 2], [300])).passed


def test_an_output_that_is_declared_to_be_empty(runtime):
    model = graphs.load("""
        net (float[2] x) => (float[0] y, float[2] z) <int64[1] i = {0}, int64[1] j = {0}> {
            y = Slice (x, i, j)
            z = Neg (x)
        }""")
    assert check(runtime, model, model, samples=feeds_of([1, 2])).passed


def test_an_output_without_a_number(runtime):
    model = affine("d = Sub (x, x) y = Div (d, d)")
    for promise in Promise:
        found = check(runtime, model, model, promise, feeds_of([1, 2]))
        assert "no finite element in any sample, which proves nothing" in found.reason


# A lossy result.


def scaled(factor: float) -> ir.Model:
    return graphs.load(
        f"net (float[N, 3] x) => (float[N, 3] y) <float[3] f = {{1, 1, {factor}}}> "
        "{ y = Mul (x, f) }"
    )


ROWS = feeds_of([[3, 1, 1], [1, 1, 2]], [[1, 2, 1]])


def test_a_loss_without_a_target_is_reported(runtime):
    found = check(runtime, scaled(1), scaled(0.25), Promise.LOSSY, ROWS)
    assert found.passed
    difference = found.outputs[0].difference
    assert difference.max_abs == 1.5
    assert 0.9 < difference.cosine < 1
    assert difference.top1 == 2 / 3


@pytest.mark.parametrize(
    ("metric", "below", "above"), [("cosine", 0.9, 0.99), ("top1", 0.6, 0.7), ("sqnr", 6, 12)]
)
def test_a_target_decides(runtime, metric, below, above):
    options = {"metric": metric, "samples": ROWS}
    arguments = (runtime, scaled(1), scaled(0.25), Promise.LOSSY)
    assert check(*arguments, target=below, **options).passed
    found = check(*arguments, target=above, **options)
    assert f"its {metric} is " in found.reason
    assert f"and the target is {above:g}" in found.reason
    # What is equal reaches any target.
    assert check(runtime, scaled(1), scaled(1), Promise.LOSSY, target=above, **options).passed


def test_a_loss_may_not_become_infinite(runtime):
    found = check(runtime, scaled(1), scaled(3e38), Promise.LOSSY, ROWS)
    assert found.reason.endswith("became NaN or infinite")


def test_a_target_is_for_what_is_deployed(runtime):
    """Without optimizations the candidate may be worse, as long as it is finite."""
    good, bad, broken = scaled(1), scaled(0.1), scaled(3e38)
    options = {"promise": Promise.LOSSY, "samples": ROWS, "target": 0.99}
    names = scaled(1), scaled(1)
    assert lying(runtime, *names, {("candidate", "disable"): bad}, **options).passed
    assert not lying(runtime, *names, {("candidate", "all"): bad}, **options).passed
    found = lying(runtime, *names, {("candidate", "disable"): broken}, **options)
    assert "became NaN or infinite" in found.reason
    assert lying(runtime, *names, {("candidate", "all"): good}, **options).passed


# Tolerance.


def test_the_tolerance_that_would_have_passed_would_have_passed(runtime, net):
    other = changed_weight(0.01)
    found = check(runtime, net, other)
    needed = max(output.difference.needed for output in found.outputs)
    assert 1 < needed < math.inf
    wider = found.tolerance.scaled(needed * 1.001)
    assert f"{found.tolerance.scaled(needed)} would have passed" in found.reason
    assert check(runtime, net, other, tolerance=wider).passed
    narrower = found.tolerance.scaled(needed * 0.999)
    assert not check(runtime, net, other, tolerance=narrower).passed


def test_the_tolerance_follows_the_precision_of_the_model(runtime, net):
    half = graphs.load("""
        net (float[N] x) => (float[N] y) {
            h = Cast <to = 10> (x)
            n = Neg (h)
            y = Cast <to = 1> (n)
        }""")
    rounded = graphs.load("""
        net (float[N] x) => (float[N] y) <float s = {0.1}, uint8 z = {0}> {
            q = QuantizeLinear (x, s, z)
            y = DequantizeLinear (q, s, z)
        }""")
    samples = feeds_of([1, 2])
    rtols = [
        check(runtime, m, m, samples=s).tolerance.rtol
        for m, s in ((net, FEEDS), (half, samples), (rounded, samples))
    ]
    assert rtols == [1e-4, 2e-2, 5e-2]
    assert check(runtime, net, net, tolerance=Tolerance(0, 0)).tolerance == Tolerance(0, 0)


# Models that do not run.


def unknown_operator() -> ir.Model:
    model = graphs.load("net (float[N] x) => (float[N] y) { y = Neg (x) }")
    (node,) = model.graph
    node.op_type = "Frobnicate"
    return model


def test_an_original_that_is_not_loaded(runtime):
    good = affine("y = Neg (x)")
    with pytest.raises(ValidationError, match="Frobnicate") as info:
        check(runtime, unknown_operator(), good, samples=feeds_of([1]))
    assert info.value.code == "validation/not-runnable"


def test_a_candidate_that_is_not_loaded(runtime):
    for promise in Promise:
        found = check(
            runtime, affine("y = Neg (x)"), unknown_operator(), promise, feeds_of([1])
        )
        assert "the candidate is not loaded" in found.reason
        assert "Frobnicate" in found.reason


def test_a_file_that_does_not_exist(runtime, tmp_path, net):
    for pair in ((tmp_path / "no.onnx", net), (net, tmp_path / "no.onnx")):
        with pytest.raises(ModelError):
            compare(*pair, FEEDS, Promise.CLOSE, runtime)


def test_files(runtime, tmp_path, net):
    for name, model in (("a.onnx", net), ("b.onnx", changed_weight(0.1))):
        model_io.save(model, tmp_path / name)
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    assert compare(paths[0], paths[0], FEEDS, Promise.EXACT, runtime).passed
    assert not compare(*paths, FEEDS, Promise.CLOSE, runtime).passed


GATHER = "net (float[N] x, int64[K] i) => (float[K] y) { y = Gather (x, i) }"
CLAMPED = """
    net (float[N] x, int64[K] i) => (float[K] y) <int64 low = {0}, int64 high = {2}> {
        j = Clip (i, low, high)
        y = Gather (x, j)
    }"""


def test_a_sample_of_the_user_that_the_original_refuses(runtime):
    samples = Samples.from_feeds(
        [
            {"x": np.ones(3, np.float32), "i": np.array([1])},
            {"x": np.ones(3, np.float32), "i": np.array([3])},
        ]
    )
    with pytest.raises(ValidationError, match="sample 1 of 2 feeds") as info:
        check(runtime, graphs.load(GATHER), graphs.load(GATHER), samples=samples)
    assert info.value.code == "validation/not-runnable"


def test_a_candidate_that_fails_where_the_original_runs(runtime):
    samples = Samples.from_feeds([{"x": np.ones(3, np.float32), "i": np.array([7])}])
    found = check(runtime, graphs.load(CLAMPED), graphs.load(GATHER), samples=samples)
    assert "the candidate fails in sample 0" in found.reason


def test_a_candidate_whose_process_dies(runtime, net, monkeypatch):
    """The child is killed while it runs; that is the result, and no exception."""
    from graphopt.validation import bench

    original_run = bench.run_together
    runs = 0

    def run(sessions, feed):
        nonlocal runs
        runs += 1
        if runs == 2:
            os.kill(sessions[-1]._process.pid, signal.SIGSEGV)
        return original_run(sessions, feed)

    monkeypatch.setattr(bench, "run_together", run)
    found = check(runtime, net, graphs.load(TEXT))
    assert "the candidate fails in sample 1" in found.reason
    assert "SIGSEGV" in found.reason
    monkeypatch.undo()
    assert check(runtime, net, net).passed


# Made-up samples.


def synthetic(model: ir.Model, count: int = 6) -> Samples:
    return Samples.synthetic(model_io.input_specs(model), count=count)


def test_made_up_indices_that_are_out_of_range(runtime):
    """Of a table with one row only index 0 exists."""
    model = graphs.load("""
        net (int64[N] i) => (float[N] y) <float[1] table = {5}> { y = Gather (table, i) }""")
    found = check(runtime, model, model, samples=synthetic(model))
    assert found.passed
    assert found.samples == 6
    assert "the original refuses some made-up samples" in found.notes[0]
    assert "integers 0" in found.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        # Two dimensions that are declared to be independent and are not.
        "net (float[A, B] x, float[C, D] w) => (float[A, D] y) { y = MatMul (x, w) }",
        # A picture that is smaller than the kernel.
        "net (float[B, 1, H, W] x) => (float[B, 1, P, Q] y) "
        "{ y = AveragePool <kernel_shape = [100, 100]> (x) }",
        # More than one has to be large, and one small.
        "net (float[B, T] x, float[B, 3] s) => (float[B, M] y) <int64[4] p = {0, 40, 0, 40}> "
        '{ a = Pad <mode = "reflect"> (x, p) y = Concat <axis = 1> (a, s) }',
    ],
    ids=["equal", "large", "large by itself"],
)
def test_made_up_sizes_that_do_not_fit(runtime, text):
    model = graphs.load(text)
    found = check(runtime, model, model, samples=synthetic(model))
    assert found.passed, found.reason
    assert found.samples > 1
    assert found.notes


def test_replaced_samples_are_the_same_each_time(runtime):
    model = graphs.load(
        "net (float[A, B] x, float[C, D] w) => (float[A, D] y) { y = MatMul (x, w) }"
    )
    first, second = (check(runtime, model, model, samples=synthetic(model)) for _ in range(2))
    assert first.to_json() == second.to_json()


def test_a_wrong_candidate_is_found_with_replaced_samples(runtime):
    head = "net (float[A, B] x, float[C, D] w) => (float[A, D] y)"
    original = graphs.load(f"{head} {{ y = MatMul (x, w) }}")
    wrong = graphs.load(f"{head} {{ p = MatMul (x, w) y = Abs (p) }}")
    assert (
        "it differs by up to"
        in check(runtime, original, wrong, samples=synthetic(original)).reason
    )


def test_an_original_that_refuses_everything_made_up(runtime):
    model = graphs.load("""
        net (float[N] x) => (float[M] y) <int64[1] far = {100000}> { y = Gather (x, far) }""")
    with pytest.raises(ValidationError, match="runs on no made-up sample") as info:
        check(runtime, model, model, samples=synthetic(model))
    assert info.value.code == "validation/not-runnable"
    assert "--data" in info.value.hint


# Random numbers.


def noisy(extra: str = "") -> ir.Model:
    return graphs.load(f"""
        net (float[N] x) => (float[N] y, float[N] z) {{
            {extra}
            r = RandomUniformLike (x)
            y = Add (x, r)
            z = Neg (x)
        }}""")


def test_random_numbers_start_from_the_same_seed(runtime):
    for promise in Promise:
        found = check(runtime, noisy(), noisy(), promise, feeds_of([1, 2], [3]))
        assert (found.reason, found.notes) == ("", ())


def test_a_random_output_cannot_be_compared(runtime):
    # Another node before it draws other numbers.
    found = check(
        runtime, noisy(), noisy("q = RandomUniformLike (x)"), samples=feeds_of([1, 2])
    )
    assert found.passed
    assert len(found.notes) == 1
    assert "'y': not compared" in found.notes[0]
    assert "random" in found.notes[0]
    assert [o.reason[:12] for o in found.outputs] == ["not compared", ""]


def test_a_random_model_proves_nothing(runtime):
    def only(extra: str) -> ir.Model:
        return affine(f"{extra} r = RandomUniformLike (x) y = Add (x, r)")

    found = check(
        runtime, only(""), only("q = RandomUniformLike (x)"), samples=feeds_of([1, 2])
    )
    assert "no output can be compared" in found.reason


def test_an_output_next_to_a_random_one_is_compared(runtime):
    wrong = noisy("q = RandomUniformLike (x)")
    neg = next(node for node in wrong.graph if node.op_type == "Neg")
    neg.op_type = "Abs"
    found = check(runtime, noisy(), wrong, samples=feeds_of([1, 2]))
    assert "output 'z'" in found.reason
    assert "output 'y'" not in found.reason


def test_a_candidate_that_became_random_fails(runtime):
    found = check(
        runtime,
        affine("y = Neg (x)"),
        affine("r = RandomUniformLike (x) y = Add (x, r)"),
        samples=feeds_of([1, 2]),
    )
    assert "output 'y'" in found.reason


# Levels of onnxruntime's optimizations.


class Levels:
    """A runtime that answers with another model at a level: a defect of onnxruntime."""

    def __init__(self, runtime: Runtime, replaced: dict) -> None:
        self.runtime = runtime
        self.replaced = replaced

    def session(self, model, outputs=(), optimize=True, threads=1, config=None):
        other = self.replaced.get((id(model), optimize), model)
        if isinstance(other, ExecutionError):
            raise other
        return self.runtime.session(other, outputs, optimize, threads, config)


def lying(
    runtime, original, candidate, replaced, promise=Promise.CLOSE, samples=None, **options
):
    names = {"original": original, "candidate": candidate}
    levels = Levels(runtime, {(id(names[who]), at): m for (who, at), m in replaced.items()})
    return check(levels, original, candidate, promise, samples or feeds_of([1, 2]), **options)


REFUSED = ExecutionError("refused", "onnxruntime does not load it")


def test_optimizations_that_break_the_original_too_are_not_the_candidates_fault(runtime):
    a, b, broken = affine("y = Neg (x)"), affine("y = Neg (x)"), affine("y = Abs (x)")
    found = lying(runtime, a, b, {("original", "all"): broken, ("candidate", "all"): broken})
    assert found.passed
    assert "onnxruntime's own optimizations change the original" in found.notes[0]
    assert [(one.original_level, one.candidate_level) for one in found.levels] == [
        ("disable", "disable"),
        ("all", "all"),
    ]


def test_optimizations_that_break_the_candidate_only_are(runtime):
    a, b, broken = affine("y = Neg (x)"), affine("y = Neg (x)"), affine("y = Abs (x)")
    found = lying(runtime, a, b, {("candidate", "all"): broken})
    assert "at onnxruntime's default level, output 'y'" in found.reason
    assert [level.passed for level in found.levels] == [True, False]


def test_optimizations_that_break_both_in_another_way_do_not_excuse(runtime):
    a, b = affine("y = Neg (x)"), affine("y = Neg (x)")
    one, two = affine("y = Abs (x)"), affine("y = Exp (x)")
    found = lying(runtime, a, b, {("original", "all"): one, ("candidate", "all"): two})
    assert not found.passed


def test_a_wrong_candidate_that_optimizations_make_right_fails(runtime):
    a, b = affine("y = Neg (x)"), affine("y = Abs (x)")
    found = lying(runtime, a, b, {("candidate", "all"): a})
    assert "without onnxruntime's optimizations, output 'y'" in found.reason


def test_a_candidate_that_is_not_loaded_at_the_default_level_only(runtime):
    a, b = affine("y = Neg (x)"), affine("y = Neg (x)")
    found = lying(runtime, a, b, {("candidate", "all"): REFUSED})
    assert "at onnxruntime's default level the candidate is not loaded" in found.reason
    found = lying(runtime, a, b, {("candidate", "all"): REFUSED, ("original", "all"): REFUSED})
    assert found.passed
    assert "Neither is the original" in found.notes[0]
    assert [level.candidate_level for level in found.levels] == ["disable"]


def test_an_original_that_needs_the_optimizations_is_compared_with_them(runtime):
    a, b = affine("y = Neg (x)"), affine("y = Neg (x)")
    found = lying(runtime, a, b, {("original", "disable"): REFUSED}, Promise.EXACT)
    assert found.passed
    assert "at onnxruntime's default level only" in found.notes[0]
    assert [(one.original_level, one.promise) for one in found.levels] == [
        ("all", Promise.CLOSE)
    ]


def test_a_candidate_that_fails_at_a_level_where_the_original_does_is_compared_at_the_other(
    runtime,
):
    a, b = affine("y = Neg (x)"), affine("y = Neg (x)")
    fails = affine("i = Constant <value_ints = [9]> () g = Gather (x, i) y = Sub (x, g)")
    replaced = {("candidate", "all"): fails, ("original", "all"): fails}
    found = lying(runtime, a, b, replaced)
    assert found.passed
    assert "both models fail in sample 0" in found.notes[0]
    found = lying(runtime, a, b, {("candidate", "all"): fails})
    assert "the candidate fails in sample 0" in found.reason


@pytest.mark.parametrize("metric", ["cosine", lambda outputs, reference: 1.0])
def test_a_target_is_not_reached_where_the_default_level_was_not_compared(runtime, metric):
    a, b = affine("y = Neg (x)"), affine("y = Abs (x)")
    fails = affine("i = Constant <value_ints = [9]> () g = Gather (x, i) y = Sub (x, g)")
    for other in (REFUSED, fails):
        found = lying(
            runtime,
            a,
            b,
            {("candidate", "all"): other, ("original", "all"): other},
            Promise.LOSSY,
            target=0.5,
            metric=metric,
        )
        assert "the target of 0.5 is not judged" in found.reason


def test_a_pair_that_cannot_be_compared_is_not_run_again(runtime):
    a, b = affine("y = Neg (x)"), affine("y = Neg (x)")
    fails = affine("i = Constant <value_ints = [9]> () g = Gather (x, i) y = Sub (x, g)")
    replaced = {("candidate", "all"): fails, ("original", "all"): fails}
    asked = []
    run = Bench.run

    def counted(self, keys, feed):
        asked.append(len(keys))
        return run(self, keys, feed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "run", counted)
        found = lying(runtime, a, b, replaced, samples=feeds_of([1, 2], [2, 3], [3, 4]))
    assert found.passed
    assert asked == [3, 1, 2, 2]


def test_large_models_are_compared_one_by_one(runtime, net, monkeypatch):
    monkeypatch.setattr("graphopt.validation.comparing._LARGE_BYTES", 1)
    opened = []

    class Counted(Levels):
        def session(self, *arguments, **options):
            session = super().session(*arguments, **options)
            opened.append(session)
            assert sum(one.is_open for one in opened) <= 2 + (len(opened) <= 3)
            return session

    found = check(Counted(runtime, {}), net, graphs.load(TEXT))
    assert found.passed
    assert found.samples == 3
    assert len(found.levels) == 2


def test_progress_is_told_about_every_sample(runtime, net):
    steps = []

    class Task:
        def advance(self, steps_done: int = 1) -> None:
            steps.append(steps_done)

        def close(self) -> None:
            steps.append("closed")

    class Bar:
        def track(self, description, total=None):
            return Task()

    check(runtime, net, net, progress=Bar())
    assert steps == [1, 1, 1, "closed"]


def test_no_session_is_left_open(net):
    with Runtime() as fresh:
        check(fresh, net, changed_weight(1))
        assert fresh._busy == []


# Whatever the graph.

UNARY = ["Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Softplus", "Identity"]
BINARY = ["Add", "Sub", "Mean", "Max", "Min"]


@st.composite
def texts(draw) -> str:
    values = ["x", "w"]
    lines = []
    for number in range(draw(st.integers(1, 8))):
        name = f"v{number}"
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        if draw(st.booleans()):
            lines.append(f"{name} = {draw(st.sampled_from(UNARY))} ({a})")
        else:
            lines.append(f"{name} = {draw(st.sampled_from(BINARY))} ({a}, {b})")
        values.append(name)
    # Of one shape, and bounded, whatever came before.
    lines.append(f"s = Add ({values[-1]}, x) y = Sigmoid (s)")
    return (
        "net (float[N, 3] x) => (float[N, 3] y) <float[3] w = {0.5, -1, 2}> "
        f"{{ {' '.join(lines)} }}"
    )


@given(texts())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_model_is_what_it_is(runtime, text):
    samples = feeds_of([[0.5, -1, 2]], [[1, 2, 3], [0, 0, 0]])
    original, candidate = graphs.load(text), graphs.load(text)
    assert check(runtime, original, candidate, Promise.EXACT, samples).reason == ""
    # The same with an error of 0.01 at the end.
    head, body = text.replace("y = Sigmoid", "u = Sigmoid").split("}> {")
    wrong = graphs.load(
        head + "}, float e = {0.01}> {" + body.rstrip("} ") + " y = Add (u, e) }"
    )
    assert "it differs by up to" in check(runtime, original, wrong, samples=samples).reason


def sensitive(bias: float = 0.0, *, fused: bool = False) -> ir.Model:
    """A convolution whose roundings are blown up; ``fused``: its normalization is in it."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 8, 3, 3)).astype(np.float32)
    factor = rng.uniform(0.5, 2, 4).astype(np.float32)
    shift = np.full(4, bias, np.float32)
    nodes = [oh.make_node("Conv", ["x", "w", "b"] if fused else ["x", "w"], ["c"])]
    tensors = {"w": weight * factor[:, None, None, None] if fused else weight}
    if fused:
        tensors["b"] = shift
        nodes.append(oh.make_node("Identity", ["c"], ["n"]))
    else:
        zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
        tensors |= {"f": factor, "s": shift, "z": zeros, "o": ones}
        nodes.append(
            oh.make_node("BatchNormalization", ["c", "f", "s", "z", "o"], ["n"], epsilon=0.0)
        )
    tensors["k"] = np.float32(50)
    nodes += [oh.make_node("Mul", ["n", "k"], ["m"]), oh.make_node("Sin", ["m"], ["y"])]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", 1, ["N", 8, 6, 6])],
        [oh.make_tensor_value_info("y", 1, ["N", 4, 4, 4])],
        [
            onnx.numpy_helper.from_array(np.asarray(data), name)
            for name, data in tensors.items()
        ],
    )
    opsets = [oh.make_opsetid("", 21)]
    return ir.from_proto(oh.make_model(graph, opset_imports=opsets, ir_version=10))


def test_a_sensitive_model_is_allowed_what_the_runtime_does_to_it(runtime):
    x = np.random.default_rng(1).standard_normal((4, 8, 6, 6)).astype(np.float32)
    samples = Samples.from_feeds([{"x": x}])

    comparison = check(runtime, sensitive(), sensitive(fused=True), samples=samples)

    assert max(output.difference.needed for output in comparison.levels[0].outputs) > 1
    assert comparison.passed, comparison.reason
    assert any("sensitive to the order" in note for note in comparison.notes)


def test_a_sensitive_model_is_no_excuse_for_an_error(runtime):
    x = np.random.default_rng(1).standard_normal((4, 8, 6, 6)).astype(np.float32)
    samples = Samples.from_feeds([{"x": x}])

    comparison = check(runtime, sensitive(), sensitive(1e-3, fused=True), samples=samples)

    assert not comparison.passed
    assert "not rtol=" in comparison.reason

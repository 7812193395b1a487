"""Bad calibration data are refused by input and sample, or survived; never silently."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphopt.passes.quantize.quantize_static import QuantizeStatic
from quantized import array_of, load_with_weights, run_optimized, set_array

from graphopt import model_io
from graphopt.errors import ModelError, SamplesError
from graphopt.passbase import Context
from graphopt.samples import Samples

TEXT = """g (float[N,8] x, float[8,16] A, float[16,4] B) => (float[N,4] z)
    { a = MatMul(x, A) b = Relu(a) z = MatMul(b, B) }"""
METHODS = ["minmax", "average", "percentile", "entropy", "mse", "auto"]

Feeds = list[dict[str, np.ndarray]]


def network() -> ir.Model:
    return load_with_weights(TEXT, *"AB")


def good(count: int = 4) -> Feeds:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2, 8)).astype(np.float32)} for _ in range(count)]


def with_value(value: float, sample: int = 2) -> Feeds:
    feeds = good()
    feeds[sample]["x"][0, 3] = value
    return feeds


def calibrate(feeds: Feeds | Callable, context: Context, method: str) -> ir.Model:
    model = network()
    context.samples = Samples.from_feeds(feeds, model_io.input_specs(model))
    QuantizeStatic(method=method).run(model, context)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ([], "no feed"),
        (with_value(np.nan), r"input 'x' of sample 2 holds NaN"),
        (with_value(np.inf), r"input 'x' of sample 2"),
        ([{"x": np.zeros((0, 8), np.float32)}] * 3, "every array is empty"),
        ([*good(), {"x": np.ones((2, 9), np.float32)}], "sample 4"),
        ([*good(), {"x": np.ones((2, 8), np.int64)}], "sample 4"),
        ([*good(), {"y": np.ones((2, 8), np.float32)}], "sample 4"),
        ([*good(), {**good()[0], "y": np.ones(3, np.float32)}], "sample 4"),
    ],
    ids=["none", "nan", "inf", "empty", "shape", "type", "name", "extra"],
)
def test_refused_by_input_and_sample(
    feeds: Feeds, message: str, method: str, context: Context
) -> None:
    with pytest.raises(SamplesError, match=message):
        calibrate(feeds, context, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3e38, 1e30])
def test_huge_range_leaves_no_model_that_answers_nan(
    value: float, method: str, context: Context
) -> None:
    model = calibrate(with_value(value), context, method)
    for feed in good():
        (found,) = run_optimized(model, feed)
        assert np.isfinite(found).all()


def test_range_beyond_float32_has_its_reason(context: Context) -> None:
    feeds = with_value(3e38)
    feeds[1]["x"][0, 0] = -3e38
    model = load_with_weights(
        "g (float[N,8] x, float[8,4] A) => (float[N,4] y) { y = MatMul(x, A) }", "A"
    )
    context.samples = Samples.from_feeds(feeds, model_io.input_specs(model))
    assert not QuantizeStatic().run(model, context).modified
    (skip,) = context.ledger.skips
    assert "too wide for float32" in skip.reason


@pytest.mark.parametrize("method", METHODS)
def test_zeros_leave_the_operators_in_float(method: str, context: Context) -> None:
    original = network()
    model = calibrate([{"x": np.zeros((2, 8), np.float32)}] * 3, context, method)
    for feed in good():
        np.testing.assert_array_equal(graphs.run(model, feed), graphs.run(original, feed))
    reasons = [skip.reason for skip in context.ledger.skips]
    assert any("nothing but 0" in reason for reason in reasons)


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_different_sizes_are_fine(method: str, context: Context) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((n, 8)).astype(np.float32)} for n in (1, 7, 3)]
    model = calibrate(feeds, context, method)
    assert "A_quantized" in model.graph.initializers


def test_error_of_a_reader_passes_through_and_changes_nothing(context: Context) -> None:
    def broken() -> Iterator[dict[str, np.ndarray]]:
        yield good()[0]
        raise OSError("the disk is gone")

    model = network()
    before = graphs.text_of(model)
    context.samples = Samples.from_feeds(broken, model_io.input_specs(model))
    with pytest.raises((OSError, SamplesError), match="the disk is gone"):
        QuantizeStatic().run(model, context)
    assert graphs.text_of(model) == before


def test_statistics_are_written_and_read_instead_of_running_again(
    context: Context, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are gone through, for they may be others; the model is not run on them."""
    path = str(tmp_path / "stats.npz")
    first, again = network(), network()
    context.samples = Samples.from_feeds(good(), model_io.input_specs(first))
    QuantizeStatic(statistics=path).run(first, context)
    # Another place, the same numbers.
    context.samples = Samples.from_feeds(lambda: iter(good()), model_io.input_specs(first))
    monkeypatch.setattr("graphopt.calibration.store.collect", None)
    QuantizeStatic(statistics=path).run(again, context)
    assert graphs.text_of(again) == graphs.text_of(first)


def test_statistics_of_other_samples_are_refused(
    context: Context, tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "stats.npz")
    context.samples = Samples.from_feeds(good(4))
    QuantizeStatic(statistics=path).run(network(), context)
    context.samples = Samples.from_feeds(good(5))
    with pytest.raises(SamplesError, match="of other samples"):
        QuantizeStatic(statistics=path).run(network(), context)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_weight_that_is_not_finite_is_refused_by_name(
    value: float, method: str, context: Context
) -> None:
    model = network()
    weight = array_of(model, "B").copy()
    weight[1, 2] = value
    set_array(model, "B", weight)
    context.samples = Samples.from_feeds(good(), model_io.input_specs(model))
    with pytest.raises(ModelError, match="'B'"):
        QuantizeStatic(method=method).run(model, context)


def test_zeros_are_warned_of_by_input(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    calibrate([{"x": np.zeros((2, 8), np.float32)}] * 3, context, "minmax")
    assert "input 'x' is zero everywhere" in caplog.text


def test_reader_that_never_ends_is_refused(context: Context) -> None:
    class Endless:
        def get_next(self) -> dict[str, np.ndarray]:
            return good(1)[0]

    context.samples = Samples.from_reader(Endless(), max_feeds=20)
    with pytest.raises(SamplesError, match="delivered 20 feeds and has not come to an end"):
        QuantizeStatic().run(network(), context)

import numpy as np
import pytest
from graphopt.passes.prune.least_squares import Moments, Rows, fit


def moments(x, y, parts=1):
    result = Moments(x.shape[1], y.shape[1])
    for rows, targets in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
        result.update(rows, targets)
    return result


def held(x, y, parts=3):
    result = Rows()
    for rows, targets in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
        result.update(rows, targets)
    return result


def problem(seed=0, rows=400, inputs=6, outputs=3, noise=0.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs)) + 1
    weight, bias = rng.standard_normal((outputs, inputs)), rng.standard_normal(outputs)
    y = x @ weight.T + bias + noise * rng.standard_normal((rows, outputs))
    return x, y, weight, bias


def test_the_error_is_the_mean_square_of_the_differences():
    x, y, weight, bias = problem(noise=0.3)
    other = weight + 0.1
    expected = np.mean(np.square(x @ other.T + bias - y))
    assert held(x, y).error(other, bias) == pytest.approx(expected, rel=1e-5)


def test_the_sums_do_not_depend_on_how_the_rows_are_divided():
    x, y, _, _ = problem(rows=10000)
    one, many = moments(x, y), moments(x, y, parts=37)
    np.testing.assert_allclose(one.gram.full(), many.gram.full(), rtol=1e-5)
    np.testing.assert_allclose(one.cross, many.cross, rtol=1e-4, atol=1e-2)
    assert one.count == many.count


@pytest.mark.parametrize("free_bias", [True, False])
def test_weights_that_explain_everything_are_found(free_bias):
    x, y, weight, bias = problem()
    start = (np.zeros_like(weight), bias if not free_bias else np.zeros_like(bias))
    result = fit(moments(x[:300], y[:300]), held(x[300:], y[300:]), *start, free_bias)

    assert result.method == "least squares"
    assert result.error < 1e-4 < result.error_before
    np.testing.assert_allclose(result.weight, weight, atol=0.05)


def test_good_weights_are_left_as_they_were():
    x, y, weight, bias = problem(noise=0.0)
    result = fit(moments(x[:300], y[:300]), held(x[300:], y[300:]), weight, bias, True)
    assert result.error <= result.error_before
    np.testing.assert_allclose(result.weight, weight, atol=1e-3)


def test_fewer_rows_than_unknowns_do_no_harm():
    x, y, weight, bias = problem(inputs=50, rows=24)
    off = weight + 0.05 * np.random.default_rng(1).standard_normal(weight.shape)
    result = fit(moments(x[:16], y[:16]), held(x[16:], y[16:]), off, bias, True)
    assert np.isfinite(result.weight).all()
    assert result.error <= result.error_before


def test_a_bias_alone_is_enough_where_the_weights_are_right():
    x, y, weight, bias = problem(rows=60, inputs=40, noise=1.0)
    result = fit(moments(x[:45], y[:45]), held(x[45:], y[45:]), weight, bias + 30, True)
    np.testing.assert_allclose(result.bias, bias, atol=2.0)
    assert result.error < result.error_before


def test_inputs_that_are_always_zero_keep_their_weights():
    x, y, weight, bias = problem()
    x[:, 2] = 0
    result = fit(moments(x[:300], y[:300]), held(x[300:], y[300:]), weight * 0.9, bias, True)
    np.testing.assert_allclose(result.weight[:, 2], weight[:, 2] * 0.9)


def test_what_is_not_finite_is_noticed():
    x, y, _, _ = problem()
    x[3, 1] = np.inf
    with np.errstate(invalid="ignore"):
        assert not moments(x, y).is_finite
        assert not held(x, y).is_finite
    assert not Moments(3, 2).is_finite
    assert not Rows().is_finite

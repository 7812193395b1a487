"""Quality and its bound: the figures of validation, and never sure of more than was seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.metrics import DifferenceMeter
from graphopt.quality import QualityMeter, decisions_needed
from graphopt.scores import metric_of


def judged(metric, pairs):
    meter = QualityMeter(metric_of(metric))
    for index, (reference, other) in enumerate(pairs):
        meter.add(index, {}, {"y": np.asarray(reference)}, {"y": np.asarray(other)})
    return meter.result()


def noisy(count: int = 20, size: float = 0.1) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((count, 3, 5)).astype(np.float32)
    return [(x, x + size * rng.standard_normal(x.shape).astype(np.float32)) for x in arrays]


@pytest.mark.parametrize("metric", ["cosine", "top1", "sqnr"])
def test_figures_are_those_of_validation(metric: str) -> None:
    meter = DifferenceMeter()
    for index, (reference, other) in enumerate(noisy()):
        meter.add(index, reference, other)
    found = meter.result()
    expected = {"cosine": found.cosine, "top1": found.top1, "sqnr": found.sqnr_db}[metric]
    quality = judged(metric, noisy())
    assert quality.value == pytest.approx(expected, rel=1e-9)
    assert quality.bound < quality.value
    assert quality.decisions == (60 if metric == "top1" else 0)


def test_bound_is_below_the_true_figure_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth, rounds, above = 0.9, 400, 0
    for _ in range(rounds):
        right = rng.random(40) < truth
        pairs = [([[1.0, 0.0]], [[1.0, 0.0] if ok else [0.0, 1.0]]) for ok in right]
        above += judged("top1", pairs).bound > truth
    assert above / rounds < 0.07  # 5 % by its definition


def test_more_samples_show_more() -> None:
    found = [judged("cosine", noisy(count)) for count in (4, 16, 64)]
    margins = [quality.value - quality.bound for quality in found]
    assert margins == sorted(margins, reverse=True)


def test_ten_right_answers_do_not_show_99_percent() -> None:
    quality = judged("top1", [([[1.0, 0.0]], [[2.0, 0.0]])] * 10)
    assert quality.value == 1
    assert quality.is_flawless
    assert quality.bound == pytest.approx(10 / (10 + 1.6449**2), rel=1e-3)
    assert quality.proven == 1  # nothing of this number could show more


@pytest.mark.parametrize("target", [0.9, 0.985, 0.99])
def test_decisions_needed_show_the_target_and_one_less_does_not(target: float) -> None:
    needed = decisions_needed(target)
    for count, shows in ((needed, True), (needed - 1, False)):
        quality = judged("top1", [([[1.0, 0.0]], [[2.0, 0.0]])] * count)
        assert (quality.bound >= target) == shows


def test_samples_that_differ_lower_the_bound() -> None:
    x = np.ones((1, 4), np.float32)
    y = x * [1, 1, 1, -1]
    even = judged("cosine", [(x, x + 0.1)] * 8)
    mixed = judged("cosine", [(x, x)] * 7 + [(x, y)])
    assert even.bound == pytest.approx(even.value)
    assert mixed.bound < mixed.value - 0.05


def test_single_sample_has_no_bound_of_its_own() -> None:
    quality = judged("cosine", noisy(1))
    assert quality.bound == quality.value
    assert quality.samples == 1


def test_what_becomes_infinite_has_no_quality() -> None:
    for bad in (math.nan, math.inf):
        quality = judged("cosine", [([1.0, 2.0], [1.0, bad])])
        assert quality.proven == -math.inf


def test_nan_of_the_original_is_left_out() -> None:
    quality = judged("cosine", [([1.0, math.nan, 2.0], [1.0, 5.0, 2.0])])
    assert quality.value == pytest.approx(1)


def test_worst_output_counts() -> None:
    meter = QualityMeter("cosine")
    x = np.ones(4, np.float32)
    for index in range(3):
        meter.add(index, {}, {"a": x, "b": x}, {"a": x, "b": x * [1, 1, 1, -1]})
    assert meter.result().value == pytest.approx(0.5)


@pytest.mark.parametrize("metric", ["cosine", "top1"])
def test_words_are_judged_by_what_is_the_same(metric: str) -> None:
    quality = judged(metric, [(np.array(["a", "b"]), np.array(["a", "c"]))] * 4)
    assert (quality.value, quality.decisions) == (0.5, 8)


def test_equal_outputs_are_flawless_in_decibels() -> None:
    x = np.ones(4, np.float32)
    quality = judged("sqnr", [(x, x)] * 3)
    assert quality.proven == math.inf


def test_users_right_and_wrong_count_as_decisions() -> None:
    def same(outputs, reference) -> bool:
        return bool((outputs["y"] == reference["y"]).all())

    pairs = [([1.0], [1.0])] * 9 + [([1.0], [2.0])]
    quality = judged(same, pairs)
    assert (quality.value, quality.decisions) == (pytest.approx(0.9), 10)
    assert quality.bound < 0.75
    assert judged(same, pairs[:9]).proven == 1


def test_users_share_has_a_bound_from_the_spread() -> None:
    quality = judged(lambda outputs: float(abs(outputs["y"]).mean()), noisy(30, 0.3))
    assert quality.bound < quality.value
    assert quality.decisions == 0


@pytest.mark.parametrize("metric", ["cosine", "top1", "sqnr", lambda outputs: 1.0])
def test_what_takes_another_shape_has_no_quality(metric) -> None:
    found = np.ones((3, 4), np.int64), np.ones((3, 5), np.int64)
    assert judged(metric, [found, (found[0], found[0])]).proven == -math.inf


def test_in_decibels_what_has_no_energy_does_not_hide_the_rest() -> None:
    meter = QualityMeter("sqnr")
    for index, (x, y) in enumerate(noisy()):
        reference = {"y": x, "flag": np.array([True]), "zero": np.zeros(3, np.float32)}
        meter.add(index, {}, reference, {**reference, "y": y})
    assert meter.result() == judged("sqnr", noisy())


def test_in_decibels_a_share_of_wrong_answers_is_their_noise() -> None:
    right = np.array([True])
    quality = judged("sqnr", [(right, right)] * 99 + [(right, ~right)])
    assert quality.value == pytest.approx(20)
    assert quality.bound < quality.value
    assert not quality.is_flawless


@pytest.mark.parametrize("metric", ["cosine", "top1", "sqnr"])
def test_ceiling_is_the_figure_were_the_rest_answered_as_by_the_original(metric: str) -> None:
    pairs = noisy(8, size=1.0)
    best, part, whole = (QualityMeter(metric) for _ in range(3))
    for index, (reference, other) in enumerate(pairs):
        found = other if index < 3 else reference
        best.add(index, {}, {"y": reference}, {"y": reference})
        whole.add(index, {}, {"y": reference}, {"y": found})
        if index < 3:
            part.add(index, {}, {"y": reference}, {"y": found})
    assert part.ceiling(best, 8).value == whole.result().value
    assert part.ceiling(best, 3).value == part.result().value
    assert part.ceiling(best, 8).value > part.result().value


@pytest.mark.parametrize("metric", ["cosine", "top1", "sqnr"])
@pytest.mark.parametrize("seed", range(5))
def test_no_answers_show_more_than_the_ceiling(metric: str, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((6, 4, 8)).astype(np.float32)
    other = x + np.float32(0.1) * x[:, ::-1]
    best, meter = QualityMeter(metric), QualityMeter(metric)
    for index, one in enumerate(x):
        best.add(index, {}, {"y": one}, {"y": one})
    ceilings = []
    for index, (one, found) in enumerate(zip(x, other, strict=True)):
        meter.add(index, {}, {"y": one}, {"y": found})
        ceilings.append(meter.ceiling(best, len(x)).proven)
    assert min(ceilings) >= meter.result().proven


def test_ceiling_of_a_metric_of_the_users_and_of_what_is_lost() -> None:
    best, part = (
        QualityMeter(metric_of(lambda outputs, reference: outputs["y"] @ reference["y"]))
        for _ in range(2)
    )
    one, half = {"y": np.array([1.0])}, {"y": np.array([0.5])}
    for index in range(4):
        best.add(index, {}, one, one)
    part.add(0, {}, one, half)
    assert part.ceiling(best, 4).value == 0.875
    part.add(1, {}, one, {"y": np.array([np.nan])})
    assert part.ceiling(best, 4).value == -math.inf


def test_sums_of_a_large_output_are_those_of_its_parts() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 20_001)).astype(np.float32)
    y = x + np.float32(0.1) * rng.standard_normal(x.shape).astype(np.float32)
    a, b = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    cosine = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
    assert judged("cosine", [(x, y)]).value == pytest.approx(cosine, rel=1e-12)
    x[1, 7] = np.inf  # counts in neither
    y[1, 7] = np.inf
    a, b = a[np.isfinite(x.ravel())], b[np.isfinite(x.ravel())]
    cosine = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
    assert judged("cosine", [(x, y)]).value == pytest.approx(cosine, rel=1e-12)

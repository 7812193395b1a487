"""Metrics of the user's: found by name, given what they ask for, refused in one line."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from graphopt.errors import MetricError
from graphopt.scores import BUILT_IN, ScoreMeter, UserMetric, metric_of

A = {"y": np.array([1.0, 2.0])}
B = {"y": np.array([1.0, 1.0])}


class Unreadable:
    """As a tensor of another library that is not on the CPU."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("not on the CPU")

    def __repr__(self) -> str:
        return "Unreadable"


def meter(function: Callable) -> ScoreMeter:
    metric = metric_of(function)
    assert isinstance(metric, UserMetric)
    return ScoreMeter(metric)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_metrics_are_their_names(name: str) -> None:
    assert metric_of(name) == name


def test_function_gets_what_it_asks_for() -> None:
    seen = []

    def metric(feed, index, outputs, *, reference, scale=2.0) -> float:
        seen.append((feed["x"], index, outputs["y"][1], reference["y"][1]))
        return scale

    adds = meter(metric)
    adds.add(7, {"x": 3}, A, B)
    assert seen == [(3, 7, 1.0, 2.0)]
    assert adds.quality() == 2


def test_with_the_reference_quality_is_the_mean() -> None:
    adds = meter(lambda outputs, reference: (outputs["y"] == reference["y"]).mean())
    adds.add(0, {}, A, B)
    adds.add(1, {}, A, A)
    assert adds.quality() == 0.75


def test_without_it_quality_is_the_share_of_the_originals_score() -> None:
    labels = [1, 0]
    adds = meter(lambda outputs, index: outputs["y"][labels[index]])
    adds.add(0, {}, A, B)  # 1 of 2
    adds.add(1, {}, A, A)  # 1 of 1
    assert adds.quality() == pytest.approx(2 / 3)


def test_metric_that_changes_what_it_is_given_changes_nothing() -> None:
    def careless(outputs, reference, feed) -> float:
        equal = (outputs["y"] == reference["y"]).mean()
        for arrays in (outputs, reference, feed):
            arrays.popitem()[1][:] = 7
        return equal

    feed = {"x": np.zeros(2)}
    real, found = {"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, 1.0])}
    adds = meter(careless)
    adds.add(0, feed, real, found)
    adds.add(1, feed, real, found)
    assert adds.scores == [(0.5, 1.0), (0.5, 1.0)]
    assert (feed["x"].tolist(), real["y"].tolist(), found["y"].tolist()) == (
        [0, 0],
        [1, 2],
        [1, 1],
    )


def test_score_of_the_original_is_of_what_it_answered() -> None:
    def careless(outputs) -> float:
        outputs["y"] -= outputs["y"].min()
        return float(outputs["y"].sum())

    real = {"y": np.array([1.0, 3.0])}
    adds = meter(careless)
    adds.add(0, {}, real, real)
    assert adds.scores == [(2.0, 2.0)]
    assert real["y"].tolist() == [1.0, 3.0]


def test_original_without_a_score_has_no_share() -> None:
    adds = meter(lambda outputs: 0)
    adds.add(0, {}, A, B)
    with pytest.raises(MetricError, match="gives the original 0 on average") as info:
        adds.quality()
    assert info.value.code == "metric/no-share"


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (None, "None"),
        ("good", "'good'"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (np.ones(3), r"an array of shape \[3\]"),
        ([1.0, 2.0], r"\[1.0, 2.0\]"),
        (1j, "1j"),
        ("0.5", "'0.5'"),
        pytest.param(10**400, r"10+\.\.\.", id="beyond-float"),
        (Unreadable(), "Unreadable"),
    ],
)
def test_what_is_no_number_is_refused_with_its_sample(returned: object, shown: str) -> None:
    adds = meter(lambda outputs: returned)
    with pytest.raises(MetricError, match=rf"returned {shown} for sample 4") as info:
        adds.add(4, {}, A, B)
    assert info.value.code == "metric/no-number"


@pytest.mark.parametrize("returned", [True, np.float32(1), np.ones((1, 1)), 1])
def test_what_is_one_number_is_taken(returned: object) -> None:
    adds = meter(lambda outputs: returned)
    adds.add(0, {}, A, B)
    assert adds.quality() == 1


def test_what_it_raises_is_told_with_its_sample() -> None:
    adds = meter(lambda outputs: outputs["logits"])
    with pytest.raises(MetricError, match="raised KeyError on sample 2: 'logits'") as info:
        adds.add(2, {}, A, B)
    assert info.value.code == "metric/raised"


def test_metric_that_leaves_the_process_does_not_end_the_run_as_if_all_were_well() -> None:
    def leaves(outputs) -> None:
        raise SystemExit(0)

    with pytest.raises(MetricError, match="raised SystemExit on sample 2"):
        meter(leaves).add(2, {}, A, B)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda prediction: 1,
            "has the parameter 'prediction'; a metric takes any of outputs",
        ),
        (lambda: 1, "none of them by name"),
        (lambda *outputs: 1, "none of them by name|parameter 'outputs'"),
        (lambda outputs, **rest: 1, "parameter 'rest'"),
    ],
)
def test_parameters_it_cannot_be_given_are_refused(function: Callable, message: str) -> None:
    with pytest.raises(MetricError, match=message) as info:
        metric_of(function)
    assert info.value.code == "metric/signature"


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_module_of_the_current_folder_is_found(here: pathlib.Path) -> None:
    (here / "my_metric_a.py").write_text(
        "class Of:\n    @staticmethod\n    def mine(outputs): return 1\nvalue = 3\n"
    )
    metric = metric_of("my_metric_a:Of.mine")
    assert isinstance(metric, UserMetric)
    assert metric.name == "my_metric_a:Of.mine"
    assert metric.is_share
    with pytest.raises(MetricError, match=r"has no 'Off'\. Did you mean 'Of'"):
        metric_of("my_metric_a:Off.mine")
    with pytest.raises(MetricError, match="my_metric_a:value is 3, which is no function"):
        metric_of("my_metric_a:value")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("b", None, "'my_metric_b' cannot be imported: ModuleNotFoundError"),
        ("c", "def f(:", "cannot be imported: SyntaxError"),
        ("d", "raise ValueError('no labels')", "cannot be imported: ValueError: no labels"),
        ("e", "raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
    ],
)
def test_module_that_cannot_be_imported(
    here: pathlib.Path, name: str, source: str | None, message: str
) -> None:
    if source is not None:
        (here / f"my_metric_{name}.py").write_text(source)
    with pytest.raises(MetricError, match=message) as info:
        metric_of(f"my_metric_{name}:f")
    assert info.value.code == "metric/import"


@pytest.mark.parametrize("name", ["cosin", "", ":f", "module:", "top-1"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(MetricError, match=r"no metric .* Or module:function") as info:
        metric_of(name)
    assert info.value.code == "metric/unknown"


def test_version_is_that_of_the_file(here: pathlib.Path) -> None:
    file = here / "versioned.py"
    file.write_text("def score(outputs):\n    return 1\n", encoding="utf-8")
    metric = metric_of("versioned:score")
    assert isinstance(metric, UserMetric)
    first = metric.version()
    assert metric.version() == first != ""
    file.write_text("def score(outputs):\n    return 2\n", encoding="utf-8")
    assert metric.version() != first

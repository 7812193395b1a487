"""The search for precisions, on made-up models whose best choice is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import hypothesis
import pytest
from graphopt.passes.quantize.auto_choice import (
    Choice,
    Evaluation,
    Outcome,
    Speed,
    pareto_front,
)
from graphopt.passes.quantize.auto_search import Search
from hypothesis import strategies as st

NAMES = [f"op{i}" for i in range(16)]


class Model:
    """Each operator in integer costs quality and saves time."""

    def __init__(self, harm: Sequence[float], saves: float = 0.04) -> None:
        self.does = dict(zip(NAMES, harm, strict=True))
        self.alone = self.does  # what each seems to do where only it is in integer
        self.saves = saves
        self.asked: list[Choice] = []
        self.timed: list[Choice] = []
        self.interrupt_after = 1 << 30

    def quality(self, choice: Choice) -> Evaluation:
        self.asked.append(choice)
        if len(self.asked) > self.interrupt_after:
            raise KeyboardInterrupt
        integer = [name for name in NAMES if name not in choice.kept]
        harm = sum(self.does[name] for name in integer)
        return Evaluation(choice, 1 - harm, 1 - harm, 1000 - 10 * len(integer))

    def harm(self, scheme: str, name: str) -> float:
        return self.alone[name]

    def speeds(self, choices: Sequence[Choice]) -> list[Speed]:
        self.timed += choices
        ratios = [1 - self.saves * (len(NAMES) - len(choice.kept)) for choice in choices]
        return [Speed(ratio, 10 * ratio) for ratio in ratios]


ORIGINAL = Evaluation(Choice(), 1.0, 1.0, 1000, Speed(1.0, 10.0))


def search(model: Model, target: float, **options) -> Outcome:
    return Search({"static": NAMES}, target, model, ORIGINAL, **options).run()


FALLING = [0.1 / (1 + i) for i in range(16)]


def test_all_in_integer_where_that_keeps_the_quality() -> None:
    model = Model([0.0001] * 16)
    outcome = search(model, 0.99)
    assert outcome.best.choice == Choice("static")
    assert outcome.is_complete
    assert len(model.asked) == 1


def test_as_few_as_possible_stay_behind() -> None:
    model = Model(FALLING)
    outcome = search(model, 0.9)
    assert outcome.best.quality >= 0.9
    assert outcome.best.choice.kept == tuple(sorted(NAMES[: len(outcome.best.choice.kept)]))
    fewer = len(outcome.best.choice.kept) - 1
    assert 1 - sum(FALLING[fewer:]) < 0.9
    assert len(model.asked) <= 1 + 5 + 2 * len(outcome.best.choice.kept)


def test_ranking_that_is_wrong_is_made_up_for() -> None:
    harm = [0.0001] * 16
    harm[15] = 0.5
    model = Model(harm)
    model.alone = {name: float(-index) for index, name in enumerate(NAMES)}  # has it last
    assert search(model, 0.99).best.choice == Choice("static", ("op15",))
    assert len(model.asked) < 16


def test_original_is_kept_where_integers_are_slower() -> None:
    model = Model([0.0] * 16, saves=-0.05)
    outcome = search(model, 0.9)
    assert outcome.best.choice == Choice()
    assert outcome.best is ORIGINAL


def test_what_cannot_be_run_is_not_timed_and_the_search_goes_on() -> None:
    class Broken(Model):
        """onnxruntime refuses it as long as the first operator is in integer."""

        def quality(self, choice: Choice) -> Evaluation:
            found = super().quality(choice)
            if NAMES[0] in choice.kept:
                return found
            return dataclasses.replace(found, quality=-math.inf, proven=-math.inf)

        def speeds(self, choices: Sequence[Choice]) -> list[Speed]:
            assert all(NAMES[0] in choice.kept for choice in choices), "it cannot be run"
            return super().speeds(choices)

    outcome = search(Broken([1.0] + [0.0001] * 15), 0.99)
    assert outcome.is_complete
    assert outcome.best.choice == Choice("static", (NAMES[0],))


def test_what_cannot_be_timed_gives_way_to_what_can() -> None:
    class Dies(Model):
        """onnxruntime dies while it times what has the first two operators in integer."""

        def speeds(self, choices: Sequence[Choice]) -> list[Speed | None]:
            return [
                speed if NAMES[1] in choice.kept else None
                for choice, speed in zip(choices, super().speeds(choices), strict=True)
            ]

    outcome = search(Dies([1.0] + [0.0001] * 15), 0.99)
    assert outcome.is_complete
    assert outcome.best.choice == Choice("static", tuple(sorted(NAMES[:2])))
    untimed = [found for found in outcome.evaluations if NAMES[1] not in found.choice.kept]
    assert all(found.speed is None for found in untimed if found.choice.scheme)


def test_best_so_far_stays_where_it_cannot_be_timed_again() -> None:
    class Once(Model):
        """Dynamic is fast, but misses the target unless something is left behind."""

        def quality(self, choice: Choice) -> Evaluation:
            holds = choice.scheme == "static" or bool(choice.kept)
            return dataclasses.replace(super().quality(choice), proven=float(holds))

        def speeds(self, choices: Sequence[Choice]) -> list[Speed | None]:
            known = set(self.timed)
            self.timed += choices
            ratios = {("static", False): 0.5, ("dynamic", False): 0.1, ("dynamic", True): 0.9}
            return [
                None if choice in known else Speed(ratios[choice.scheme, bool(choice.kept)], 1)
                for choice in choices
            ]

    model = Once([0.0] * 16)
    outcome = Search({"static": NAMES, "dynamic": NAMES}, 0.9, model, ORIGINAL).run()
    assert model.timed.count(Choice("static")) > 1
    assert outcome.best.choice == Choice("static")
    assert outcome.best.speed == Speed(0.5, 1)


def test_gain_within_the_noise_of_the_clock_is_none() -> None:
    assert search(Model([0.0] * 16, saves=0.001), 0.9).best.choice == Choice()


def test_scheme_without_operators_is_not_tried() -> None:
    """It is the original: that it seems 5 % faster is noise."""
    model = Model(FALLING)
    outcome = Search({"static": (), "dynamic": ()}, 0.5, model, ORIGINAL).run()
    assert model.asked == model.timed == []
    assert outcome.best == ORIGINAL
    assert outcome.is_complete


def test_faster_scheme_wins() -> None:
    class Two(Model):
        def speeds(self, choices: Sequence[Choice]) -> list[Speed]:
            return [Speed(0.5 if choice.scheme == "dynamic" else 0.6, 1) for choice in choices]

    model = Two([0.0] * 16)
    found = Search({"static": NAMES, "dynamic": NAMES}, 0.9, model, ORIGINAL).run()
    assert found.best.choice == Choice("dynamic")


@pytest.mark.parametrize("after", range(12))
def test_interrupted_search_returns_the_best_so_far(after: int) -> None:
    model = Model(FALLING)
    model.interrupt_after = after
    outcome = search(model, 0.9)
    assert not outcome.is_complete or len(model.asked) <= after
    assert outcome.best.quality >= 0.9
    assert outcome.best.speed is not None
    assert outcome.is_interrupted != outcome.is_complete


def test_time_limit_is_kept() -> None:
    model = Model(FALLING)
    outcome = search(model, 0.9, go_on=lambda: len(model.asked) < 3)
    assert len(model.asked) == 3
    assert not outcome.is_complete


def test_nothing_is_evaluated_twice() -> None:
    model = Model(FALLING)
    search(model, 0.9)
    assert len(set(model.asked)) == len(model.asked)


def test_best_so_far_is_timed_again_next_to_what_is_new() -> None:
    class Busy(Model):
        """Half as fast from one measurement to the next."""

        def speeds(self, choices: Sequence[Choice]) -> list[Speed]:
            self.rounds = getattr(self, "rounds", 0) + 1
            return [
                Speed(0.1 * self.rounds + 0.02 * len(choice.kept), 1.0) for choice in choices
            ]

    model = Busy(FALLING)
    outcome = search(model, 0.9)
    good = [e for e in outcome.evaluations if e.quality >= 0.9 and e.choice.scheme]
    fewest = min(len(e.choice.kept) for e in good)
    assert len(outcome.best.choice.kept) == fewest


def test_of_the_same_speed_the_smaller_one_is_taken() -> None:
    class Flat(Model):
        def speeds(self, choices: Sequence[Choice]) -> list[Speed]:
            return [Speed(0.5 + 0.001 * len(choice.scheme), 1.0) for choice in choices]

    class Sized(Flat):
        def quality(self, choice: Choice) -> Evaluation:
            found = super().quality(choice)
            size = 500 if choice.scheme == "dynamic" else 600
            return dataclasses.replace(found, size_bytes=size)

    model = Sized([0.0] * 16)
    found = Search({"static": NAMES, "dynamic": NAMES}, 0.9, model, ORIGINAL).run()
    assert found.best.choice == Choice("dynamic")


def test_only_the_best_of_what_keeps_the_quality_is_timed_and_what_is_all_in_integer() -> None:
    model = Model(FALLING)
    outcome = search(model, 0.9)
    good = [e.choice for e in outcome.evaluations if e.quality >= 0.9 and e.choice.scheme]
    timed = list(dict.fromkeys(choice for choice in model.timed if choice.kept))
    assert outcome.best.choice in timed
    assert set(timed) < set(good)
    assert Choice("static") in model.timed
    # Taking one back after the other: what has fewer behind is faster.
    for more, fewer in itertools.pairwise(timed):
        assert set(more.kept) > set(fewer.kept)


@hypothesis.given(st.lists(st.floats(0, 0.2), min_size=16, max_size=16), st.floats(0.5, 1.0))
def test_quality_is_always_kept_and_never_slower(harm: list[float], target: float) -> None:
    outcome = search(Model(harm), target)
    assert outcome.best.quality >= target
    assert outcome.best.speed is not None
    assert outcome.best.speed.ratio <= 1


def test_front_holds_what_nothing_beats() -> None:
    def made(quality: float, ratio: float | None, size: int) -> Evaluation:
        speed = None if ratio is None else Speed(ratio, 10 * ratio)
        choice = Choice("s", (f"{quality}{ratio}{size}",))
        return Evaluation(choice, quality, quality, size, speed)

    fast, good, small = made(0.9, 0.4, 50), made(0.99, 0.7, 80), made(0.9, 0.9, 20)
    beaten, unmeasured = made(0.9, 0.5, 60), made(1.0, None, 10)
    assert pareto_front([good, beaten, fast, unmeasured, small]) == [fast, good, small]

"""The search strategies, tried without any model."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.debug.blame import most_checks
from graphopt.debug.search import bisect, gallop, minimize


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 100, 1000])
def test_every_first_failure_is_found_in_log2_steps(size: int) -> None:
    for first in range(1, size + 1):
        asked: list[int] = []

        def fails(n: int, first: int = first, asked: list[int] = asked) -> bool:
            asked.append(n)
            return n >= first

        assert bisect(0, size, fails) == first
        assert len(asked) <= math.ceil(math.log2(size))
        assert len(set(asked)) == len(asked)
        assert 0 not in asked
        assert size not in asked


def test_where_failures_come_and_go_a_step_from_right_to_wrong_is_found() -> None:
    wrong = {3, 4, 9, 10, 11, 16}
    found = bisect(0, 16, wrong.__contains__)
    assert found in wrong
    assert found - 1 not in wrong


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5, 63, 64, 65, 1000])
def test_galloping_brackets_the_first_failure(first: int) -> None:
    asked: list[int] = []

    def fails(n: int) -> bool:
        asked.append(n)
        return n >= first

    low, high = gallop(0, fails)
    assert low < first <= high
    assert high <= 2 * first
    assert len(asked) <= math.log2(first) + 2


def test_galloping_ends() -> None:
    with pytest.raises(ValueError, match="nothing up to 100 fails"):
        gallop(0, lambda n: False, most=100)


def test_the_promise_of_checks() -> None:
    assert [most_checks(n) for n in (0, 1, 2, 3, 4, 5, 1024, 1025)] == [
        *(2, 2, 3, 4, 4, 5, 12, 13)
    ]


@given(st.integers(1, 40), st.data())
def test_what_is_left_fails_and_nothing_of_it_can_go(size: int, data) -> None:
    needed = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    left = minimize(range(size), lambda items: needed <= set(items))
    assert left == sorted(needed)


@given(st.integers(1, 25), st.randoms(use_true_random=False))
def test_also_where_failing_has_no_pattern(size: int, rng) -> None:
    verdicts: dict[tuple[int, ...], bool] = {tuple(range(size)): True}

    def fails(items: list[int]) -> bool:
        return verdicts.setdefault(tuple(items), rng.random() < 0.3)

    left = minimize(range(size), fails)
    assert left
    assert fails(left)
    if len(left) > 1:
        assert not any(fails([*left[:i], *left[i + 1 :]]) for i in range(len(left)))


def test_the_cost_is_small_where_little_is_needed() -> None:
    asked = 0

    def fails(items: list[int]) -> bool:
        nonlocal asked
        asked += 1
        return {357, 811} <= set(items)

    assert minimize(range(1000), fails) == [357, 811]
    assert asked < 120

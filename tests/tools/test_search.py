"""The search strategies, tried without any model."""

from __future__ import annotations

import math

import pytest

from graphopt.debug.blame import most_checks
from graphopt.debug.search import bisect, gallop


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

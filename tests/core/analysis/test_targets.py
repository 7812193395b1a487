"""Constant targets of a Reshape."""

from __future__ import annotations

from graphopt.analysis.symbolic.expressions import maximum, minimum, symbol
from graphopt.analysis.symbolic.targets import reshape_target

N = symbol("N", given=True)
UNKNOWN = symbol("?1", opaque=True)
CUT = minimum(maximum(N - 2, 0), 2)
"""What a Slice leaves of N; nothing, perhaps."""


def test_sizes_are_copied_and_one_is_left_over() -> None:
    assert reshape_target((N, 3, UNKNOWN), (N, 3 * UNKNOWN)) == [0, -1]
    assert reshape_target((N + 1, 12), (N + 1, 1, 12)) == [0, 1, 12]
    assert reshape_target((N + 1, UNKNOWN), (N + 1, 2, UNKNOWN + 1)) == [0, 2, -1]


def test_a_size_that_may_be_0_is_copied_where_all_others_are_known() -> None:
    assert reshape_target((CUT, 6, 12), (CUT, 72)) == [0, 72]
    assert reshape_target((UNKNOWN, 6, 12), (UNKNOWN, 72)) == [0, 72]


def test_a_size_that_may_be_0_is_not_copied_beside_the_rest() -> None:
    assert reshape_target((CUT, N, 12), (CUT, 1, N * 12)) is None
    assert reshape_target((UNKNOWN, N, 12), (UNKNOWN, 1, N * 12)) is None
    assert reshape_target((N - 1, N, 12), (N - 1, 1, N * 12)) is None


def test_two_sizes_are_not_left_over() -> None:
    assert reshape_target((N, UNKNOWN, 12), (UNKNOWN, N, 12)) is None


def test_the_number_0_cannot_be_stated() -> None:
    assert reshape_target((N, 0), (0, N)) is None

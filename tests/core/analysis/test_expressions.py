"""Arithmetic of symbolic sizes, held against plain integers."""

import itertools

import hypothesis
import hypothesis.strategies as st
import pytest
from expression_values import value_of

from graphopt.analysis.symbolic.expressions import (
    Dim,
    Expr,
    broadcast,
    ceil_divide,
    divide,
    floor_divide,
    is_nonnegative,
    maximum,
    minimum,
    modulo,
    product,
    symbol,
    truncated,
)

N, M = symbol("N"), symbol("M")
SIGNED = symbol("i", nonnegative=False)


def test_constants_are_plain_integers() -> None:
    assert N - N == 0
    assert isinstance(N - N, int)
    assert N + 2 - N == 2
    assert N * 0 == 0


def test_equal_polynomials_are_equal_however_they_were_computed() -> None:
    assert (N + 1) * M == M * N + M
    assert hash((N + 1) * M) == hash(M + N * M)
    assert 2 - N == -(N - 2)
    assert product([N, 12, M]) == M * 12 * N
    assert product([]) == 1


def test_a_quotient_is_exact_or_refused() -> None:
    assert divide(N * 768, 64) == N * 12
    assert divide(N * M * 4, N * 2) == M * 2
    assert divide(N * M + N, N) == M + 1
    assert divide(6, 4) is None
    assert divide(N, 2) is None
    assert divide(N, M) is None
    assert divide(N, 0) is None
    assert divide((N + M) * 3, N + M) == 3
    assert divide(N + M, N - M) is None


def test_the_same_quotient_computed_twice_is_equal_to_itself() -> None:
    assert floor_divide(N + 1, 2) == floor_divide(1 + N, 2)
    assert floor_divide(N + 1, 2) != floor_divide(N, 2)
    assert ceil_divide(N, 2) == floor_divide(N + 1, 2)
    assert broadcast(N, M) == broadcast(M, N)


def test_integers_divide_towards_zero_as_onnx_does() -> None:
    assert [truncated(a, 2) for a in (-5, -4, 5)] == [-2, -2, 2]
    assert truncated(5, 0) is None
    assert truncated(SIGNED, 2) is None  # floor and truncation differ below zero
    assert truncated(N, 2) == floor_divide(N, 2)
    assert modulo(-5, 3) == 1
    assert modulo(5, 0) is None
    assert modulo(N * 6, 3) == 0
    assert modulo(SIGNED, 3) is None


def test_signs_are_known_only_where_all_terms_agree() -> None:
    assert is_nonnegative(N * M + 2)
    assert not is_nonnegative(N - 1)
    assert not is_nonnegative(SIGNED)
    assert not is_nonnegative(-N)


def test_extremes_are_decided_where_the_difference_has_a_sign() -> None:
    assert maximum(N + 1, N) == N + 1
    assert minimum(N, N + M) == N
    assert maximum(N, 0) == N
    assert isinstance(maximum(N, M), Expr)


def test_a_table_cut_to_the_size_broadcasts_to_the_size() -> None:
    cut = minimum(N, 512)
    assert broadcast(cut, N) == N
    assert broadcast(N, cut) == N
    assert broadcast(1, N) == N
    assert broadcast(N, 1) == N
    assert broadcast(N, 7) == 7


def test_names_of_towers_stay_short() -> None:
    dim: Dim = N
    for _ in range(50):
        dim = floor_divide(dim + 1, 2)
    assert len(str(dim)) < 400


@pytest.mark.parametrize("operation", [maximum, minimum, broadcast])
def test_two_sizes_are_combined_as_numbers_are(operation: object) -> None:
    for a, b in itertools.product([0, 1, N, N + 1, M], repeat=2):
        for n, m in itertools.product([2, 3], [2, 3]):
            numbers = value_of(a, N=n, M=m), value_of(b, N=n, M=m)
            if operation is broadcast and len({*numbers, 1}) == 3:
                continue  # these two do not broadcast
            found = operation(a, b)
            assert value_of(found, N=n, M=m) == operation(*numbers)


@st.composite
def polynomials(draw: st.DrawFn) -> Dim:
    dim: Dim = draw(st.integers(-3, 3))
    for _ in range(draw(st.integers(0, 3))):
        atom = draw(st.sampled_from([N, M, SIGNED, 2, -1]))
        dim = draw(st.sampled_from([dim + atom, dim * atom, dim - atom]))
    return dim


@hypothesis.given(polynomials(), polynomials(), st.integers(1, 5))
def test_arithmetic_agrees_with_integers(a: Dim, b: Dim, divisor: int) -> None:
    sizes = {"N": 5, "M": 3, "i": -4}
    x, y = value_of(a, **sizes), value_of(b, **sizes)
    assert value_of(a + b, **sizes) == x + y
    assert value_of(a - b, **sizes) == x - y
    assert value_of(a * b, **sizes) == x * y
    assert value_of(maximum(a, b), **sizes) == max(x, y)
    assert value_of(minimum(a, b), **sizes) == min(x, y)
    assert value_of(floor_divide(a, divisor), **sizes) == x // divisor
    assert value_of(ceil_divide(a, divisor), **sizes) == -(-x // divisor)
    if is_nonnegative(a):
        assert x >= 0
    even = divide(a, b)
    if even is not None and y:
        assert value_of(even, **sizes) * y == x

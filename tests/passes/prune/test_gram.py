import tracemalloc

import numpy as np
import pytest
from graphopt.passes.prune.gram import BLOCK, Gram


def problem(size, rows=2000, outputs=3):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((rows, size)) + 0.2).astype(np.float32)
    gram = Gram(size)
    for part in np.array_split(x, 5):
        gram.add(part)
    exact = x.astype(np.float64).T @ x.astype(np.float64)
    return gram, exact, rng.random(size) + 0.1, rng.standard_normal((size, outputs))


SIZES = [1, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 30]


@pytest.mark.parametrize("size", SIZES)
def test_systems_are_solved_and_the_sum_is_still_whole(size):
    gram, exact, added, right = problem(size)
    for factor in (1.0, 100.0):
        expected = np.linalg.solve(exact + factor * np.diag(added), right)
        found = gram.solve(factor * added, right)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gram.times(right), exact @ right, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(gram.diagonal, np.diag(exact), rtol=1e-5)
    np.testing.assert_allclose(gram.full(), exact, rtol=1e-4, atol=1e-2)


def test_a_matrix_that_is_not_definite_is_an_error():
    gram = Gram(4)
    gram.add(np.ones((3, 4), np.float32))
    with pytest.raises(np.linalg.LinAlgError):
        gram.solve(np.full(4, -1.0), np.ones((4, 1)))


def test_what_overflows_is_noticed():
    gram = Gram(4)
    assert gram.is_finite
    with np.errstate(over="ignore"):
        gram.add(np.full((3, 4), 1e20, np.float32))
    assert not gram.is_finite


def test_nothing_of_the_size_of_the_matrix_is_made_beside_it():
    size = 8 * BLOCK
    rows = np.random.default_rng(0).standard_normal((64, size)).astype(np.float32)
    gram = Gram(size)
    tracemalloc.start()
    try:
        gram.add(rows)
        gram.solve(np.ones(size), np.ones((size, 2)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < Gram.bytes_of(size) / 2

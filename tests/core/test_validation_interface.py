"""A model may ask for less and say more, and nothing else may change."""

import numpy as np
import pytest

from graphopt.samples import TensorSpec
from graphopt.validation.interface import difference_of

ANY = object()


def spec(*shape: object, name: str = "v") -> TensorSpec:
    ranked = shape != (ANY,)
    return TensorSpec(name, np.dtype(np.float32), shape if ranked else (), ranked)


@pytest.mark.parametrize(
    ("was", "is_", "input_fits", "output_fits"),
    [
        (spec("N", 3), spec("N", 3), True, True),
        (spec("N", 3), spec("M", 3), True, True),
        (spec("N", 3), spec(None, 3), True, True),
        (spec(2, 3), spec("N", 3), True, True),
        (spec("N", 3), spec(2, 3), False, True),
        (spec(None, 3), spec(2, 3), False, True),
        (spec(2, 3), spec(2, 4), False, False),
        (spec("N", 3), spec("N", 3, 1), False, False),
        (spec(2), spec(), False, False),
        (spec(ANY), spec(2, 3), False, True),
        (spec(2, 3), spec(ANY), True, True),
        (spec(ANY), spec(ANY), True, True),
    ],
    ids=str,
)
def test_shapes(was, is_, input_fits, output_fits):
    assert (difference_of("input", [was], [is_]) == "") == input_fits
    assert (difference_of("overridable input", [was], [is_]) == "") == input_fits
    assert (difference_of("output", [was], [is_]) == "") == output_fits


def test_the_reason_shows_both_shapes():
    assert difference_of("input", [spec("N", None)], [spec(2, None)]) == (
        "input 'v' is [2, ?] and was [N, ?]"
    )
    assert difference_of("input", [spec(ANY)], [spec(2)]) == (
        "input 'v' is [2] and was of any shape"
    )


def test_a_long_list_is_cut():
    names = [spec(1, name=f"n{index}") for index in range(9)]
    assert difference_of("output", names, []) == (
        "the outputs are not the same: 'n0', 'n1', 'n2', 'n3', 'n4' and 4 more missing"
    )


def test_a_name_that_comes_twice_is_another_number():
    twice = [spec(1), spec(1)]
    assert difference_of("output", [spec(1)], twice) == (
        "the outputs are not the same: another number"
    )

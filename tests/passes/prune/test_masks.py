import numpy as np
import pytest
from graphopt.passes.prune.masks import block_mask, kth_smallest, n_of_m_mask, smallest_mask


def test_the_smallest_are_masked_exactly_and_of_equal_ones_the_first():
    scores = np.array([[3, 1, 1], [2, 1, 0]], np.float32)

    assert smallest_mask(scores, 3).tolist() == [[False, True, True], [False, False, True]]
    assert not smallest_mask(scores, 0).any()
    assert smallest_mask(scores, 6).all()


@pytest.mark.parametrize("seed", range(20))
def test_kth_smallest_is_that_of_all_arrays_together(seed):
    rng = np.random.default_rng(seed)
    arrays = [
        np.abs(rng.standard_normal((rng.integers(1, 9), 5)) * 10.0 ** rng.integers(-30, 30))
        .round(1)
        .astype(np.float32)
        for _ in range(4)
    ]
    flat = np.sort(np.concatenate([array.ravel() for array in arrays]))
    for k in (1, flat.size // 2, flat.size):
        threshold, below = kth_smallest(lambda: iter(arrays), k)
        assert threshold == flat[k - 1]
        assert below == (flat < threshold).sum()


def test_two_of_four_are_left_in_every_group_and_in_the_rest():
    scores = np.array([[1, 2, 3, 4, 9, 8, 7]], np.float32)

    mask = n_of_m_mask(scores, 2, 4)

    assert mask.tolist() == [[True, True, False, False, False, False, True]]


def test_blocks_are_removed_whole_and_small_ones_compared_by_mean():
    scores = np.array([[1, 1, 9, 9, 2], [1, 1, 9, 9, 2]], np.float32)

    mask = block_mask(scores, (2, 2), 2 / 3)

    assert mask.tolist() == [[True, True, False, False, True]] * 2

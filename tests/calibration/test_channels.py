"""Statistics of the channels of a tensor."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.calibration.channels import MAX_FEEDS, ChannelStatistics

RNG = np.random.default_rng(0)
FEEDS = [RNG.standard_normal((1 + i % 3, 4, 5)).astype(np.float32) * (1 + i) for i in range(9)]


def statistics_of(feeds: list[np.ndarray], first: int = 0) -> ChannelStatistics:
    stats = ChannelStatistics()
    for index, feed in enumerate(feeds, first):
        stats.update(feed, index)
    return stats


def test_values_of_each_channel() -> None:
    stats = statistics_of(FEEDS)
    rows = np.concatenate([feed.reshape(-1, 5) for feed in FEEDS])
    assert stats.count == len(rows)
    np.testing.assert_array_equal(stats.low, rows.min(axis=0))
    np.testing.assert_array_equal(stats.high, rows.max(axis=0))
    np.testing.assert_allclose(stats.energy, np.square(rows, dtype=np.float64).sum(axis=0))
    np.testing.assert_allclose(stats.mean, rows.mean(axis=0, dtype=np.float64))


@pytest.mark.parametrize("cut", [0, 1, 5, 9])
def test_parts_are_merged(cut: int) -> None:
    merged, whole = statistics_of(FEEDS[:cut]), statistics_of(FEEDS)
    merged.merge(statistics_of(FEEDS[cut:], cut))
    np.testing.assert_array_equal(merged.low, whole.low)
    np.testing.assert_allclose(merged.energy, whole.energy, rtol=1e-14)
    assert merged.by_feed.keys() == whole.by_feed.keys()


def test_range_is_that_of_each_feed_and_contains_zero() -> None:
    stats = statistics_of([np.array([[1.0, 4.0]]), np.array([[-3.0, 1.0]])])
    assert stats.mean_square_range(np.ones(2)) == (4**2 + 4**2) / 2
    assert stats.mean_square_range(np.array([3.0, 1.0])) == (4**2 + 2**2) / 2


def test_memory_does_not_grow_with_the_feeds() -> None:
    stats = statistics_of([FEEDS[0]] * (MAX_FEEDS + 10))
    assert len(stats.by_feed) == MAX_FEEDS


def test_nothing_and_infinity_are_no_statistics() -> None:
    assert not ChannelStatistics().is_finite
    assert not statistics_of([np.zeros((0, 3))]).is_finite
    assert not statistics_of([np.array([[np.inf]])]).is_finite
    assert statistics_of(FEEDS).is_finite

"""Made-up samples that a model refuses are replaced, the same way each time."""

import graphs
import numpy as np
import pytest

from graphopt import model_io
from graphopt.errors import ValidationError
from graphopt.runtime import Runtime
from graphopt.samples import Samples, TensorSpec
from graphopt.validation import accepted
from graphopt.validation.redraw import Redraw


@pytest.fixture(scope="module")
def runtime():
    with Runtime() as runtime:
        yield runtime


PICTURE = "net (float[B, 1, H, W] x) => (float[B, 1, P, Q] y) "
FITTING = PICTURE + "{ y = Identity (x) }"
# 65 rows and columns are left away on each side.
REFUSING = (
    PICTURE
    + """
    <int64[2] start = {130, 130}, int64[4] s = {1, 1, 1, 1}, int64[2] a = {2, 3}> {
        big = Shape <start = 2, end = 4> (x)
        left = Sub (big, start)
        one = Constant <value_ints = [1, 1]> ()
        size = Concat <axis = 0> (one, left)
        y = ConstantOfShape <value = float[1] {2}> (size)
    }"""
)


def made_up(text: str, count: int = 6) -> tuple:
    model = graphs.load(text)
    return model, Samples.synthetic(model_io.input_specs(model), count=count)


def same(first, second) -> bool:
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


def test_what_is_accepted_stays_as_it_is(runtime):
    model, samples = made_up(FITTING)
    found = accepted(samples, model, runtime)
    assert same(found.feeds(), samples.feeds())
    assert found.notes == ()
    assert found.is_synthetic
    assert found.describe() == samples.describe()
    assert runtime._busy == []


def test_what_is_refused_is_replaced_in_two_sizes(runtime):
    model, samples = made_up(REFUSING)
    found = accepted(samples, model, runtime)
    feeds = list(found.feeds())
    assert len(feeds) == 6
    shapes = {feed["x"].shape for feed in feeds}
    assert len(shapes) >= 2
    for axis in (0, 2, 3):
        assert len({shape[axis] for shape in shapes}) >= 2
    with runtime.session(model) as session:
        for feed in feeds:
            session.run(feed)
    (note,) = found.notes
    assert "the original refuses some made-up samples" in note
    assert "H=" in note
    assert "integers" not in note


def test_each_time_the_same(runtime):
    model, samples = made_up(REFUSING)
    found = accepted(samples, model, runtime)
    first = list(found.feeds())
    assert same(first, found.feeds())
    assert same(first, accepted(samples, model, runtime).feeds())
    assert same(first[:2], found.take(2).feeds())


def test_what_was_tried_is_not_tried_again():
    model, samples = made_up(REFUSING)
    with Runtime() as own:
        found = accepted(samples, model, own)
        list(found.feeds())
    own.session = None  # any use of it would be an error
    assert len(list(found.feeds())) == 6


def test_wrapping_twice_is_wrapping_once(runtime):
    model, samples = made_up(FITTING)
    found = accepted(samples, model, runtime)
    assert accepted(found, model, runtime) is found


def test_samples_of_the_user_are_left_alone(runtime):
    model, _ = made_up(REFUSING)
    samples = Samples.from_feeds([{"x": np.ones((1, 1, 2, 2), np.float32)}])
    assert accepted(samples, model, runtime) is samples


def test_a_model_that_is_not_loaded_is_an_error(runtime):
    model, samples = made_up(FITTING)
    model.graph[0].op_type = "Frobnicate"
    with pytest.raises(ValidationError, match="the original is not loaded") as info:
        list(accepted(samples, model, runtime).feeds())
    assert info.value.code == "validation/not-runnable"


def test_the_first_feed_alone_can_be_asked_for(runtime):
    """As for measuring latency; what is not asked for is not tried."""
    model, samples = made_up(REFUSING)
    found = accepted(samples, model, runtime)
    feed = next(iter(found.feeds()))
    assert min(feed["x"].shape[2:]) > 130
    assert len(found._factory._runs) == 1


SPECS = (
    TensorSpec("x", np.dtype(np.float32), ("B", "T")),
    TensorSpec("state", np.dtype(np.float32), (2, "B", 8)),
    TensorSpec("ids", np.dtype(np.int64), ("B", None)),
    TensorSpec("flag", np.dtype(bool), ()),
    TensorSpec("word", np.dtype(object), ("B",)),
)


def draw(runs) -> dict | None:
    feed = {"x": np.ones((1, 1), np.float32)}
    return Redraw(SPECS).find(feed, 0, runs)


def test_one_name_has_one_size_and_fixed_sizes_stay():
    sizes = set()

    def runs(feed):
        if len(feed) == 5:
            assert feed["x"].shape[0] == feed["state"].shape[1] == feed["ids"].shape[0]
            assert feed["state"].shape[::2] == (2, 8)
            assert feed["word"].shape == feed["x"].shape[:1]
            assert feed["flag"].shape == ()
            assert [feed[spec.name].dtype for spec in SPECS] == [spec.dtype for spec in SPECS]
            sizes.add((feed["x"].shape, feed["ids"].shape[1]))
        return False

    assert draw(runs) is None
    # Sizes of their own for the dimension without a name and that with one.
    assert {(shape[1], other) for shape, other in sizes} >= {(512, 1), (1, 512), (32, 32)}


@pytest.mark.parametrize("largest", [0, 1])
def test_smaller_integers_are_tried(largest):
    feed = draw(lambda feed: len(feed) == 5 and feed["ids"].max() <= largest)
    assert feed["ids"].max() <= largest


def test_integers_are_made_smaller_where_they_are():
    specs = (TensorSpec("i", np.dtype(np.int64), (3,)),)
    feed = {"i": np.array([5, -7, 8])}
    found = Redraw(specs).find(feed, 0, lambda feed: True)
    assert set(found["i"].tolist()) <= {0, 1}
    assert feed["i"].tolist() == [5, -7, 8]


def test_nothing_enormous_is_made():
    specs = (TensorSpec("x", np.dtype(np.float32), ("A", 4096, "B", "C")),)
    seen = []

    def runs(feed):
        seen.append(feed["x"].size)
        return False

    assert Redraw(specs).find({"x": np.ones((1, 4096, 1, 1), np.float32)}, 0, runs) is None
    assert max(seen) <= 1 << 24

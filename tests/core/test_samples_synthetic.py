"""Made-up samples: valid, varied, and the same every time."""

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import SamplesError
from graphopt.samples import Samples, TensorSpec


def spec(name: str, dtype: object, *shape: object, ranked: bool = True) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape, ranked)


def feeds(*specs: TensorSpec, seed: int = 0, count: int = 8) -> list:
    samples = Samples.synthetic(specs, seed=seed, count=count)
    assert samples.is_synthetic
    assert samples.total == count
    return list(samples.feeds())


BERT = (
    spec("input_ids", np.int64, "batch", "sequence"),
    spec("attention_mask", np.int64, "batch", "sequence"),
    spec("token_type_ids", np.int64, "batch", "sequence"),
    spec("position_ids", np.int64, "batch", "sequence"),
)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_each_symbolic_dimension_takes_two_sizes(count):
    made = feeds(*BERT, spec("image", np.float32, "n", 3, "h", "w"), count=count)
    for name, axes in {"input_ids": (0, 1), "image": (0, 2, 3)}.items():
        for axis in axes:
            assert len({feed[name].shape[axis] for feed in made}) == 2
    assert {feed["image"].shape[1] for feed in made} == {3}


def test_dimensions_change_together_and_apart():
    made = feeds(*BERT)
    assert len({feed["input_ids"].shape for feed in made}) > 2


def test_one_name_has_one_size():
    for feed in feeds(*BERT, spec("other", np.float32, "sequence", "batch")):
        batch, sequence = feed["input_ids"].shape
        assert feed["attention_mask"].shape == (batch, sequence)
        assert feed["other"].shape == (sequence, batch)


def test_dimensions_without_a_name_are_the_same_along_an_axis():
    for feed in feeds(spec("a", np.float32, None, None), spec("b", np.float32, None, None)):
        assert feed["a"].shape == feed["b"].shape


def test_first_dimensions_are_batches_and_images_are_large():
    for feed in feeds(
        spec("x", np.float32, "anything", "s"), spec("i", np.float32, None, 3, "h", "w")
    ):
        assert feed["x"].shape[0] in (1, 2)
        assert feed["x"].shape[1] >= 16
        assert min(feed["i"].shape[2:]) >= 64


def test_computed_dimensions():
    made = feeds(
        spec("x", np.float32, "s0", "s1"),
        spec("sum", np.float32, "s0 + s1", "2*s1"),
        spec("half", np.float32, "(s1 + 1)//2", "s1 - 1"),
    )
    for feed in made:
        first, second = feed["x"].shape
        assert feed["sum"].shape == (first + second, 2 * second)
        assert feed["half"].shape == ((second + 1) // 2, second - 1)


def test_names_that_only_look_like_sums():
    made = feeds(spec("x", np.float32, "batch-size", "seq.len", "__import__('os')", "1/0"))
    assert {feed["x"].shape[0] for feed in made} == {1, 2}
    assert all(len(feed["x"].shape) == 4 for feed in made)


def test_an_input_of_unknown_rank():
    assert all(feed["x"].ndim == 2 for feed in feeds(spec("x", np.float32, ranked=False)))


def test_integers_are_small_and_not_negative():
    for feed in feeds(*BERT, spec("index", np.int32, 4), spec("pixels", np.uint8, 4, 4)):
        assert feed["input_ids"].min() >= 0
        assert feed["input_ids"].max() < 10
        assert set(np.unique(feed["token_type_ids"])) <= {0, 1}
        assert set(np.unique(feed["index"])) <= {0, 1}
        assert feed["pixels"].max() < 128


def test_masks_begin_with_ones_and_positions_count_up():
    for feed in feeds(*BERT):
        mask = feed["attention_mask"]
        assert (mask[:, 0] == 1).all()
        assert (np.diff(mask, axis=1) <= 0).all()
        np.testing.assert_array_equal(
            feed["position_ids"], np.tile(np.arange(mask.shape[1]), (len(mask), 1))
        )


DTYPES = [
    np.float32, np.float64, np.float16, np.int8, np.uint8, np.int64, np.uint32, np.bool_,
    np.complex64, object, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(), (3,), ("N", 4), (0, 2)])
def test_every_type_and_rank(dtype, shape):
    other = spec("other", np.float32, 1)
    for feed in feeds(spec("x", dtype, *shape), other, count=3):
        assert feed["x"].dtype == np.dtype(dtype)
        assert feed["x"].ndim == len(shape)


def test_the_seed_decides():
    x = spec("x", np.float32, "N", 50)
    same, other = feeds(x, seed=1), feeds(x, seed=2)
    for one, again, different in zip(feeds(x, seed=1), same, other, strict=True):
        np.testing.assert_array_equal(one["x"], again["x"])
        assert not np.array_equal(one["x"], different["x"])
    values = np.concatenate([feed["x"].ravel() for feed in same])
    assert len(np.unique(values)) == values.size  # every feed has values of its own
    assert abs(values.mean()) < 0.3
    assert 0.7 < values.std() < 1.3


def test_a_feed_does_not_depend_on_how_many_there_are():
    x = spec("x", np.float32, "N", 5)
    for one, other in zip(feeds(x, count=3), feeds(x, count=8), strict=False):
        np.testing.assert_array_equal(one["x"], other["x"])


@pytest.mark.parametrize("size", [1 << 20, 1 << 40])
def test_an_input_too_large_to_be_made_up_is_refused(size):
    spec = TensorSpec("x", np.dtype(np.float32), (size, size))
    with pytest.raises(SamplesError, match=r"samples/too-large.*'x' is float32.*--data"):
        next(Samples.synthetic([spec]).feeds())

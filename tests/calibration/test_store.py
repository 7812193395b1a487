"""Statistics survive a file, and a file of anything else is refused."""

from __future__ import annotations

import json
import pathlib

import graphs
import numpy as np
import pytest
from test_statistics import facts, statistics_of

from graphopt.calibration.qparams import IntType
from graphopt.calibration.ranges import choose_range
from graphopt.calibration.statistics import TensorStatistics
from graphopt.calibration.store import (
    collect_saved,
    digest_of,
    fingerprint,
    load_statistics,
    save_statistics,
)
from graphopt.errors import OutputError, SamplesError
from graphopt.passbase import Context
from graphopt.samples import Samples

MODEL = """g (float[n,2] x) => (float[n,2] z)
    <float[2,2] W = {1, 2, 3, 4}> { y = MatMul(x, W) z = Softmax<axis=1>(y) }"""


def some() -> dict[str, TensorStatistics]:
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((3, 4, 5)).astype(np.float32)
    odd = arrays[0].copy()
    odd[1, 1] = np.nan
    return {
        "a": statistics_of(*arrays),
        "b/c": statistics_of(arrays[0], odd, np.zeros((2, 5), np.float32)),
        "nothing": TensorStatistics(),
    }


def test_round_trip_is_bit_for_bit(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "stats.npz"
    save_statistics(path, some(), "key")
    found = load_statistics(path, "key")
    assert list(found) == list(some())
    for name, stats in some().items():
        assert facts(found[name]) == facts(stats)
        assert found[name].first_not_finite == stats.first_not_finite
    assert choose_range(found["a"], "auto", IntType.UINT8) == choose_range(
        some()["a"], "auto", IntType.UINT8
    )
    assert [path.name for path in tmp_path.iterdir()] == ["stats.npz"]


def test_what_is_read_can_be_added_to(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "stats.npz"
    save_statistics(path, some(), "key")
    more = np.full((1, 5), 1e6, np.float32)
    read, fresh = load_statistics(path, "key")["a"], some()["a"]
    for stats in (read, fresh):
        stats.update(more)
    assert facts(read) == facts(fresh)


def test_empty_file_of_statistics(tmp_path: pathlib.Path) -> None:
    save_statistics(tmp_path / "none.npz", {}, "key")
    assert load_statistics(tmp_path / "none.npz", "key") == {}


def test_statistics_of_another_model_are_refused(tmp_path: pathlib.Path) -> None:
    save_statistics(tmp_path / "stats.npz", some(), "key")
    with pytest.raises(SamplesError, match="of another model") as info:
        load_statistics(tmp_path / "stats.npz", "other")
    assert info.value.code == "samples/foreign-statistics"


@pytest.mark.parametrize("how", ["text", "samples", "format", "version", "cut", "counts"])
def test_other_files_are_refused(tmp_path: pathlib.Path, how: str) -> None:
    path = tmp_path / "stats.npz"
    save_statistics(path, some(), "key")
    with np.load(path) as archive:
        arrays = dict(archive)
    if how == "text":
        path.write_text("hello")
    elif how == "samples":
        np.savez(path, x=np.ones(3))
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        header = json.loads(str(arrays["header"]))
        header |= {"format": {"format": "x"}, "version": {"version": 99}}.get(how, {})
        arrays["header"] = np.array(json.dumps(header))
        if how == "counts":
            arrays["histogram_counts"] = arrays["histogram_counts"].astype(np.float64)
        np.savez(path, **arrays)
    with pytest.raises(SamplesError, match="holds no statistics") as info:
        load_statistics(path, "key")
    assert info.value.code == "samples/statistics"


def test_any_damage_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "stats.npz"
    save_statistics(path, some(), "key")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            load_statistics(path, "key")  # some bytes, dates for example, mean nothing
        except SamplesError:
            refused += 1
    assert refused > 200
    header = {"format": "graphopt/calibration", "version": 1, "tensors": []}
    np.savez(path, header=np.array(json.dumps(header)))
    with pytest.raises(SamplesError, match="holds no statistics: 'key'"):
        load_statistics(path, "key")


def test_missing_and_unwritable_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SamplesError, match="holds no statistics"):
        load_statistics(tmp_path / "none.npz", "key")
    with pytest.raises(OutputError, match="No such file or directory"):
        save_statistics(tmp_path / "no" / "folder.npz", some(), "key")


@pytest.mark.parametrize(
    ("old", "new"), [("4}", "5}"), ("Softmax", "LogSoftmax"), ("axis=1", "axis=0"), ("y", "h")]
)
def test_fingerprint_tells_models_apart(old: str, new: str) -> None:
    assert fingerprint(graphs.load(MODEL)) == fingerprint(graphs.load(MODEL))
    other = (
        MODEL.replace(old, new)
        if old != "y"
        else MODEL.replace(" y", " h").replace("(y)", "(h)")
    )
    assert fingerprint(graphs.load(other)) != fingerprint(graphs.load(MODEL))


BODY = """g (float[n,2] x) => (float[n,2] y, float[n,2] z)
    { c = Constant<value = float[1,2] {1, 2}>() y = Mul(x, c) z = Add(x, c) }"""


@pytest.mark.parametrize(
    ("old", "new"),
    [("{1, 2}", "{1, 3}"), ("float[1,2] {", "float[2] {"), ("n,2] y, float[n,2] z", "n,2] y")],
)
def test_fingerprint_tells_constants_and_outputs_apart(old: str, new: str) -> None:
    other = graphs.load(BODY.replace(old, new))
    assert fingerprint(other) != fingerprint(graphs.load(BODY))


def test_statistics_of_other_samples_of_the_same_number_are_refused(
    context: Context, tmp_path: pathlib.Path
) -> None:
    """They may come from the same path, or from a reader of the same class."""
    path = tmp_path / "statistics.npz"
    model = graphs.load(MODEL)
    for factor in (1.0, 1.0, 2.0):
        samples = Samples.from_feeds([{"x": np.full((1, 2), factor, np.float32)}] * 4)
        if factor == 2.0:
            with pytest.raises(SamplesError, match="of other samples"):
                collect_saved(path, model, ["y"], samples, context)
        else:
            assert collect_saved(path, model, ["y"], samples, context)["y"].high == 6


def test_digest_of_feeds_tells_numbers_types_shapes_and_order() -> None:
    feeds = [
        {"x": np.zeros(4, np.float32)},
        {"x": np.zeros((2, 2), np.float32)},
        {"x": np.zeros(2, np.float64)},
        {"y": np.zeros(4, np.float32)},
        {"x": np.array([0, 0, 0, -0.0], np.float32)},
        {"x": np.array(["a", "b"], object)},
        {"x": np.array(["a", "c"], object)},
        {"x": [[0.0, 0.0], [1.0, 1.0]]},
    ]
    digests = {digest_of([feed]) for feed in feeds}
    assert len(digests) == len(feeds)
    assert digest_of(feeds) != digest_of(feeds[::-1])
    assert digest_of(feeds) == digest_of([dict(feed) for feed in feeds])

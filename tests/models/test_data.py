"""The digits: cut, normalized, split once and for all, written as samples."""

import hashlib
import pathlib

import numpy as np
from graphopt.models.data import load_digits, write_samples
from sklearn import datasets

from graphopt.samples import Samples, TensorSpec


def test_parts_are_all_digits_and_disjoint() -> None:
    digits = load_digits()
    assert [len(part) for part in (digits.train, digits.calibration, digits.test)] == [
        1147,
        200,
        450,
    ]
    raw = datasets.load_digits()
    central = raw.images[:, 1:7, 1:7] / 16.0
    joined = np.concatenate(
        [part.images[:, 0] for part in (digits.train, digits.calibration, digits.test)]
    )
    # Undo the normalization: a line through the extreme values.
    low, high = central.min(), central.max()
    span = joined.max() - joined.min()
    restored = (joined - joined.min()) / span * (high - low) + low
    as_rows = np.round(restored.reshape(len(joined), -1) * 16).astype(int)
    wanted = np.round(central.reshape(len(central), -1) * 16).astype(int)
    np.testing.assert_array_equal(as_rows[np.lexsort(as_rows.T)], wanted[np.lexsort(wanted.T)])


def test_training_part_is_normalized() -> None:
    train = load_digits().train.images
    assert train.dtype == np.float32
    assert train.shape == (1147, 1, 6, 6)
    assert abs(float(train.mean())) < 1e-5
    assert abs(float(train.std()) - 1) < 1e-5


def test_every_class_has_its_share() -> None:
    digits = load_digits()
    labels = datasets.load_digits().target
    for part in (digits.train, digits.calibration, digits.test):
        shares = np.bincount(part.labels, minlength=10) / len(part)
        np.testing.assert_allclose(shares, np.bincount(labels) / len(labels), atol=0.006)


def test_split_never_changes() -> None:
    test = load_digits().test
    digest = hashlib.sha256(test.labels.tobytes()).hexdigest()[:16]
    assert digest == "5ca781c40ed01a66"


def test_samples_are_what_graphopt_reads(tmp_path: pathlib.Path) -> None:
    calibration, test, labels = write_samples(tmp_path / "new" / "folder")
    spec = TensorSpec("images", np.dtype(np.float32), ("batch", 1, 6, 6))
    for path, part in ((calibration, load_digits().calibration), (test, load_digits().test)):
        feeds = Samples.from_path(path, [spec], batch_size=64).feeds()
        found = np.concatenate([feed["images"] for feed in feeds])
        np.testing.assert_array_equal(found, part.images)
    np.testing.assert_array_equal(np.load(labels), load_digits().test.labels)

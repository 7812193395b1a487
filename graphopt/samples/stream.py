"""The stream of feeds that a model is run on."""

from __future__ import annotations

import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from graphopt.errors import SamplesError
from graphopt.samples import batches, files, replay, synthetic
from graphopt.samples.check import FeedChecker, first_not_finite, is_float
from graphopt.samples.spec import Feed, TensorSpec

__all__ = ["Samples"]

logger = logging.getLogger(__name__)


class Samples:
    """A stream of feeds that can be started again; made by the class methods.

    Never more than one feed is in memory. Every feed is checked each time it is delivered:
    names, types, shapes, and that there is neither NaN nor infinity in it.

    Attributes:
        specs: The inputs it is checked against, or ``None``.
        total: Number of feeds, or ``None`` where it is not known before the end.
        is_synthetic: Whether the values are made up.
    """

    def __init__(
        self,
        factory: Callable[[], Iterable[Mapping[str, Any]]],
        specs: Sequence[TensorSpec] | None,
        description: str,
        *,
        total: int | None = None,
        is_synthetic: bool = False,
        rows: bool = False,
    ) -> None:
        self.specs = None if specs is None else tuple(specs)
        self.total = total
        self.is_synthetic = is_synthetic
        self._factory = factory
        self._description = description
        self._rows = rows
        self._limit: int | None = None
        self._drops = False

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        specs: Sequence[TensorSpec],
        batch_size: int | None = None,
    ) -> Samples:
        """Return the samples in a file or folder.

        - an ``.npz`` file, or a folder of ``.npy`` files: one array an input, under its name,
          with the samples along the first axis; cut into batches;
        - a folder of ``.npz`` files: one feed each, in the order of their names.

        Args:
            path: The file or folder.
            specs: The inputs of the model.
            batch_size: Samples in a feed, where arrays are cut. ``None``: as many as the model
                is fixed to, or 1. Samples that do not fill a fixed batch are left out.

        Raises:
            SamplesError: There are none, or they do not fit the model.
        """
        path = pathlib.Path(path)
        if batch_size is not None and batch_size < 1:
            raise SamplesError("batch-size", f"a batch of {batch_size} samples has none.")
        if not path.exists():
            raise SamplesError("missing-file", f"{path} does not exist.")
        feeds = sorted(path.glob("*.npz")) if path.is_dir() else []
        if feeds:
            if batch_size is not None:
                raise SamplesError(
                    "batch-size",
                    f"{path} holds one feed a file; a batch size has no meaning for them.",
                )
            return cls(
                lambda: map(_read_feed, feeds),
                specs,
                f"{len(feeds)} files in {path}",
                total=len(feeds),
            )
        if path.suffix == ".npy":
            raise SamplesError(
                "missing-input",
                f"{path} does not say which input it is for.",
                hint="Pass the folder, with one file <input name>.npy each; or an .npz file.",
            )
        cut = batches.plan(path, files.open_arrays(path), specs, batch_size)
        text = f"{path}: {cut.samples} samples in batches of {cut.step}"
        if cut.left_out:
            text += f" (the last {cut.left_out} left out: the model takes {cut.step} at once)"
            logger.warning("%s", text)
        return cls(cut.feeds, specs, text, total=cut.total, rows=True)

    @classmethod
    def from_reader(
        cls,
        reader: Any,
        specs: Sequence[TensorSpec] | None = None,
        max_feeds: int = replay.MAX_FEEDS,
    ) -> Samples:
        """Return what a ``CalibrationDataReader`` of onnxruntime delivers.

        Args:
            reader: An object with ``get_next()``, or a class or function that makes one. One
                without ``rewind()`` is read once; its feeds are kept in a temporary file.
            specs: The inputs of the model.
            max_feeds: Feeds after which the reader is taken for endless.

        Raises:
            SamplesError: It is no reader.
        """
        factory = replay.reader_factory(reader, max_feeds)
        name = getattr(reader, "__name__", type(reader).__name__)
        return cls(factory, specs, f"feeds of {name}")

    @classmethod
    def from_feeds(
        cls,
        feeds: Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]],
        specs: Sequence[TensorSpec] | None = None,
    ) -> Samples:
        """Return feeds that are given.

        Args:
            feeds: A list of feeds; a function that starts them, called each time; or an
                iterator, which is read once and kept in a temporary file.
            specs: The inputs of the model.
        """
        if isinstance(feeds, Mapping):
            feeds = [feeds]
        if isinstance(feeds, Sequence):
            kept = feeds
            return cls(lambda: kept, specs, f"{len(kept)} feeds", total=len(kept))
        if callable(feeds):
            return cls(feeds, specs, "feeds")
        return cls(replay.Replay(feeds), specs, "feeds")

    @classmethod
    def synthetic(cls, specs: Sequence[TensorSpec], seed: int = 0, count: int = 8) -> Samples:
        """Return made-up feeds: seeded, each symbolic dimension in two sizes.

        Args:
            specs: The inputs of the model.
            seed: Seed of the values.
            count: Number of feeds.
        """
        specs = tuple(specs)
        return cls(
            lambda: synthetic.make_feeds(specs, seed, count),
            specs,
            f"{count} synthetic feeds (seed {seed})",
            total=count,
            is_synthetic=True,
        )

    def take(self, count: int) -> Samples:
        """Return the first ``count`` feeds."""
        new = self._copy()
        new._limit = count if self._limit is None else min(count, self._limit)
        new.total = None if self.total is None else min(count, self.total)
        return new

    def dropping_not_finite(self) -> Samples:
        """Return the same samples without the feeds that have NaN or infinity in them."""
        new = self._copy()
        new._drops = True
        new.total = None
        return new

    def describe(self) -> str:
        """Return in one line where the samples come from."""
        first = "" if self._limit is None else f"the first {self._limit} of "
        return f"{first}{self._description}"

    def first_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the first feed, by the name of the input.

        Raises:
            SamplesError: As of ``feeds``.
        """
        return {name: array.shape for name, array in next(self.feeds()).items()}

    def feeds(self) -> Iterator[Feed]:
        """Yield the feeds, from the first one each time.

        Raises:
            SamplesError: A feed does not fit the model, or there is none with anything in it.
        """
        checker = FeedChecker(self.specs)
        count = before = dropped = 0
        has_data = False
        zero: set[str] | None = None
        source = self._factory()
        if not isinstance(source, Iterable):
            raise SamplesError(
                "not-a-feed",
                f"{self.describe()}: {type(source).__name__} cannot be gone through.",
                hint="A function of samples returns a list or an iterator of feeds.",
            )
        for index, given in enumerate(itertools.islice(source, self._limit)):
            feed = checker.check(given, f"sample {before if self._rows else index}")
            bad = first_not_finite(feed)
            if bad is not None and self._drops:
                dropped += 1
                continue
            if bad is not None:
                raise self._not_finite(index, before, *bad)
            before += max((len(a) for a in feed.values() if a.ndim), default=1)
            count += 1
            has_data = has_data or any(array.size for array in feed.values()) or not feed
            zeros = {name for name, array in feed.items() if _is_zero(array)}
            zero = zeros if zero is None else zero & zeros
            yield feed
        if not count or not has_data:
            what = f"all {dropped} feeds were dropped" if dropped else "there is no feed"
            raise SamplesError(
                "empty" if not count else "no-data",
                f"{self.describe()}: {what if not count else 'every array is empty'}.",
                hint="At least one sample is needed.",
            )
        if dropped:
            logger.warning("%s: %d feeds with NaN or Inf left out", self.describe(), dropped)
        for name in sorted(zero or ()):
            logger.warning("%s: input %r is zero everywhere", self.describe(), name)

    def _not_finite(
        self, index: int, before: int, name: str, at: tuple[int, ...]
    ) -> SamplesError:
        sample = before + (at[0] if at else 0) if self._rows else index
        return SamplesError(
            "not-finite",
            f"input {name!r} of sample {sample} holds NaN or Inf, at {list(at)} of its feed.",
            hint="Remove the sample.",
        )

    def _copy(self) -> Self:
        new = type(self)(
            self._factory,
            self.specs,
            self._description,
            total=self.total,
            is_synthetic=self.is_synthetic,
            rows=self._rows,
        )
        new._limit, new._drops = self._limit, self._drops
        return new


def _is_zero(array: np.ndarray) -> bool:
    return bool(array.size) and is_float(array.dtype) and not array.any()


def _read_feed(path: pathlib.Path) -> Feed:
    arrays = files.open_arrays(path)
    return {name: array.whole() for name, array in arrays.items()}

"""What a model is run on: a stream of feeds that can be started again.

A feed is ``{input name: array}``. Samples come from an ``.npz`` file, a folder of ``.npz``
files, a ``CalibrationDataReader``, a list or a factory of feeds, or are made up from what the
model declares.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import SamplesError, nearest

__all__ = ["Feed", "Samples", "TensorSpec"]

Feed: TypeAlias = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input as the model declares it.

    Attributes:
        name: Its name.
        dtype: Type of its elements; ``object`` for strings.
        shape: One entry a dimension: its size, the name of a symbolic one, or ``None`` where
            nothing is said.
        ranked: Whether the number of dimensions is known; if not, ``shape`` is empty.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    ranked: bool = True


class Samples:
    """A stream of feeds that can be started again; made by the class methods."""

    def __init__(
        self,
        factory: Callable[[], Iterable[Mapping[str, np.ndarray]]],
        specs: Sequence[TensorSpec] | None,
        description: str,
        is_synthetic: bool = False,
    ) -> None:
        self._factory = factory
        self.specs = None if specs is None else tuple(specs)
        self._description = description
        self.is_synthetic = is_synthetic

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        specs: Sequence[TensorSpec],
        batch_size: int | None = None,
    ) -> Samples:
        """Return the samples in an ``.npz`` file or a folder of them."""
        path = pathlib.Path(path)
        if path.is_dir():
            files = sorted(path.glob("*.npz"))
            if not files:
                raise SamplesError("empty", f"{path} holds no .npz file.")

            def feeds() -> Iterator[Feed]:
                for file in files:
                    with np.load(file, allow_pickle=False) as archive:
                        yield {name: archive[name] for name in archive.files}

            return cls(feeds, specs, f"{len(files)} files in {path}")
        if not path.is_file():
            raise SamplesError("missing-file", f"{path} does not exist.")
        size = batch_size or _declared_batch(specs) or 1

        def batches() -> Iterator[Feed]:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            count = min(len(array) for array in arrays.values())
            for start in range(0, count, size):
                yield {name: array[start : start + size] for name, array in arrays.items()}

        return cls(batches, specs, f"{path}, batches of {size}")

    @classmethod
    def from_reader(cls, reader: Any, specs: Sequence[TensorSpec] | None = None) -> Samples:
        """Return what a ``CalibrationDataReader``, or a function that makes one, delivers."""

        def feeds() -> Iterator[Feed]:
            source = reader() if not hasattr(reader, "get_next") else reader
            if hasattr(source, "rewind"):
                source.rewind()
            while (feed := source.get_next()) is not None:
                yield feed

        return cls(feeds, specs, "a CalibrationDataReader")

    @classmethod
    def from_feeds(
        cls,
        feeds: Iterable[Mapping[str, np.ndarray]]
        | Callable[[], Iterable[Mapping[str, np.ndarray]]],
        specs: Sequence[TensorSpec] | None = None,
    ) -> Samples:
        """Return feeds that are given as a list, or by a function that starts them again."""
        if callable(feeds):
            return cls(feeds, specs, "feeds")
        kept = list(feeds)
        return cls(lambda: kept, specs, f"{len(kept)} feeds")

    @classmethod
    def synthetic(cls, specs: Sequence[TensorSpec], seed: int = 0, count: int = 8) -> Samples:
        """Return ``count`` feeds of seeded random values; symbolic dimensions vary."""

        def feeds() -> Iterator[Feed]:
            for index in range(count):
                rng = np.random.default_rng([seed, index])
                sizes: dict[str, int] = {}
                feed = {}
                for spec in specs:
                    shape = [
                        dim
                        if isinstance(dim, int)
                        else sizes.setdefault(str(dim), 1 + (index + len(sizes)) % 2)
                        for dim in spec.shape
                    ]
                    if spec.dtype.kind == "f":
                        array = rng.standard_normal(shape).astype(spec.dtype)
                    elif spec.dtype.kind == "b":
                        array = rng.integers(0, 2, shape).astype(bool)
                    else:
                        array = rng.integers(0, 2, shape).astype(spec.dtype)
                    feed[spec.name] = array
                yield feed

        return cls(feeds, specs, f"{count} synthetic feeds", is_synthetic=True)

    def feeds(self) -> Iterator[Feed]:
        """Yield the feeds from the start, each checked."""
        for index, feed in enumerate(self._factory()):
            checked = {name: np.asarray(array) for name, array in feed.items()}
            for name, array in checked.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise SamplesError(
                        "not-finite", f"input {name!r} of sample {index} holds NaN or Inf."
                    )
            if self.specs is not None:
                self._check_names(index, checked)
            yield checked

    def _check_names(self, index: int, feed: Feed) -> None:
        assert self.specs is not None
        names = {spec.name for spec in self.specs}
        for name in feed:
            if name not in names:
                raise SamplesError(
                    "unknown-input",
                    f"sample {index} feeds {name!r}, which is no input of the model.",
                    hint=nearest(name, names),
                )
        for name in sorted(names - feed.keys()):
            raise SamplesError("missing-input", f"sample {index} does not feed {name!r}.")

    def describe(self) -> str:
        """Return in one line where the samples come from."""
        return self._description


def _declared_batch(specs: Sequence[TensorSpec]) -> int | None:
    """Return the fixed size of the first dimension, if the model declares one."""
    for spec in specs:
        if spec.shape and isinstance(spec.shape[0], int):
            return spec.shape[0]
    return None

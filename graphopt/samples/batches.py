"""Cuts arrays of many samples into feeds."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.errors import SamplesError
from graphopt.samples.check import cast, check_names
from graphopt.samples.files import Array
from graphopt.samples.spec import Feed, TensorSpec

__all__ = ["Cut", "plan"]


@dataclasses.dataclass(frozen=True)
class _Column:
    """How the array of one input is cut."""

    array: Array
    step: int
    whole: bool
    """Each entry of the array is the whole input: the first dimension is taken away."""

    @property
    def feeds(self) -> int:
        return -(-self.array.shape[0] // self.step)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A way to cut arrays into feeds.

    Attributes:
        total: Number of feeds.
        step: Number of samples in a feed.
        samples: Number of samples in the arrays.
        left_out: Samples at the end that do not fill a batch of the size the model takes.
    """

    columns: dict[str, _Column]
    total: int
    step: int
    samples: int
    left_out: int

    def feeds(self) -> Iterator[Feed]:
        """Yield the feeds."""
        pieces = {
            name: column.array.pieces(column.step) for name, column in self.columns.items()
        }
        for _ in range(self.total):
            feed = {}
            for name, column in self.columns.items():
                piece = next(pieces[name])
                feed[name] = piece[0] if column.whole else piece
            yield feed


def plan(
    path: pathlib.Path,
    arrays: dict[str, Array],
    specs: Sequence[TensorSpec],
    batch_size: int | None,
) -> Cut:
    """Return how ``arrays`` are cut into feeds.

    The first axis runs over samples. An array of the rank of its input is cut into batches;
    one of a rank higher by one holds whole inputs, one after the other.

    Args:
        path: Where they are from, for messages.
        arrays: Input name -> array.
        specs: The inputs of the model.
        batch_size: Samples in a feed; ``None``: as many as the model is fixed to, or 1.

    Raises:
        SamplesError: Names, types, shapes or numbers do not fit.
    """
    if not arrays:
        raise SamplesError("empty", f"{path} holds no array.")
    check_names(list(arrays), specs, str(path))
    fixed = {_fixed_batch(spec, arrays[spec.name]) for spec in specs} - {None}
    step = batch_size or (fixed.pop() if len(fixed) == 1 else None) or 1
    columns = {
        spec.name: _column(path, arrays[spec.name], spec, step, batch_size) for spec in specs
    }
    name, first = next(iter(columns.items()))
    samples = first.array.shape[0]
    left_out = 0
    if any(_fixed_batch(spec, arrays[spec.name]) for spec in specs):
        left_out = samples % first.step
    total = samples // first.step if left_out else first.feeds
    for other, column in columns.items():
        count = column.array.shape[0]
        if (count // column.step if left_out else column.feeds) != total:
            raise SamplesError(
                "length",
                f"{path} has {samples} entries for {name!r} and {count} for {other!r}.",
                hint="Every array needs as many entries as there are samples.",
            )
    if not total:
        raise SamplesError(
            "empty",
            f"{path} has {samples} samples; needed is at least {first.step}.",
        )
    return Cut(columns, total, first.step, samples, left_out)


def _fixed_batch(spec: TensorSpec, array: Array) -> int | None:
    if not spec.ranked or len(array.shape) != len(spec.shape) or not spec.shape:
        return None
    return spec.shape[0] if isinstance(spec.shape[0], int) else None


def _column(
    path: pathlib.Path, array: Array, spec: TensorSpec, step: int, batch_size: int | None
) -> _Column:
    label = f"input {spec.name!r} of {path}"
    rank = len(array.shape)
    whole = spec.ranked and rank == len(spec.shape) + 1
    if rank == 0 or (spec.ranked and not whole and rank != len(spec.shape)):
        raise _misfit(array, spec, label)
    fixed = _fixed_batch(spec, array)
    if fixed is not None and batch_size not in (None, fixed):
        raise SamplesError(
            "batch-size",
            f"the model takes exactly {fixed} samples as {spec.name!r}, not {batch_size}.",
            hint="Leave the batch size out, or export the model with a free first dimension.",
        )
    if whole and batch_size not in (None, 1):
        raise SamplesError(
            "batch-size", f"{label} holds whole inputs, which are fed one by one."
        )
    expected = spec.shape if whole else spec.shape[1:]
    for size, dim in zip(array.shape[1:], expected if spec.ranked else (), strict=spec.ranked):
        if isinstance(dim, int) and dim != size:
            raise _misfit(array, spec, label)
    cast(np.empty(0, array.dtype), spec, label)  # a wrong kind is wrong for every sample
    return _Column(array, 1 if whole else fixed or step, whole)


def _misfit(array: Array, spec: TensorSpec, label: str) -> SamplesError:
    return SamplesError(
        "shape",
        f"{label} has the shape {list(array.shape)}; expected is {spec.describe()}, with the "
        "samples along the first axis.",
    )

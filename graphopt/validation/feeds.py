"""Finds made-up feeds that a model accepts, where the first ones made it fail.

A model may refuse random feeds: an index is out of range, two sizes do not fit, an image is
smaller than the stride. What fits is not declared anywhere, so it is tried: smaller indices,
equal sizes, larger sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from graphopt.samples import Feed, TensorSpec

__all__ = ["Redraw"]

# Of dimensions that vary: from what most models accept to what few need. 32 is the stride of
# most image networks; 224, 299 and 512 are usual sizes of images and of pieces of sound.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 224, 256, 299, 512)
_INTEGERS = ((0, 2), (0, 1), (1, 2))
# No single input is made larger than this.
_MAX_ELEMENTS = 1 << 24


class _Form(NamedTuple):
    """How a feed is made up.

    Attributes:
        sizes: Dimension -> size; ``None``: the feed as it was, with its integers changed.
        integers: Range of integers, half open.
    """

    sizes: tuple[tuple[str, int], ...] | None
    integers: tuple[int, int]

    def describe(self) -> str:
        low, high = self.integers
        words = [f"{name}={size}" for name, size in self.sizes or ()]
        words.append(f"integers {low}" if high == low + 1 else f"integers {low} to {high - 1}")
        return ", ".join(words)


class Redraw:
    """Makes up other feeds for a model.

    Args:
        specs: Its inputs.
        runs: Whether the model runs on a feed.
        seed: Seed of the values.
    """

    def __init__(
        self, specs: Sequence[TensorSpec], runs: Callable[[Feed], bool], seed: int = 0
    ) -> None:
        self._specs = specs
        self._runs = runs
        self._seed = seed
        self._untried = list(_forms(specs))
        self._good: list[_Form] = []
        self._found: dict[int, _Form] = {}

    def describe(self) -> str:
        """Return in words what was found to run."""
        return "; ".join(form.describe() for form in self._good)

    def find(self, feed: Feed, index: int) -> Feed | None:
        """Return a feed that runs in place of ``feed``; ``None`` if none was found.

        The same place among the samples gets the same feed when it is asked for again.

        Args:
            feed: One that makes the model fail.
            index: Its place among the samples; different ones get different values.
        """
        if index in self._found:
            return self.found(feed, index)
        for form in self._candidates(index):
            made = self._make(form, feed, index)
            if made is None or not self._runs(made):
                continue
            self._found[index] = form
            if form not in self._good:
                self._good.append(form)
                # From now on integers of this range; first where most sizes are others.
                same = [other for other in self._untried if other.integers == form.integers]
                self._untried = sorted(same, key=lambda other: _common(other, form))
            return made
        return None

    def found(self, feed: Feed, index: int) -> Feed:
        """Return what was found in place of ``feed``; itself, where nothing was asked for."""
        form = self._found.get(index)
        made = self._make(form, feed, index) if form is not None else None
        return feed if made is None else made

    def _candidates(self, index: int) -> Iterator[_Form]:
        """Yield the forms to try, so that what varies comes in two sizes if it can."""
        while self._untried and len(self._good) < 2:
            yield self._untried.pop(0)
        turn = index % max(1, len(self._good))
        yield from self._good[turn:] + self._good[:turn]

    def _make(self, form: _Form, feed: Feed, index: int) -> Feed | None:
        low, high = form.integers
        if form.sizes is None:
            return {
                name: low + array % (high - low) if array.dtype.kind in "iu" else array
                for name, array in feed.items()
            }
        sizes = dict(form.sizes)
        rng = np.random.default_rng([self._seed, index])
        made: Feed = {}
        for spec in self._specs:
            shape = [
                dim if isinstance(dim, int) else sizes[_slot(spec, axis)]
                for axis, dim in enumerate(spec.shape)
            ]
            if np.prod(shape, dtype=float) > _MAX_ELEMENTS:
                return None
            if spec.dtype.kind == "O":
                array = np.full(shape, "a", object)
            elif spec.dtype.kind == "b":
                array = rng.integers(0, 2, shape).astype(bool)
            elif spec.dtype.kind in "iu":
                array = rng.integers(low, high, shape).astype(spec.dtype)
            else:
                array = np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
            made[spec.name] = array
        return made


def _common(form: _Form, other: _Form) -> int:
    return len(set(form.sizes or ()) & set(other.sizes or ()))


def _slot(spec: TensorSpec, axis: int) -> str:
    """Return the name of a dimension that varies; one without a name has its place for it."""
    return str(spec.shape[axis] or f"{spec.name}[{axis}]")


def _forms(specs: Sequence[TensorSpec]) -> Iterator[_Form]:
    """Yield ways to make up a feed, the likely ones first."""
    leading: dict[str, None] = {}
    others: dict[str, None] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape):
            if not isinstance(dim, int):
                (others if axis else leading)[_slot(spec, axis)] = None
    rest = [name for name in others if name not in leading]
    choices: dict[tuple[tuple[str, int], ...] | None, None] = {None: None}

    def choose(first: int, size: int, only: str = "") -> None:
        sizes = dict.fromkeys(leading, first)
        sizes.update({name: 1 if only and name != only else size for name in rest})
        if sizes:
            choices[tuple(sizes.items())] = None

    for first in (1, 2):
        for size in _SIZES:
            choose(first, size)
    for size in _SIZES[2:7]:
        choose(size, size)
    if len(rest) > 1:
        for name, size in itertools.product(rest, _SIZES):
            choose(1, size, name)
    whole = any(spec.dtype.kind in "iu" for spec in specs)
    for integers in _INTEGERS if whole else _INTEGERS[:1]:
        for sizes in choices:
            yield _Form(sizes, integers)

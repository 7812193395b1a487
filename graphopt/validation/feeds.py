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


class _Form(NamedTuple):
    """How a feed is made up.

    Attributes:
        sizes: Of dimensions that vary: of the first of an input, and of the others; ``None``:
            the feed as it was, with its integers brought into the range.
        integers: Range of integers, half open.
    """

    sizes: tuple[int, int] | None
    integers: tuple[int, int]

    def describe(self) -> str:
        low, high = self.integers
        integers = f"integers {low}" if high == low + 1 else f"integers {low} to {high - 1}"
        if self.sizes is None:
            return integers
        return f"sizes {self.sizes[0]} and {self.sizes[1]}, {integers}"


# From what most models accept to what few need; 32 is the stride of most image networks, 224
# and 299 are their usual sizes.
_SIZES = [
    None, (1, 1), (2, 2), (1, 4), (1, 8), (1, 16), (1, 32), (2, 32), (1, 64), (1, 128),
    (1, 224), (1, 299), (1, 512), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64),
]  # fmt: skip
_INTEGERS = [(0, 2), (0, 1), (1, 2)]
# No single input is made larger than this.
_MAX_ELEMENTS = 1 << 24


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
        self._untried = [_Form(*pair) for pair in itertools.product(_SIZES, _INTEGERS)]
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
                # From now on: integers of this range, and first of all another size.
                self._untried = [
                    other for other in self._untried if other.integers == form.integers
                ]
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
        rng = np.random.default_rng([self._seed, index])
        made: Feed = {}
        for spec in self._specs:
            shape = [
                dim if isinstance(dim, int) else form.sizes[min(axis, 1)]
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
                array = rng.standard_normal(shape).astype(spec.dtype)
            made[spec.name] = array
        return made

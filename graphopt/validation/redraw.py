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

# Of dimensions that vary, the usual ones first: 32 is the stride of most image networks, 48
# the height of a line of text; 224, 299, 512 and 576 are sizes of images and of pieces of
# sound. In a dimension of 1 hardly anything happens, so that it comes last.
_SIZES = (32, 48, 64, 16, 128, 224, 256, 320, 512, 576, 299, 8, 4, 2, 1)
_EQUAL = (16, 8, 4, 32, 64)  # of all dimensions, also the leading ones
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

    def describe(self, whole: bool) -> str:
        """Return it in words; ``whole``: with the range of integers."""
        low, high = self.integers
        words = [f"{name}={size}" for name, size in self.sizes or ()]
        if whole:
            words.append(f"integers {low}" + (f" to {high - 1}" if high > low + 1 else ""))
        return ", ".join(words)


class Redraw:
    """Makes up other feeds for a model.

    Args:
        specs: Its inputs.
        seed: Seed of the values.
    """

    def __init__(self, specs: Sequence[TensorSpec], seed: int = 0) -> None:
        self._specs = specs
        self._seed = seed
        self._untried = list(_forms(specs))
        self._good: list[_Form] = []
        self._found: dict[int, _Form] = {}

    def describe(self) -> str:
        """Return in words what was found to run."""
        whole = any(spec.dtype.kind in "iu" for spec in self._specs)
        return "; ".join(form.describe(whole) for form in self._good)

    def find(self, feed: Feed, index: int, runs: Callable[[Feed], bool]) -> Feed | None:
        """Return a feed that runs in place of ``feed``; ``None`` if none was found.

        The same place among the samples gets the same feed when it is asked for again.

        Args:
            feed: One that makes the model fail.
            index: Its place among the samples; different ones get different values.
            runs: Whether the model runs on a feed.
        """
        if index in self._found:
            return self._make(self._found[index], feed, index)
        for form in self._candidates(index):
            made = self._make(form, feed, index)
            if made is None or not runs(made):
                continue
            self._found[index] = form
            if form not in self._good:
                self._good.append(form)
                # From now on integers of this range; first where most sizes are others.
                same = [other for other in self._untried if other.integers == form.integers]
                self._untried = sorted(same, key=lambda other: _common(other, form))
            return made
        return None

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
    choices: dict[tuple[tuple[str, int], ...], None] = {}

    def choose(first: int, size: int, only: str = "", apart: int = 0) -> None:
        sizes = dict.fromkeys(leading, first)
        sizes.update({name: apart if only and name != only else size for name in rest})
        if sizes:
            choices[tuple(sizes.items())] = None

    for first in (1, 2):
        for size in _SIZES:
            choose(first, size)
    for size in _EQUAL:
        choose(size, size)
    if len(rest) > 1:
        for apart, name, size in itertools.product((16, 1), rest, _SIZES):
            choose(1, size, name, apart)
    spans = _INTEGERS if any(spec.dtype.kind in "iu" for spec in specs) else _INTEGERS[:1]
    if len(spans) > 1:
        yield from (_Form(None, integers) for integers in spans)
    yield from (_Form(sizes, integers) for integers in spans for sizes in choices)

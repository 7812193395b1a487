"""The samples with the largest errors: what went in, and how far off the answers are."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from graphopt.samples import Feed

from .content import InputRow, SampleRow
from .thumbnails import picture_of

if TYPE_CHECKING:
    from graphopt.api import Result

__all__ = ["sample_rows"]

_MOST = 4
"""Samples that are shown."""
_VALUES = 12
"""Elements of an input that are shown."""
_LONGEST = 40
"""Characters of a text that are shown."""


def sample_rows(result: Result) -> tuple[SampleRow, ...]:
    """Return the samples with the largest errors, each in the output that is furthest off."""
    errors: dict[int, tuple[float, str]] = {}
    for output in result.comparison.outputs:
        for index, error in output.difference.worst:
            if error > 0:
                errors[index] = max(errors.get(index, (0.0, "")), (error, output.name))
    worst = sorted(errors, key=lambda index: (-errors[index][0], index))[:_MOST]
    feeds = dict(_feeds(result, set(worst)))
    return tuple(
        SampleRow(
            index,
            errors[index][1],
            errors[index][0] if math.isfinite(errors[index][0]) else None,
            tuple(_input(name, array) for name, array in feeds[index].items()),
        )
        for index in worst
        if index in feeds
    )


def _feeds(result: Result, wanted: set[int]) -> list[tuple[int, Feed]]:
    every = enumerate(result.origin.samples.feeds())
    until = itertools.islice(every, max(wanted, default=-1) + 1)
    return [(index, feed) for index, feed in until if index in wanted]


def _input(name: str, array: np.ndarray) -> InputRow:
    picture = picture_of(array)
    values = "" if picture else _values(array)
    return InputRow(name, f"{_dtype(array)}{list(array.shape)}", values, picture)


def _dtype(array: np.ndarray) -> str:
    return "string" if array.dtype.kind in "OSU" else str(array.dtype)


def _values(array: np.ndarray) -> str:
    some = array.reshape(-1)[:_VALUES]
    if array.dtype.kind in "OSU":
        shown = [f"“{str(one)[:_LONGEST]}”" for one in some]
    elif array.dtype.kind in "iub":
        shown = [str(int(one)) for one in some]
    else:
        shown = [f"{float(one):.4g}" for one in some]
    return ", ".join([*shown, *(["…"] if array.size > _VALUES else [])])

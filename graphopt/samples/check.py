"""Checks feeds against the inputs that a model declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import SamplesError, nearest
from graphopt.samples.spec import Feed, TensorSpec

__all__ = ["FeedChecker", "check_names", "first_not_finite"]


def check_names(names: Sequence[str], specs: Sequence[TensorSpec], where: str) -> None:
    """Check that the inputs of a model are there, and nothing else.

    Raises:
        SamplesError: One is missing or one too many.
    """
    declared = [spec.name for spec in specs]
    missing = [name for name in declared if name not in names]
    extra = [name for name in names if name not in declared]
    if extra:
        raise SamplesError(
            "unknown-input",
            f"{where} has {extra[0]!r}, which is no input of the model.",
            hint=nearest(extra[0], missing or declared),
        )
    if missing:
        raise SamplesError(
            "missing-input",
            f"{where} has nothing for the input {missing[0]!r}.",
            hint=f"The model takes {', '.join(spec_text(spec) for spec in specs)}.",
        )


def spec_text(spec: TensorSpec) -> str:
    """Return name, type and shape of an input."""
    return f"{spec.name}: {spec.describe()}"


class FeedChecker:
    """Checks feeds and brings them to the declared types.

    A type is changed only within its kind (integers, or floating-point numbers) and only where
    every value survives: ``int64`` ids are accepted for an ``int32`` input, and refused at the
    first that does not fit. Other types are refused: an array of the wrong kind is a mistake
    more often than not.

    Args:
        specs: The inputs; ``None`` where they are not known, so that only values are checked.
    """

    def __init__(self, specs: Sequence[TensorSpec] | None) -> None:
        self._specs = None if specs is None else tuple(specs)

    def check(self, feed: Mapping[str, Any], where: str) -> Feed:
        """Return a feed with the declared types.

        Args:
            feed: Input name -> array, or what numpy makes one of.
            where: What it is called in messages.

        Raises:
            SamplesError: The feed does not fit.
        """
        if not isinstance(feed, Mapping):
            raise SamplesError(
                "not-a-feed", f"{where} is {type(feed).__name__}; expected is a dictionary."
            )
        arrays = {name: np.asarray(value) for name, value in feed.items()}
        if self._specs is None:
            return arrays
        check_names(list(arrays), self._specs, where)
        checked = {}
        for spec in self._specs:
            array = arrays[spec.name]
            label = f"input {spec.name!r} of {where}"
            check_shape(array.shape, spec, label)
            checked[spec.name] = cast(array, spec, label)
        return checked


def check_shape(shape: tuple[int, ...], spec: TensorSpec, label: str) -> None:
    """Check a shape against the declared one.

    Raises:
        SamplesError: Rank or a fixed dimension differs.
    """
    if not spec.ranked:
        return
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(expected, int) or expected == size
        for size, expected in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise SamplesError(
            "shape", f"{label} has the shape {list(shape)}; expected is {spec.describe()}."
        )


def cast(array: np.ndarray, spec: TensorSpec, label: str) -> np.ndarray:
    """Return ``array`` in the declared type.

    Raises:
        SamplesError: It is of another kind, or a value would change.
    """
    if array.dtype == spec.dtype and array.dtype.isnative:
        if spec.dtype == object and not all(isinstance(item, str) for item in array.flat):
            raise SamplesError("dtype", f"{label} holds objects that are not strings.")
        return array
    if spec.dtype == object and array.dtype.kind == "U":
        return array.astype(object)
    if spec.dtype.kind == "V" and array.dtype == f"V{spec.dtype.itemsize}":
        return array.view(spec.dtype)  # how numpy reads back bfloat16 and float8
    if {array.dtype.kind, spec.dtype.kind} <= {"i", "u"}:
        bounds = np.iinfo(spec.dtype)
        if not array.size or (array.min() >= bounds.min and array.max() <= bounds.max):
            return array.astype(spec.dtype)
    elif is_float(array.dtype) and is_float(spec.dtype):
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(spec.dtype)
            same = np.equal(converted.astype(array.dtype), array) | (array != array)
        if same.all():
            return converted
    kind = "string" if spec.dtype == object else spec.dtype.name
    target = "str" if spec.dtype == object else f"np.{kind}"
    raise SamplesError(
        "dtype",
        f"{label} is {array.dtype.name}; the model expects {kind}.",
        hint=f"Convert it with .astype({target}).",
    )


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is a floating-point type, those of ml_dtypes included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def first_not_finite(feed: Feed) -> tuple[str, tuple[int, ...]] | None:
    """Return name and index of the first NaN or infinity, input by input."""
    for name, array in feed.items():
        if array.dtype.kind == "c" or is_float(array.dtype):
            finite = np.isfinite(array)
            if not finite.all():
                return name, tuple(int(i) for i in np.argwhere(~finite)[0])
    return None

"""What may be given as a model, as samples and as a place for the result."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.errors import OutputError, SamplesError
from graphopt.model_io.staging import scratch_folder
from graphopt.report.summary import files_of
from graphopt.samples import Samples

__all__ = ["SamplesLike", "Source", "as_file", "as_samples", "check_output", "stage"]

Source: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto"
_Feeds: TypeAlias = Sequence[Mapping[str, np.ndarray]]
SamplesLike: TypeAlias = "Samples | str | os.PathLike[str] | _Feeds | Any"
"""Samples, a path to them, a list of feeds, or a ``CalibrationDataReader``."""


@contextlib.contextmanager
def as_file(source: Source) -> Iterator[pathlib.Path]:
    """Yield the path of ``source``; a model in memory gets a temporary file."""
    if not isinstance(source, onnx.ModelProto):
        yield pathlib.Path(source)
        return
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        model_io.save(model_io.load(source), path, durable=False)
        yield path


def as_samples(samples: SamplesLike | None, model: ir.Model) -> Samples | None:
    """Return what ``samples`` stands for, checked against the inputs of ``model``.

    Raises:
        SamplesError: It is nothing that samples can be, or does not fit the model.
    """
    specs = model_io.input_specs(model)
    if samples is None or isinstance(samples, Samples):
        return samples
    if isinstance(samples, (str, os.PathLike)):
        return Samples.from_path(samples, specs)
    if hasattr(samples, "get_next"):
        return Samples.from_reader(samples, specs)
    if isinstance(samples, Iterable) or callable(samples):
        return Samples.from_feeds(samples, specs)
    raise SamplesError(
        "kind",
        f"samples of type {type(samples).__name__} are not understood.",
        hint="Give a path, a list of feeds or an object with get_next().",
    )


def check_output(output: pathlib.Path, original: pathlib.Path, model: ir.Model) -> None:
    """Refuse to write over the weights that the model is read from."""
    place = output.resolve()
    if place != original.resolve() and place in {f.resolve() for f in files_of(model)}:
        raise OutputError(
            "is-input-data",
            f"{output} holds weights of {original}.",
            hint="Write the result elsewhere, or over the model itself.",
        )


@contextlib.contextmanager
def stage(
    output: str | os.PathLike[str] | None,
    original: pathlib.Path,
    external_data: model_io.ExternalData,
) -> Iterator[model_io.Stage]:
    """Yield where the candidate is written: next to the output, or in a temporary folder."""
    with contextlib.ExitStack() as stack:
        if output is None:
            output = stack.enter_context(scratch_folder()) / original.name
        yield stack.enter_context(model_io.staged(output, external_data=external_data))

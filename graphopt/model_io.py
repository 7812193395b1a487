"""Load and save models."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import ModelError
from graphopt.samples import TensorSpec

__all__ = ["ExternalData", "Saved", "Stage", "input_specs", "load", "save", "staged"]

ExternalData: TypeAlias = Literal["auto", "always", "never"]


@dataclasses.dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        path: The model.
        external_path: The file with the weights, or ``None`` where the model holds them.
        size_bytes: Size of both together.
    """

    path: pathlib.Path
    external_path: pathlib.Path | None
    size_bytes: int


def load(source: str | os.PathLike[str] | onnx.ModelProto) -> ir.Model:
    """Return the model in a file or a proto."""
    if isinstance(source, onnx.ModelProto):
        return ir.from_proto(source)
    path = pathlib.Path(source)
    try:
        model = ir.load(path)
    except Exception as error:
        raise ModelError("unreadable", f"{path}: {error}") from error
    return model


class Stage:
    """A model written next to its destination, to be looked at before it takes its place.

    Attributes:
        path: The written model; loads from there as it will from its destination.
    """

    def __init__(
        self, destination: pathlib.Path, folder: pathlib.Path, external_data: ExternalData
    ) -> None:
        self.destination = destination
        self.path = folder / destination.name
        self._external_data = external_data
        self._external_path: pathlib.Path | None = None

    def write(self, model: ir.Model) -> None:
        """Write ``model`` to ``path``; what was written there before is replaced."""
        name = f"{self.path.name}.data" if self._external_data == "always" else None
        ir.save(model, self.path, external_data=name)
        self._external_path = self.path.with_name(name) if name else None

    def commit(self) -> Saved:
        """Move what was written to its destination."""
        size = self.path.stat().st_size
        external = None
        if self._external_path is not None:
            size += self._external_path.stat().st_size
            external = self.destination.with_name(self._external_path.name)
            os.replace(self._external_path, external)
        os.replace(self.path, self.destination)
        return Saved(self.destination, external, size)


@contextlib.contextmanager
def staged(
    path: str | os.PathLike[str], external_data: ExternalData = "auto"
) -> Iterator[Stage]:
    """Give a place next to ``path`` to write a model to, look at it, and commit it.

    What is not committed when the block ends is removed.
    """
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory(prefix=".graphopt-", dir=path.parent) as folder:
        yield Stage(path, pathlib.Path(folder), external_data)


def save(
    model: ir.Model, path: str | os.PathLike[str], external_data: ExternalData = "auto"
) -> Saved:
    """Write ``model`` to ``path``."""
    with staged(path, external_data) as stage:
        stage.write(model)
        return stage.commit()


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller has to feed: graph inputs that are not initializers."""
    specs = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        dtype = value.dtype
        if dtype is None:
            raise ModelError("untyped-input", f"input {value.name!r} has no element type.")
        kind = np.dtype(object) if dtype == ir.DataType.STRING else np.dtype(dtype.numpy())
        dims = () if value.shape is None else tuple(value.shape)
        shape = tuple(d if isinstance(d, int) else (d.value or None) for d in dims)
        specs.append(TensorSpec(value.name or "", kind, shape))
    return tuple(specs)

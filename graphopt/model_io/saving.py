"""Writes a model: whole or not at all, its weights streamed from where they are."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

import onnx
import onnx_ir as ir

from graphopt.errors import ModelError, OutputError
from graphopt.model_io import skeleton, staging, wire
from graphopt.model_io.loading import kept_of
from graphopt.model_io.opening import open_model
from graphopt.model_io.sink import Sink
from graphopt.model_io.tensors import MappedTensor
from graphopt.model_io.weights import MAX_SKELETON_BYTES, Weights

__all__ = ["ExternalData", "Saved", "Stage", "save", "staged"]

logger = logging.getLogger(__name__)

ExternalData: TypeAlias = Literal["auto", "always", "never"]

EMBEDDED_LIMIT_BYTES = 1_900_000_000
"""Weights beyond this get a file of their own: a protobuf message ends at 2,147,483,647 bytes,
and some room is left for the graph."""

LARGE_BYTES = 1 << 20
ALIGNMENTS = (64, 4096)
"""Where tensors start in a data file: small ones at a cache line, those of ``LARGE_BYTES`` and
more at a page, so that a runtime can map them."""


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


class Stage:
    """A model written next to its destination, to be looked at before it takes its place.

    Attributes:
        destination: Where it will be.
        path: Where it is until then; loads from there as it will from its destination.
        external_path: Its weights, if they are in a file of their own.
    """

    def __init__(
        self,
        destination: pathlib.Path,
        folder: pathlib.Path,
        external_data: ExternalData,
        durable: bool,
    ) -> None:
        self.destination = destination
        self.path = folder / destination.name
        self.external_path: pathlib.Path | None = None
        self._folder = folder
        self._external_data = external_data
        self._durable = durable

    def write(self, model: ir.Model) -> None:
        """Write ``model`` to ``path``; what was written there before is replaced.

        Raises:
            OutputError: There is no room, or the model does not fit into a file.
            ModelError: The file that holds its weights was changed since it was read.
        """
        with staging.reporting(self.destination):
            self._clear()
            weights = _unique(skeleton.large_initializers(model))
            total = sum(tensor.nbytes for tensor in weights.values())
            if self._external_data == "always":
                external = True
            else:
                external = total > EMBEDDED_LIMIT_BYTES
                if self._external_data == "auto":
                    external = external or kept_of(model).external
            buffer, pieces = self._put_together(model, weights if external else {})
            if not external and wire.length_of(pieces) > MAX_SKELETON_BYTES:
                buffer, pieces = self._put_together(model, weights)
            if (size := wire.length_of(pieces)) > MAX_SKELETON_BYTES:
                raise OutputError(
                    "too-large",
                    f"{self.destination} would have {size / 1e9:.1f} GB beside its external "
                    "data; an ONNX file ends at 2.1.",
                )
            if self._external_data == "never" and self.external_path is not None:
                logger.warning(
                    "%s: an ONNX file ends at 2.1 GB; the weights are in %s",
                    self.destination,
                    self.external_path.name,
                )
            with Sink(self.path) as sink:
                sink.write_pieces(buffer, pieces)

    def commit(self) -> Saved:
        """Move what was written to its destination: the weights first, the model last.

        At every moment the destination is the old model with its weights, or the new one with
        its own.

        Raises:
            OutputError: The operating system refuses; the old model is as it was.
        """
        parent = self.destination.parent
        files = [path for path in (self.external_path, self.path) if path is not None]
        with staging.reporting(self.destination), staging.alone_in(parent):
            staging.check_destination(self.destination)
            if self.destination.is_symlink():
                logger.warning(
                    "%s was a link to %s: the link is replaced, what it led to is untouched",
                    self.destination,
                    os.readlink(self.destination),
                )
            size = sum(path.stat().st_size for path in files)
            old = _own_data_of(self.destination)
            external = None
            if self.external_path is not None:
                external = parent / self.external_path.name
                old.discard(external.name)
            staging.move_into_place(files, parent, self._durable)
            for name in sorted(old):
                with contextlib.suppress(OSError):
                    (parent / name).unlink()
        return Saved(self.destination, external, size)

    def _clear(self) -> None:
        self.external_path = None
        for path in self._folder.iterdir():
            path.unlink()

    def _put_together(
        self, model: ir.Model, weights: dict[object, ir.TensorProtocol]
    ) -> tuple[bytes, list[wire.Piece[ir.TensorProtocol]]]:
        if not weights:
            return skeleton.pieces_of(model, lambda tensor: None)
        offsets = self._write_data(weights)
        assert self.external_path is not None
        name = self.external_path.name
        return skeleton.pieces_of(
            model,
            lambda tensor: (name, offsets[key]) if (key := _key(tensor)) in offsets else None,
        )

    def _write_data(self, weights: dict[object, ir.TensorProtocol]) -> dict[object, int]:
        """Write the data file; return where in it each tensor is."""
        offsets = {}
        digest = hashlib.sha256()
        waiting = self._folder / "data"
        with Sink(waiting, digest) as sink:
            for key, tensor in weights.items():
                sink.align(ALIGNMENTS[tensor.nbytes >= LARGE_BYTES])
                offsets[key] = sink.size
                sink.write_tensor(tensor)
        # Named by its content: it never takes the place of a file that a model in use refers
        # to, and the same model has the same name for it.
        name = f"{self.destination.name}.{digest.hexdigest()[:16]}.data"
        self.external_path = self._folder / name
        os.rename(waiting, self.external_path)
        return offsets


@contextlib.contextmanager
def staged(
    path: str | os.PathLike[str],
    external_data: ExternalData = "auto",
    *,
    durable: bool = True,
) -> Iterator[Stage]:
    """Give a place next to ``path`` to write a model to, look at it, and commit it.

    What is not committed when the block ends is removed, and the destination is untouched. The
    destination may be the file that the model was read from.

    Example:
        The file that is checked is the file that is kept, byte for byte::

            with staged("model.onnx") as stage:
                stage.write(model)
                check(stage.path)
                saved = stage.commit()

    Args:
        path: Where the model is to be.
        external_data: Where its weights go: ``always`` to a file of their own (initializers of
            1 KiB and more), ``never`` there unless the file would be too large for protobuf,
            ``auto``: as they were in the model that was read.
        durable: Wait for the disk, so that not even a power cut loses both the old model and
            the new one. Not needed for temporary files.

    Raises:
        OutputError: Nothing can be written there.
    """
    destination = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        with staging.reporting(destination):
            staging.check_destination(destination)
            folder = stack.enter_context(staging.staging_folder(destination.parent))
        yield Stage(destination, folder, external_data, durable)


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    external_data: ExternalData = "auto",
    *,
    durable: bool = True,
) -> Saved:
    """Write ``model`` to ``path``, whole or not at all.

    The same model is the same bytes, and so is what is read back and written again. Weights
    that are in a file are copied by the kernel; see ``staged`` for the options.

    Raises:
        OutputError: It cannot be written; what was there is as it was.
        ModelError: The file that holds the weights was changed since it was read.
    """
    with staged(path, external_data, durable=durable) as stage:
        stage.write(model)
        return stage.commit()


def _unique(tensors: list[ir.TensorProtocol]) -> dict[object, ir.TensorProtocol]:
    return {_key(tensor): tensor for tensor in tensors}


def _key(tensor: ir.TensorProtocol) -> object:
    """Return what tensors that share their data have in common."""
    if isinstance(tensor, MappedTensor):
        return id(tensor.source), tensor.offset, tensor.nbytes
    return id(tensor)


def _own_data_of(path: pathlib.Path) -> set[str]:
    """Return the data files that the model at ``path`` refers to and that are named by us."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    try:
        proto = Weights(None).parse(open_model(path))
    except ModelError:
        return set()
    return {
        entry.value
        for body in skeleton.bodies(proto)
        if isinstance(body, onnx.GraphProto)
        for tensor in body.initializer
        for entry in tensor.external_data
        if entry.key == "location" and pattern.fullmatch(entry.value)
    }

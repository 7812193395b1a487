"""Writes bytes and tensors to a file, without a copy of all of them in memory."""

from __future__ import annotations

import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import onnx_ir as ir

from graphopt.errors import PassError
from graphopt.model_io import wire
from graphopt.model_io.tensors import MappedTensor

__all__ = ["Sink"]

BUFFER_BYTES = 1 << 20
"""Small pieces are gathered up to this before they are written."""


class Sink:
    """A new file.

    Args:
        path: Must not exist.
        digest: Told everything that is written; ``None`` where nobody wants to know, which
            lets the kernel copy the weights by itself.

    Attributes:
        size: Bytes written so far.
    """

    def __init__(self, path: pathlib.Path, digest: hashlib._Hash | None = None) -> None:
        self.size = 0
        self._digest = digest
        self._waiting = bytearray()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            os.close(self._descriptor)

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``."""
        self.size += len(data)
        if len(data) < BUFFER_BYTES:
            self._waiting += data
            if len(self._waiting) >= BUFFER_BYTES:
                self._flush()
        else:
            self._flush()
            self._write_now(memoryview(data))

    def write_pieces(
        self, buffer: bytes, pieces: Sequence[wire.Piece[ir.TensorProtocol]]
    ) -> None:
        """Append ranges of ``buffer``, bytes and tensors."""
        view = memoryview(buffer)
        for piece in pieces:
            if isinstance(piece, wire.Sized):
                self.write_tensor(piece.slot)
            else:
                self.write(piece if isinstance(piece, bytes) else view[slice(*piece)])

    def write_tensor(self, tensor: ir.TensorProtocol) -> None:
        """Append the data of ``tensor``: ``nbytes`` bytes, little-endian.

        Raises:
            PassError: The tensor has another number of bytes than it says.
        """
        if isinstance(tensor, MappedTensor):
            self._flush()
            see = None if self._digest is None else self._digest.update
            tensor.source.copy_to(self._descriptor, tensor.offset, tensor.nbytes, see)
            self.size += tensor.nbytes
            return
        before = self.size
        for data in _data_of(tensor):
            self.write(data)
        if (size := self.size - before) != tensor.nbytes:
            raise PassError(
                "tensor-size",
                f"tensor {tensor.name!r} says it is {tensor.nbytes} bytes and delivers "
                f"{size}.",
            )

    def align(self, alignment: int) -> None:
        """Append zeros up to a multiple of ``alignment``."""
        self.write(bytes(-self.size % alignment))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        self._write_now(memoryview(waiting))

    def _write_now(self, view: memoryview) -> None:
        if self._digest is not None:
            self._digest.update(view)
        while view:
            view = view[os.write(self._descriptor, view) :]


def _data_of(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """Yield the data of ``tensor`` in pieces."""
    # The array itself, not a copy of it as bytes, where its layout is that of the file.
    if tensor.dtype.bitwidth >= 8 and sys.byteorder == "little":
        array = tensor.numpy()
        if array.dtype.byteorder != ">" and array.itemsize * 8 == tensor.dtype.bitwidth:
            for part in _parts_of(array):
                yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            return
    yield tensor.tobytes()


def _parts_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the parts of ``array`` that are copied at once: all of it where none is needed."""
    if array.flags.c_contiguous:
        yield array
        return
    rows = max(1, BUFFER_BYTES * len(array) // array.nbytes)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]

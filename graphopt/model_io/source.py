"""A file that is kept open and read in pieces, by mapping it or by copying from it."""

from __future__ import annotations

import errno
import mmap
import os
import pathlib
import resource
import weakref
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from graphopt.errors import ModelError

__all__ = ["SourceFile", "with_more_descriptors"]

CHUNK_BYTES = 1 << 22
"""Read at once where data passes through Python; larger is not faster."""

T = TypeVar("T")

_BLOCK_BYTES = 1 << 14
"""Read ahead where single fields are looked at."""


class SourceFile:
    """A regular file that stays readable, whatever happens to its name.

    The descriptor is kept, so that the file can be replaced by another one of the same name
    (the output of this run) while its content is still needed.

    Attributes:
        path: Where it was found; for messages.
        size: Its size in bytes when it was opened.
    """

    def __init__(self, descriptor: int, path: pathlib.Path, status: os.stat_result) -> None:
        self.path = path
        self.size = status.st_size
        self._descriptor = descriptor
        self._modified = status.st_mtime_ns
        self._map: mmap.mmap | None = None
        self._block, self._block_at = b"", 0
        weakref.finalize(self, os.close, descriptor)

    def map(self) -> mmap.mmap:
        """Return the content of the file, mapped; the file must not be empty."""
        if self._map is None:
            self._map = with_more_descriptors(  # the map keeps one of its own
                lambda: mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
            )
        return self._map

    def array(self, offset: int, size: int) -> np.ndarray:
        """Return a read-only uint8 array of ``size`` bytes of the file, mapped."""
        if not size:
            return np.empty(0, np.uint8)
        return np.frombuffer(self.map(), np.uint8, size, offset)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, range_: slice) -> bytes:
        """Return the bytes in a range, read; not through the map.

        Of a file in the page cache the kernel maps a few MB around each byte that is looked
        at, and counts them as memory of this process.
        """
        start, stop, _ = range_.indices(self.size)
        if stop - start > _BLOCK_BYTES:
            return os.pread(self._descriptor, stop - start, start)
        at = start - self._block_at
        if at < 0 or stop - self._block_at > len(self._block):
            self._block = os.pread(self._descriptor, _BLOCK_BYTES, start)
            self._block_at, at = start, 0
        return self._block[at : at + stop - start]

    def read(self, offset: int, size: int) -> np.ndarray:
        """Return a uint8 array of ``size`` bytes of the file, read into memory.

        Raises:
            ModelError: The file was changed since it was opened.
        """
        self.check_unchanged()
        array = np.empty(size, np.uint8)
        done = 0
        while done < size:
            count = os.preadv(self._descriptor, [array.data[done:]], offset + done)
            if not count:
                raise self._changed()
            done += count
        return array

    def copy_to(
        self,
        target: int,
        offset: int,
        size: int,
        see: Callable[[bytes], object] | None = None,
    ) -> None:
        """Append a range of the file to the descriptor ``target``.

        Inside the kernel, where it can (and where the file system can share blocks, without
        copying); not through the map, whose pages would count as memory of this process.

        Args:
            target: Descriptor of a file open for writing, at the place to write to.
            offset: First byte of the range.
            size: Its length.
            see: Called with the bytes, piece by piece.

        Raises:
            ModelError: The file was changed since it was opened.
            OSError: Writing failed.
        """
        self.check_unchanged()
        end = offset + size
        if see is None:
            offset = self._copy_in_kernel(target, offset, end)
        while offset < end:
            chunk = os.pread(self._descriptor, min(CHUNK_BYTES, end - offset), offset)
            if not chunk:
                raise self._changed()
            if see is not None:
                see(chunk)
            offset += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]

    def _copy_in_kernel(self, target: int, offset: int, end: int) -> int:
        copy = getattr(os, "copy_file_range", None)  # Linux
        while copy is not None and offset < end:
            try:
                copied = copy(self._descriptor, target, min(1 << 30, end - offset), offset)
            except OSError as error:
                # Not between these two file systems; anything else is met again by write.
                if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
                    raise
                break
            if not copied:
                break
            offset += copied
        return offset

    def check_unchanged(self) -> None:
        """Check that nobody has written to the file since it was opened.

        Raises:
            ModelError: Somebody has.
        """
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            raise self._changed()

    def _changed(self) -> ModelError:
        return ModelError(
            "changed",
            f"{self.path} was changed while it was in use.",
            hint="Run again when nothing writes to it.",
        )


def with_more_descriptors(opening: Callable[[], T]) -> T:
    """Return what ``opening`` does, with the limit of open files raised when it is met.

    Older exporters write one file per weight: more than the usual limit of 1,024.
    """
    try:
        return opening()
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return opening()

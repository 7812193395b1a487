"""Opens the files that a model consists of, once, and keeps them open.

A file is checked through the descriptor it will be read from, so that it cannot be exchanged
between the check and the use. External data may only be a regular file inside the folder of
the model: no ``..``, no absolute path, no link, neither of the file nor of a folder on the way
(CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34446, CVE-2026-34447).
"""

from __future__ import annotations

import errno
import mmap
import os
import pathlib
import re
import resource
import stat
import weakref
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from graphopt.errors import ModelError, nearest

__all__ = ["CHUNK_BYTES", "SourceFile", "open_external", "open_model"]

CHUNK_BYTES = 1 << 22
"""Read at once where data passes through Python; larger is not faster."""

T = TypeVar("T")

_BLOCK_BYTES = 1 << 14
"""Read ahead where single fields are looked at."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block the open


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
            self._map = _with_more_descriptors(  # the map keeps one of its own
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
            ModelError: The file has become shorter.
        """
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


def open_model(path: pathlib.Path) -> SourceFile:
    """Open the file that a user named; links are followed.

    Raises:
        ModelError: It is not there, no regular file, empty, or cannot be read.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            found = sorted(entry.name for entry in path.glob("*.onnx"))[:5]
            hint = f"It holds {', '.join(found)}." if found else "It holds no .onnx file."
            raise ModelError("directory", f"{path} is a folder, not a model file.", hint=hint)
        descriptor = _open(path)
    except FileNotFoundError:
        names = [p.name for p in path.parent.glob("*.onnx")] if path.parent.is_dir() else []
        hint = nearest(path.name, names) if names else ""
        raise ModelError("missing-file", f"{path} does not exist.", hint=hint) from None
    except OSError as error:
        raise ModelError(
            "unreadable", f"{path} cannot be read: {error.strerror or error}."
        ) from error
    source = _checked(
        descriptor, path, ModelError("not-a-file", f"{path} is no regular file.")
    )
    if not source.size:
        raise ModelError("empty-file", f"{path} is an empty file.", hint="Export it again.")
    return source


def open_external(
    folder: pathlib.Path, location: str, user: str, allow_hardlinks: bool = False
) -> SourceFile:
    """Open a file with external data of a model.

    Args:
        folder: The folder of the model.
        location: Path of the file as the model has it: relative, inside the folder.
        user: What refers to it, for the message.
        allow_hardlinks: Accept a file that has a second name somewhere.

    Raises:
        ModelError: The location leads out of the folder or over a link, or the file is not
            there or no regular file.
    """
    parts = _parts(location, user)
    path = folder.joinpath(*parts)
    try:
        descriptor = _open_beneath(folder, parts)
    except FileNotFoundError:
        raise ModelError(
            "external-missing",
            f"{user} has its data in {str(path)!r}, which does not exist.",
            hint="Put the data file into the folder of the model, under this name.",
        ) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR) and _has_link(
            folder, parts
        ):
            raise ModelError(
                "external-link",
                f"{user} has its data in {str(path)!r}, which leads over a symbolic link.",
                hint="Copy the model with `cp -rL`, so that its folder holds the data itself.",
            ) from None
        raise ModelError(
            "external-unreadable",
            f"{user} has its data in {str(path)!r}, which cannot be read: "
            f"{error.strerror or error}.",
        ) from error
    source = _checked(
        descriptor,
        path,
        ModelError("external-link", f"{user} has its data in {str(path)!r}, no regular file."),
    )
    if os.fstat(descriptor).st_nlink > 1 and not allow_hardlinks:
        raise ModelError(
            "external-hardlink",
            f"{user} has its data in {str(path)!r}, which has a second name (a hard link).",
            hint="Copy the file, or allow hard links.",
        )
    return source


def _parts(location: str, user: str) -> list[str]:
    # A backslash and a drive are looked at everywhere: the model may go to Windows next.
    parts = re.split(r"[/\\]", location)
    if (
        not location
        or "\0" in location
        or ".." in parts
        or location[0] in "/\\"
        or re.match(r"[A-Za-z]:", location)
    ):
        raise ModelError(
            "external-outside",
            f"{user} has its data in {location!r}, which is outside the folder of the model.",
            hint="Put the data into that folder and give a relative location.",
        )
    return [part for part in location.split("/") if part not in ("", ".")]


def _open_beneath(folder: pathlib.Path, parts: list[str]) -> int:
    """Open a file below ``folder`` without following a link in any of ``parts``."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = below
        return _open(parts[-1] if parts else ".", os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)


def _has_link(folder: pathlib.Path, parts: list[str]) -> bool:
    paths = [folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    return any(path.is_symlink() for path in paths)


def _open(path: str | pathlib.Path, flags: int = 0, dir_fd: int | None = None) -> int:
    return _with_more_descriptors(lambda: os.open(path, _FLAGS | flags, dir_fd=dir_fd))


def _with_more_descriptors(opening: Callable[[], T]) -> T:
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


def _checked(descriptor: int, path: pathlib.Path, refusal: ModelError) -> SourceFile:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal
    return SourceFile(descriptor, path, status)

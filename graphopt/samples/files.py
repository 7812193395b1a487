"""Reads samples from .npz and .npy files, a piece at a time."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import lzma
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.lib.format as npy

from graphopt.errors import SamplesError

__all__ = ["Array", "open_arrays"]

# What the readers of archives and headers raise where the bytes make no sense to them.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


class Array(abc.ABC):
    """An array in a file.

    Attributes:
        dtype: Type of its elements.
        shape: Its shape; the first dimension runs over samples.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape

    @abc.abstractmethod
    def pieces(self, step: int) -> Iterator[np.ndarray]:
        """Yield ``step`` entries of the first dimension at a time, in memory of their own."""

    @abc.abstractmethod
    def whole(self) -> np.ndarray:
        """Return all of it, in memory."""


class _Mapped(Array):
    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array.dtype, array.shape)
        self._array = array

    def pieces(self, step: int) -> Iterator[np.ndarray]:
        for start in range(0, self.shape[0], step):
            yield np.array(self._array[start : start + step])

    def whole(self) -> np.ndarray:
        return np.array(self._array)


@dataclasses.dataclass(frozen=True)
class _Header:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int

    @property
    def data_size(self) -> int:
        count = 1
        for dim in self.shape:
            count *= dim
        return count * self.dtype.itemsize


class _Compressed(Array):
    """A member of an archive that has to be unpacked from its start."""

    def __init__(self, path: pathlib.Path, member: str, header: _Header) -> None:
        super().__init__(header.dtype, header.shape)
        self._path = path
        self._member = member
        self._header = header

    def whole(self) -> np.ndarray:
        with self._stream() as stream:
            array: np.ndarray = npy.read_array(stream, allow_pickle=False)
        return array

    def pieces(self, step: int) -> Iterator[np.ndarray]:
        if self._header.fortran and len(self.shape) > 1:
            # Its entries are not one after the other: there is no way but all at once.
            yield from _Mapped(self.whole()).pieces(step)
            return
        with self._stream() as stream:
            stream.read(self._header.size)
            entry = self._header.data_size // max(self.shape[0], 1)
            for start in range(0, self.shape[0], step):
                count = min(step, self.shape[0] - start)
                data = bytearray(stream.read(count * entry))
                if len(data) != count * entry:
                    raise _cut_off(self._path, self._member)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    @contextlib.contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        with (
            _reading(self._path),
            zipfile.ZipFile(self._path) as archive,
            archive.open(self._member) as stream,
        ):
            yield stream


def open_arrays(path: pathlib.Path) -> dict[str, Array]:
    """Return the arrays in an ``.npz`` file, or in a folder of ``.npy`` files.

    Nothing but headers is read. What is not compressed is mapped; what is compressed is
    unpacked as it is asked for.

    Raises:
        SamplesError: There is none, or a file is not what its name says.
    """
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        return {file.stem: _open_npy(file) for file in files}
    with _reading(path), zipfile.ZipFile(path) as archive:
        found = {}
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                found[name] = _open_member(path, archive, info)
        return found


def _open_npy(path: pathlib.Path) -> Array:
    with _reading(path):
        with open(path, "rb") as file:
            header = _read_header(file, path, path.name)
        if header.size + header.data_size > path.stat().st_size:
            raise _cut_off(path, path.name)
        return _Mapped(_map(path, header, header.size))


def _open_member(path: pathlib.Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as stream:
        header = _read_header(stream, path, info.filename)
    if header.size + header.data_size != info.file_size:
        raise _cut_off(path, info.filename)
    if info.compress_type != zipfile.ZIP_STORED:
        return _Compressed(path, info.filename, header)
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        lengths: tuple[int, int] = struct.unpack("<26x2H", file.read(30))
    start = info.header_offset + 30 + sum(lengths) + header.size
    return _Mapped(_map(path, header, start))


def _map(path: pathlib.Path, header: _Header, start: int) -> np.ndarray:
    if not header.data_size:
        return np.empty(header.shape, header.dtype)
    order = "F" if header.fortran else "C"
    # numpy declares the order as a literal, and the result as what it may be of any arguments.
    return np.memmap(path, header.dtype, "r", start, header.shape, order)  # type: ignore[call-overload, no-any-return]


def _read_header(stream: IO[bytes], path: pathlib.Path, member: str) -> _Header:
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{member} has the format version {version}")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise SamplesError(
            "pickled",
            f"{path}: {member!r} holds pickled objects, which are not loaded.",
            hint="Save strings as an array of dtype str, numbers as numbers.",
        )
    return _Header(dtype, shape, fortran, stream.tell())


def _cut_off(path: pathlib.Path, member: str) -> SamplesError:
    return SamplesError(
        "damaged", f"{path}: {member!r} does not hold as much data as its header says."
    )


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGES as error:
        raise SamplesError(
            "damaged",
            f"{path} cannot be read as numpy data: {error}.",
            hint="Write it with np.savez(file, **{input name: array}).",
        ) from error
    except OSError as error:
        raise SamplesError(
            "unreadable", f"{path} cannot be read: {error.strerror or error}."
        ) from error

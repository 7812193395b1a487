"""Opens the files that a model consists of, once.

A file is checked through the descriptor it will be read from, so that it cannot be exchanged
between the check and the use. External data may only be a regular file inside the folder of
the model: no ``..``, no absolute path, no link, neither of the file nor of a folder on the way
(CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34446, CVE-2026-34447).
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
import stat

from graphopt.errors import ModelError, nearest
from graphopt.model_io.source import SourceFile, with_more_descriptors

__all__ = ["open_external", "open_model"]

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block the open


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
    return with_more_descriptors(lambda: os.open(path, _FLAGS | flags, dir_fd=dir_fd))


def _checked(descriptor: int, path: pathlib.Path, refusal: ModelError) -> SourceFile:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal
    return SourceFile(descriptor, path, status)

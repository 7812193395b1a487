"""A place next to the output, where files wait until they take their final names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence

from graphopt.errors import OutputError

__all__ = [
    "check_destination",
    "move_into_place",
    "reporting",
    "scratch_folder",
    "staging_folder",
    "write_file",
]

_PREFIX = ".graphopt-stage-"
_CASES = {
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "no-space",
    errno.EFBIG: "no-space",
    errno.EACCES: "unwritable",
    errno.EPERM: "unwritable",
    errno.EROFS: "unwritable",
}
_HINTS = {
    "no-space": "Nothing was changed; make room or choose another place.",
    "unwritable": "Nothing was changed; choose a folder that you may write to.",
}


@contextlib.contextmanager
def reporting(destination: pathlib.Path) -> Iterator[None]:
    """Turn errors of the operating system in the block into ``OutputError``."""
    try:
        yield
    except OSError as error:
        case = _CASES.get(error.errno or 0, "failed")
        raise OutputError(
            case,
            f"{destination} cannot be written: {error.strerror or error}.",
            hint=_HINTS.get(case, ""),
        ) from error


def check_destination(path: pathlib.Path) -> None:
    """Check that a file can take the name ``path``.

    Raises:
        OutputError: The folder does not exist, or the name belongs to something else.
    """
    if not path.parent.is_dir():
        raise OutputError(
            "no-folder", f"the folder of {path} does not exist.", hint="Create it first."
        )
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise OutputError(
            "directory", f"{path} is a folder.", hint="Give the name of a file, in it or not."
        )
    # Renaming a file over /dev/null would replace the device.
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise OutputError("not-a-file", f"{path} is no regular file; it is left alone.")


@contextlib.contextmanager
def scratch_folder() -> Iterator[pathlib.Path]:
    """Give a folder for temporary files, removed with all it holds when the block ends.

    What a killed process left, weights as a rule, is removed here by the next one.
    """
    with staging_folder(pathlib.Path(tempfile.gettempdir())) as locked:
        folder = locked / "files"  # one of its own: who saves a model there locks it meanwhile
        folder.mkdir()
        yield folder


@contextlib.contextmanager
def staging_folder(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a new folder inside ``parent``, removed with all it holds when the block ends.

    It is locked as long as this process lives. Folders whose process was killed are removed
    here, by the next one that comes along.
    """
    _remove_abandoned(parent)
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = -1
        # Before it is locked, another process may take it for abandoned and remove it.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _lock(lock) and folder.exists():
                break
        if lock >= 0:
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def move_into_place(
    files: Sequence[pathlib.Path], folder: pathlib.Path, durable: bool
) -> None:
    """Give ``files`` their place in ``folder``, in this order, each at one stroke.

    A file that is replaced hands on its permissions.

    Args:
        files: The files.
        folder: Where they are to be.
        durable: Everything is on the disk before the first name changes, and the names are
            when this returns.
    """
    for file in files:
        target = folder / file.name
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(target)
            if stat.S_ISREG(status.st_mode):
                os.chmod(file, stat.S_IMODE(status.st_mode))
        if durable:
            _sync(file)
    for file in files:
        os.replace(file, folder / file.name)
    if durable:
        _sync(folder)


def write_file(path: pathlib.Path, content: bytes) -> None:
    """Write a file that is no model, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with reporting(path):
        check_destination(path)
        with staging_folder(path.parent) as folder:
            file = folder / path.name
            file.write_bytes(content)
            move_into_place([file], path.parent, durable=False)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Keep other processes of graphopt from renaming files in ``folder`` meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Not every network file system has locks; each rename is atomic in any case.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here: nothing is ever taken for abandoned, see below
    return True


def _remove_abandoned(parent: pathlib.Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)

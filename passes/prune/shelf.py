"""Arrays on disk: what a value is on every feed, written once and read as often as needed."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["Shelf"]

ROOM_BYTES = 1 << 32
"""What may be on disk, if half of what is free there is not less."""

MOST = 256
"""Values that are there at a time: each is an open file, of which a process has 1,024."""


class Shelf:
    """Keeps arrays of values in temporary files, as long as there is room.

    The files have no name: they are gone with the process, however it ends.

    Args:
        room_bytes: What they may take; ``None``: ``ROOM_BYTES``, or half of what is free.

    Attributes:
        kinds: Value that is here -> its element type.
    """

    def __init__(self, room_bytes: int | None = None) -> None:
        self._room = _room() if room_bytes is None else room_bytes
        self._files: dict[ir.Value, io.FileIO] = {}
        self.kinds: dict[ir.Value, np.dtype] = {}

    def put(self, value: ir.Value, array: Any) -> bool:
        """Add what ``value`` is on the next feed; return whether it was kept.

        It is not if it is no array of numbers, if there is no room, or if the disk says so:
        all that was kept of the value is dropped then.
        """
        numbers = isinstance(array, np.ndarray) and array.dtype.kind in "biufc"
        if numbers and array.nbytes <= self._room:
            with contextlib.suppress(OSError):
                return self._write(value, array)
        self.drop(value)
        return False

    def _write(self, value: ir.Value, array: np.ndarray) -> bool:
        if value not in self._files:
            if len(self._files) == MOST:
                return False
            # Not buffered: what could not be written would fail at any time later.
            new = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # open until dropped
            self._files[value], self.kinds[value] = new, array.dtype
        file = self._files[value]
        before = file.tell()
        try:
            np.lib.format.write_array(file, array, allow_pickle=False)
        finally:
            self._room -= file.tell() - before
        return True

    def rewind(self, value: ir.Value) -> None:
        """Let ``next`` begin with the first feed."""
        self._files[value].seek(0)

    def next(self, value: ir.Value) -> np.ndarray:
        """Return what ``value`` is on the next feed."""
        return np.asarray(np.lib.format.read_array(self._files[value], allow_pickle=False))

    def drop(self, value: ir.Value) -> None:
        """Forget a value; its room is free again."""
        file = self._files.pop(value, None)
        self.kinds.pop(value, None)
        if file is not None:
            self._room += file.seek(0, 2)
            file.close()

    def close(self) -> None:
        """Forget everything."""
        for value in list(self._files):
            self.drop(value)


def _room() -> int:
    try:
        return min(ROOM_BYTES, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    except OSError:
        return 0  # there is no folder for temporary files

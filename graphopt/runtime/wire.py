"""Messages between graphopt and its child process, over a pair of pipes.

A message is one Python object, pickled with protocol 5; the data of large arrays follows the
pickle as it is, and is read straight into the arrays of the receiver. Frame, little-endian::

    uint32 number of buffers | uint64 size of the pickle | uint64 size of each buffer
    | pickle | buffers
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import select
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["ELEMENT_TYPES", "Channel", "ClosedError", "Opaque"]

ELEMENT_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7,
    "object": 8, "bool": 9, "float16": 10, "float64": 11, "uint32": 12, "uint64": 13,
    "complex64": 14, "complex128": 15, "bfloat16": 16, "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20, "uint4": 21, "int4": 22,
    "float4_e2m1fn": 23, "float8_e8m0fnu": 24, "uint2": 25, "int2": 26,
}  # fmt: skip
"""Name of a dtype (numpy's or ml_dtypes') -> ``onnx.TensorProto.DataType``."""

# A pipe holds 64 kB by default; with 1 MB (the most an ordinary user may ask for on Linux) a
# large array takes a sixteenth of the system calls.
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_HEADER = struct.Struct("<IQ")
# Below this an array is copied into the pickle: cheaper than a buffer of its own.
_INLINE_BYTES = 4096
_MAX_VECTOR = 512


class ClosedError(Exception):
    """The other end of the channel is gone."""


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A tensor of a type that numpy does not have (bfloat16, float8, int4).

    Attributes:
        element_type: Its ``onnx.TensorProto.DataType``.
        shape: Its shape, in elements.
        data: uint8 [bytes], as onnxruntime keeps it: 4-bit types two to a byte, low half
            first.
    """

    element_type: int
    shape: tuple[int, ...]
    data: np.ndarray


class Channel:
    """One end of a pair of pipes.

    Args:
        reader: File descriptor to read from.
        writer: File descriptor to write to.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self._pending = b""

    def send(self, message: Any, deadline: float | None = None) -> None:
        """Send ``message``.

        Args:
            message: Anything that can be pickled.
            deadline: Value of ``time.monotonic`` after which to give up. Only with a
                non-blocking writer.

        Raises:
            ClosedError: The other process has ended.
            TimeoutError: The deadline has passed.
        """
        buffers: list[memoryview] = []

        def take(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes < _INLINE_BYTES:
                return True
            buffers.append(view)
            return False

        payload = pickle.dumps(message, protocol=5, buffer_callback=take)
        head = _HEADER.pack(len(buffers), len(payload)) + struct.pack(
            f"<{len(buffers)}Q", *(view.nbytes for view in buffers)
        )
        parts = [memoryview(head), memoryview(payload), *buffers]
        while parts:
            try:
                written = os.writev(self._writer, parts[:_MAX_VECTOR])
            except BlockingIOError:
                _wait(self._writer, select.POLLOUT, deadline)
                continue
            except (BrokenPipeError, ConnectionResetError):
                raise ClosedError from None
            parts = _rest(parts, written)

    def receive(self, deadline: float | None = None) -> Any:
        """Return the next message.

        Args:
            deadline: Value of ``time.monotonic`` after which to give up.

        Raises:
            ClosedError: The other process has ended.
            TimeoutError: The deadline has passed.
        """
        count, size = _HEADER.unpack(self._take(_HEADER.size, deadline))
        sizes = struct.unpack(f"<{count}Q", self._take(8 * count, deadline)) if count else ()
        payload = self._take(size, deadline)
        buffers = []
        for nbytes in sizes:
            # np.empty, and not a bytearray: its pages are not cleared first.
            buffer = np.empty(nbytes, np.uint8)
            self._fill(buffer.data, deadline)
            buffers.append(buffer)
        return pickle.loads(payload, buffers=buffers)

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self._reader)
        os.close(self._writer)

    def _take(self, size: int, deadline: float | None) -> bytes:
        if len(self._pending) < size:
            parts = [self._pending]
            missing = size - len(self._pending)
            while missing > 0:
                _wait(self._reader, select.POLLIN, deadline)
                # Reading ahead: a small message is there in one call.
                part = os.read(self._reader, max(missing, 1 << 16))
                if not part:
                    raise ClosedError
                parts.append(part)
                missing -= len(part)
            self._pending = b"".join(parts)
        taken, self._pending = self._pending[:size], self._pending[size:]
        return taken

    def _fill(self, target: memoryview, deadline: float | None) -> None:
        ready = min(len(self._pending), len(target))
        target[:ready] = self._pending[:ready]
        self._pending = self._pending[ready:]
        target = target[ready:]
        while target:
            _wait(self._reader, select.POLLIN, deadline)
            count = os.readv(self._reader, [target])
            if not count:
                raise ClosedError
            target = target[count:]


def _wait(descriptor: int, events: int, deadline: float | None) -> None:
    timeout = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    poll = select.poll()
    poll.register(descriptor, events)
    if not poll.poll(timeout):
        raise TimeoutError


def _rest(parts: Sequence[memoryview], written: int) -> list[memoryview]:
    """Return what is left of ``parts`` after ``written`` bytes of them."""
    for index, part in enumerate(parts):
        if written < part.nbytes:
            return [part.cast("B")[written:], *parts[index + 1 :]]
        written -= part.nbytes
    return []

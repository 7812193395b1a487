"""Messages between graphopt and its child process, over a pair of sockets.

A message is a head, which is pickled, and a list of arrays, whose bytes follow it as they are
and are read straight into the arrays of the receiver. Frame, in the machine's byte order::

    uint64 size of the head | head: (head, [(element type, shape), ...]) | bytes of each array

numpy pickles a small array in 15 us; this way it takes 2, and a large one is copied once on
either side (3.5 GB/s; a shared memory file that is made anew for each message is slower).
"""

from __future__ import annotations

import dataclasses
import pickle
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["ELEMENT_TYPES", "Channel", "ClosedError", "Opaque"]

ELEMENT_TYPES: dict[np.dtype[Any], int] = {
    np.dtype(kind): number
    for kind, number in {
        "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7,
        "bool": 9, "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "complex64": 14,
        "complex128": 15,
    }.items()
}  # fmt: skip
"""The numeric types of numpy -> ``onnx.TensorProto.DataType``."""

_DTYPES = {number: dtype for dtype, number in ELEMENT_TYPES.items()}
_OBJECT = -1  # in place of an element type: strings, sequences, whatever else is pickled
_SIZE = struct.Struct("=Q")
# A frame up to this size is put together and sent, and read, in one piece.
_SMALL_BYTES = 1 << 16
_VECTOR = 64


class ClosedError(Exception):
    """The other end of the channel is gone."""


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A tensor of a type that numpy does not have (bfloat16, float8, int4).

    Attributes:
        element_type: Its ``onnx.TensorProto.DataType``.
        shape: Its shape, in elements.
        data: uint8 [bytes], as onnxruntime keeps it: smaller types than a byte are packed, the
            first element in the lowest bits.
    """

    element_type: int
    shape: tuple[int, ...]
    data: np.ndarray


class Channel:
    """One end of a connection.

    Args:
        end: A stream socket; owned by the channel from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._pending = b""  # read ahead, and
        self._at = 0  # how much of it is used

    def send(
        self, head: Any, values: Sequence[Any] = (), deadline: float | None = None
    ) -> None:
        """Send one message.

        Args:
            head: Anything that can be pickled.
            values: Arrays, ``Opaque`` tensors, or anything that can be pickled.
            deadline: Value of ``time.monotonic`` after which to give up.

        Raises:
            ClosedError: The other process has ended.
            TimeoutError: The deadline has passed.
        """
        descriptions: list[tuple[int, Any]] = []
        arrays: list[np.ndarray] = []
        for value in values:
            if isinstance(value, Opaque):
                descriptions.append((value.element_type, (value.data.nbytes, value.shape)))
                arrays.append(value.data)
                continue
            number = ELEMENT_TYPES.get(value.dtype) if isinstance(value, np.ndarray) else None
            if number is None:
                descriptions.append((_OBJECT, value))
            else:
                descriptions.append((number, value.shape))
                arrays.append(value)
        payload = pickle.dumps((head, descriptions), protocol=5)
        try:
            self._send(payload, arrays, deadline)
        except (BrokenPipeError, ConnectionResetError):
            raise ClosedError from None

    def _send(
        self, payload: bytes, arrays: Sequence[np.ndarray], deadline: float | None
    ) -> None:
        size = _SIZE.pack(len(payload))
        if len(payload) + sum(array.nbytes for array in arrays) <= _SMALL_BYTES:
            self._arm(deadline)
            self._end.sendall(b"".join([size, payload, *(a.tobytes() for a in arrays)]))
            return
        parts = [memoryview(size), memoryview(payload)]
        parts += [
            np.asarray(array, order="C").reshape(-1).view(np.uint8).data
            for array in arrays
            if array.nbytes
        ]
        at = 0
        while at < len(parts):
            self._arm(deadline)
            sent = self._end.sendmsg(parts[at : at + _VECTOR])
            while sent:
                if sent < len(parts[at]):
                    parts[at] = parts[at][sent:]
                    break
                sent -= len(parts[at])
                at += 1

    def receive(self, deadline: float | None = None) -> tuple[Any, list[Any]]:
        """Return the next message: its head and its values.

        Args:
            deadline: Value of ``time.monotonic`` after which to wait no more; what has come by
                then is read all the same.

        Raises:
            ClosedError: The other process has ended.
            TimeoutError: The deadline has passed.
        """
        try:
            (size,) = _SIZE.unpack(self._take(_SIZE.size, deadline))
            head, descriptions = pickle.loads(self._take(size, deadline))
            return head, [
                self._value(number, about, deadline) for number, about in descriptions
            ]
        except ConnectionResetError:
            raise ClosedError from None
        except BlockingIOError:
            raise TimeoutError from None

    def _value(self, number: int, about: Any, deadline: float | None) -> Any:
        if number == _OBJECT:
            return about
        dtype = _DTYPES.get(number)
        if dtype is None:
            nbytes, shape = about
            data = np.empty(nbytes, np.uint8)
            self._fill(data, deadline)
            return Opaque(number, shape, data)
        array = np.empty(about, dtype)
        self._fill(array, deadline)
        return array

    def close(self) -> None:
        """Close the connection."""
        self._end.close()

    def _arm(self, deadline: float | None, *, late: bool = False) -> None:
        """Let the next call wait until ``deadline``; ``late``: after it, not at all."""
        if deadline is None:
            if self._end.gettimeout() is not None:
                self._end.settimeout(None)
            return
        left = deadline - time.monotonic()
        if left <= 0 and not late:
            raise TimeoutError
        self._end.settimeout(max(left, 0.0))

    def _take(self, size: int, deadline: float | None) -> memoryview:
        ready = len(self._pending) - self._at
        if ready < size:
            parts = [self._pending[self._at :]]
            while ready < size:
                self._arm(deadline, late=True)
                # Reading ahead: a small message is there in one call.
                part = self._end.recv(max(size - ready, _SMALL_BYTES))
                if not part:
                    raise ClosedError
                parts.append(part)
                ready += len(part)
            self._pending, self._at = b"".join(parts), 0
        start, self._at = self._at, self._at + size
        return memoryview(self._pending)[start : self._at]

    def _fill(self, array: np.ndarray, deadline: float | None) -> None:
        if not array.nbytes:
            return
        target = array.reshape(-1).view(np.uint8).data
        ready = min(len(self._pending) - self._at, len(target))
        target[:ready] = self._take(ready, deadline)
        target = target[ready:]
        while target:
            self._arm(deadline, late=True)
            count = self._end.recv_into(target)
            if not count:
                raise ClosedError
            target = target[count:]

"""Finds and swaps the data of tensors inside a serialized model, without parsing the rest.

A serialized ``ModelProto`` is a tree of length-delimited fields. The data of a tensor is one
of them, and it is all that makes a model large. Replacing it changes the lengths of the
messages around it and nothing else, so that a model of many GB is taken apart into a small
model and the places of its weights (reading), or put together from the two (writing), by
looking at a few bytes per field.

Source: https://protobuf.dev/programming-guides/encoding/ and onnx.proto of ONNX 1.23.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar

__all__ = [
    "DATA_FIELDS",
    "MAX_DEPTH",
    "RAW_DATA",
    "Buffer",
    "WireError",
    "encode_varint",
    "field",
    "length_of",
    "rewrite",
    "top_level_fields",
]


class Buffer(Protocol):
    """Bytes in memory or in a file."""

    def __len__(self) -> int:
        """Return their number."""
        ...

    def __getitem__(self, range_: slice, /) -> bytes:
        """Return those in a range."""
        ...


Slot = TypeVar("Slot")
Piece: TypeAlias = "tuple[int, int] | bytes | Sized[Slot]"
"""What a rewritten model is put together from: a range of the buffer, new bytes, or something
that is filled in later."""

MAX_DEPTH = 100
"""Messages inside messages that protobuf accepts by default, in every language."""

RAW_DATA = 9
DATA_FIELDS = {9: "raw_data", 4: "float_data", 10: "double_data"}
"""Fields of ``TensorProto`` with data in the layout of ``raw_data``: the packed encoding of
floats is their little-endian bytes."""

_DATA_TYPES = {4: (1, 14), 10: (11, 15)}
"""Field -> types of elements that are in it as in ``raw_data``: float and complex."""

# Message -> number of a field -> message in that field, as far as tensors can be inside.
# Sparse tensors and training information are left out: they are small and kept as they are.
_TENSOR: dict[int, str] = {}
_CHILDREN = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}


class WireError(ValueError):
    """The bytes are not the encoding of a message.

    Attributes:
        offset: Where in the buffer.
        needed: End of the field that does not fit, or 0 when that is not what is wrong.
        too_deep: Whether messages are nested more deeply than protobuf accepts.
    """

    def __init__(
        self, message: str, offset: int, needed: int = 0, too_deep: bool = False
    ) -> None:
        super().__init__(f"{message} at byte {offset}")
        self.offset = offset
        self.needed = needed
        self.too_deep = too_deep


@dataclasses.dataclass(frozen=True)
class Sized(Generic[Slot]):
    """A piece that is filled in later.

    Attributes:
        slot: What it is filled from.
        size: How many bytes that will be.
    """

    slot: Slot
    size: int


def encode_varint(value: int) -> bytes:
    """Return ``value``, not negative, as a base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, size: int) -> bytes:
    """Return the tag and the length in front of a length-delimited field of ``size`` bytes."""
    return encode_varint(number << 3 | 2) + encode_varint(size)


def length_of(pieces: list[Piece[Slot]]) -> int:
    """Return how many bytes ``pieces`` make."""
    return sum(map(_length, pieces))


def _length(piece: Piece[Slot]) -> int:
    if isinstance(piece, tuple):
        return piece[1] - piece[0]
    return len(piece) if isinstance(piece, bytes) else piece.size


def _varint(head: bytes, at: int, start: int) -> tuple[int, int]:
    """Return the varint at ``at`` of ``head``, and the offset in it behind the number."""
    value = shift = 0
    first = at
    for byte in head[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    if at - first == 10:
        raise WireError("a number of more than 64 bits", start)
    raise WireError("a number is cut off", start, needed=start + at + 1)


def _next_field(buffer: Buffer, at: int, end: int) -> tuple[int, int, int, int]:
    """Return number, wire type, start and end of the payload of the field at ``at``."""
    head = buffer[at : min(at + 20, end)]  # two varints of 64 bits
    tag, used = _varint(head, 0, at)
    kind = tag & 7
    if kind == 2:
        size, used = _varint(head, used, at)
        stop = at + used + size
    elif kind == 0:
        stop = at + _varint(head, used, at)[1]
    elif kind in (1, 5):
        stop = at + used + (8 if kind == 1 else 4)
    else:
        raise WireError(f"a field of unknown kind {kind}", at)
    if tag < 8:
        raise WireError("a field without a number", at)
    if stop > end:
        raise WireError("a field is cut off", at, needed=stop)
    return tag >> 3, kind, at + used, stop


def top_level_fields(buffer: Buffer) -> list[tuple[int, int]]:
    """Return number and wire type of the fields of the outermost message.

    Raises:
        WireError: The buffer is not a message.
    """
    found = []
    at, end = 0, len(buffer)
    while at < end:
        number, kind, _, at = _next_field(buffer, at, end)
        found.append((number, kind))
    return found


def rewrite(
    buffer: Buffer,
    wanted: Callable[[int, int], bool],
    replace: Callable[[int, int, int], list[Piece[Slot]] | None],
    max_depth: int = MAX_DEPTH,
) -> list[Piece[Slot]] | None:
    """Replace the data of tensors in a serialized model.

    Args:
        buffer: The serialized ``ModelProto``.
        wanted: ``(start, end) -> bool``: whether there may be something to replace in this
            range; messages for which it says no are not looked into.
        replace: ``(number, start, end) -> field``: called for the data of each tensor, which
            is in field ``number`` (see ``DATA_FIELDS``) with its payload in this range.
            Returns the whole field to put there, tag and length included, or ``None`` to
            leave it. Not called for a tensor that has its data in more than one field.
        max_depth: Refuse messages nested more deeply.

    Returns:
        The pieces of the new model, or ``None`` when nothing was replaced.

    Raises:
        WireError: The buffer is not a model, as far as it was looked at.
    """
    return _Rewriter(buffer, wanted, replace, max_depth).message(0, len(buffer), "model", 1)


class _Rewriter(Generic[Slot]):
    def __init__(
        self,
        buffer: Buffer,
        wanted: Callable[[int, int], bool],
        replace: Callable[[int, int, int], list[Piece[Slot]] | None],
        max_depth: int,
    ) -> None:
        self._buffer = buffer
        self._wanted = wanted
        self._replace = replace
        self._max_depth = max_depth

    def message(
        self, start: int, end: int, message: str, depth: int
    ) -> list[Piece[Slot]] | None:
        """Return the pieces of the message in this range; ``None`` when nothing changes."""
        if depth > self._max_depth:
            raise WireError("messages are nested too deeply", start, too_deep=True)
        if message == "tensor":
            return self._tensor(start, end)
        children = _CHILDREN[message]
        pieces: list[Piece[Slot]] = []
        kept = at = start
        while at < end:
            tag = at
            number, kind, begin, at = _next_field(self._buffer, at, end)
            child = children.get(number)
            if child is None or kind != 2 or not self._wanted(begin, at):
                continue
            inner = self.message(begin, at, child, depth + 1)
            if inner is not None:
                pieces += [(kept, tag), field(number, length_of(inner)), *inner]
                kept = at
        if not pieces:
            return None
        pieces.append((kept, end))
        return pieces

    def _tensor(self, start: int, end: int) -> list[Piece[Slot]] | None:
        data: list[tuple[int, int, int, int]] = []
        data_type = 0
        at = start
        while at < end:
            tag = at
            number, kind, begin, at = _next_field(self._buffer, at, end)
            if number == 2 and kind == 0:
                data_type = _varint(self._buffer[begin:at], 0, begin)[0]
            elif number in DATA_FIELDS:
                if kind != 2:
                    return None
                data.append((number, tag, begin, at))
        if len(data) != 1:
            return None
        number, tag, begin, stop = data[0]
        if not self._wanted(begin, stop):
            return None
        if number != RAW_DATA and data_type not in _DATA_TYPES[number]:
            return None
        new = self._replace(number, begin, stop)
        if new is None:
            return None
        return [(start, tag), *new, (stop, end)]

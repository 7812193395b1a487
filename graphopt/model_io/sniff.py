"""Says what a file is that is not a model."""

from __future__ import annotations

import pathlib

from graphopt.errors import ModelError
from graphopt.model_io import wire
from graphopt.model_io.source import SourceFile

__all__ = ["check_is_model", "not_parsed", "not_scanned"]

_BEGINNINGS = (
    (b"version https://git-lfs", "a git-LFS pointer", "Run `git lfs pull` to get the file."),
    (b"<!doctype html", "an HTML page", "The download brought a web page; check its address."),
    (b"<html", "an HTML page", "The download brought a web page; check its address."),
    (b"<?xml", "XML", "The download brought a message; check its address."),
    (b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint", "Export it to ONNX first."),
    (b"\x80\x02", "a pickle, such as a PyTorch checkpoint", "Export it to ONNX first."),
    (b"\x89HDF", "an HDF5 file, such as a Keras model", "Convert it to ONNX first."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"{", "JSON", ""),
)

# Fields of ModelProto -> their wire type.
_MODEL_FIELDS = {1: 0, 5: 0} | dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), 2)


def check_is_model(source: SourceFile) -> None:
    """Check that a file looks like a serialized ``ModelProto`` and ends where it should.

    Raises:
        ModelError: It does not; the message says what it looks like.
    """
    path = source.path
    try:
        fields = wire.top_level_fields(source)
    except wire.WireError as error:
        if error.needed and _starts_like_a_model(source):
            raise ModelError(
                "truncated",
                f"{path} is cut off: it ends at byte {source.size}, inside a field that goes "
                f"on to byte {error.needed} at least.",
                hint="Copy or download it again.",
            ) from None
        raise _other(source, f"its encoding breaks off at byte {error.offset}") from None
    if any(_MODEL_FIELDS.get(number, kind) != kind for number, kind in fields) or not any(
        number in _MODEL_FIELDS for number, _ in fields
    ):
        raise _other(source, "its fields are not those of a model")


def _starts_like_a_model(source: SourceFile) -> bool:
    # Every writer puts the version first (a small number), or there is none and the graph or
    # the producer follows.
    head = source[:2]
    return _beginning(source) is None and head[0] in (0x08, 0x12, 0x3A) and len(head) == 2


def _beginning(source: SourceFile) -> tuple[str, str] | None:
    head = source[:64].lstrip().lower()
    for mark, kind, hint in _BEGINNINGS:
        if head.startswith(mark.lower()):
            return kind, hint
    return None


def _other(source: SourceFile, why: str) -> ModelError:
    kind, hint = _beginning(source) or ("", "")
    looks = f"it looks like {kind}" if kind else why
    return ModelError("not-onnx", f"{source.path} is not an ONNX file: {looks}.", hint=hint)


def not_scanned(path: pathlib.Path, error: wire.WireError) -> ModelError:
    """Return why a model could not be taken apart."""
    if error.too_deep:
        return ModelError(
            "nesting",
            f"{path} has graphs nested too deeply: protobuf reads {wire.MAX_DEPTH} levels of "
            "messages, about 30 of graphs.",
        )
    return ModelError("corrupt", f"{path} is damaged: {error}.")


def not_parsed(path: pathlib.Path, skeleton: bytes, error: Exception) -> ModelError:
    """Return why protobuf does not accept a model, with its weights left out."""
    try:
        # The messages of types, which are not looked into, go a few levels deeper.
        wire.rewrite(skeleton, lambda *_: True, lambda *_: None, max_depth=wire.MAX_DEPTH - 8)
    except wire.WireError as problem:
        return not_scanned(path, problem)
    reason = str(error).splitlines()[0][:200]
    return ModelError("corrupt", f"{path} is damaged; protobuf says: {reason}.")

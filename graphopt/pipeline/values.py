"""Options of passes as text and back, by the type of their field."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping

from graphopt.errors import PipelineError
from graphopt.pipeline.scanner import SIGNS, Quoted

__all__ = ["format_value", "parse_value"]

_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_value(text: str | list[str], kind: object, where: str) -> object:
    """Return ``text`` as a value of the annotated type ``kind``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        is_none = text in ("none", "None") and not isinstance(text, Quoted)
        if is_none and type(None) in args:
            return None
        (kind,) = [arg for arg in args if arg is not type(None)]
        return parse_value(text, kind, where)
    if origin is tuple:
        return tuple(
            parse_value(part, args[0], where)
            for part in ([text] if isinstance(text, str) else text)
        )
    if isinstance(text, list):
        raise PipelineError("bad-option", f"{where} takes one value, not a list.")
    try:
        return _parse_word(text, kind, origin, args)
    except ValueError as error:
        raise PipelineError("bad-option", f"{where}: {error}.") from error


def _parse_word(text: str, kind: object, origin: object, args: tuple[object, ...]) -> object:
    if origin is typing.Literal:
        return _choice(text, {str(arg): arg for arg in args})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choice(text, {str(member.value): member for member in kind})
    if kind is str:
        return str(text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    if kind is int:
        factor = _SUFFIXES.get(text[-1:].upper(), 1)
        number = text if factor == 1 else text[:-1]
        try:
            return int(number) * factor
        except ValueError:
            raise ValueError(f"{text!r} is not an integer") from None
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
    raise ValueError(f"options of type {kind} cannot be written as text")


def _choice(text: str, choices: Mapping[str, object]) -> object:
    if text not in choices:
        raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
    return choices[text]


def format_value(value: object) -> str:
    """Return the text that ``parse_value`` turns into ``value``."""
    if isinstance(value, tuple):
        return f"({','.join(format_value(part) for part in value)})"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        value = value.value
    text = repr(float(value)) if isinstance(value, float) else str(value)
    plain = text and text == text.strip() and not set(text) & (SIGNS | {"\\"})
    if plain and not (isinstance(value, str) and text in ("none", "None")):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

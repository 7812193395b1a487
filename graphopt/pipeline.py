"""Text <-> passes: ``"fold-constants{max-bytes=1M},prune-channels{ratio=0.3}"``.

Grammar::

    pipeline = item ("," item)*
    item     = preset | pass | "[" pipeline "]"       rule passes driven together
    pass     = name [ "{" option ("," option)* "}" ]
    option   = name "=" value
    value    = word | "quoted" | "(" value ("," value)* ")"

Option names are the fields of the pass, with ``-`` for ``_``. Integers take a suffix K, M or G
(powers of 1024); the word ``none`` is no value, in quotes it is text. Formatting a pipeline
writes the options that differ from their defaults, and parsing that text gives equal passes.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Iterable, Mapping, Sequence

from graphopt import registry
from graphopt.errors import PipelineError, nearest
from graphopt.passbase import Pass
from graphopt.rewrite import Fixpoint, RulePass

__all__ = ["PRESETS", "check_order", "format_pass", "format_pipeline", "parse", "without"]

SIMPLIFY = (
    "inline-functions,infer-shapes,"
    "[fold-constants,fold-shapes,inline-if,eliminate-identity,eliminate-noop,"
    "eliminate-neutral,eliminate-inverse-pairs,fuse-clips,fuse-reshapes,"
    "fuse-transposes,eliminate-common-subexpressions,eliminate-dead-code,"
    "deduplicate-initializers],infer-shapes"
)
DEFAULT = (
    "inline-functions,infer-shapes,"
    "[fold-constants,fold-shapes,inline-if,eliminate-identity,eliminate-noop,"
    "eliminate-neutral,eliminate-inverse-pairs,fuse-clips,fuse-reshapes,"
    "fuse-transposes,fuse-matmul-add,fuse-conv-batchnorm,fuse-conv-pad,fuse-activations,"
    "fuse-gelu,fuse-layer-normalization,fuse-rms-normalization,fuse-softmax,fuse-scale,"
    "eliminate-common-subexpressions,eliminate-dead-code,"
    "deduplicate-initializers],add-before-layer-norm,infer-shapes"
)
ONNXRUNTIME = (
    "upgrade-opset{to=23},default,"
    "[fuse-rotary-embedding,fuse-attention{emit=onnxruntime},fuse-reshapes,fuse-transposes,"
    "eliminate-noop,eliminate-common-subexpressions,eliminate-dead-code,"
    "deduplicate-initializers],infer-shapes"
)
PRESETS: dict[str, str] = {
    "simplify": SIMPLIFY,
    "default": DEFAULT,
    "onnxruntime": ONNXRUNTIME,
    "int8-dynamic": "default,quantize-dynamic",
    "int8-static": "upgrade-opset{to=13},default,quantize-static",
    "half": "default,quantize-dynamic{scope=half}",
    "auto": "upgrade-opset{to=13},default,quantize-auto",
    "prune": "default,prune-channels",
}
"""Name -> pipeline. A preset may be used anywhere in a pipeline."""

SEARCHES: dict[str, str] = {
    "int8-dynamic": "default,quantize-auto{schemes=dynamic}",
    "int8-static": "upgrade-opset{to=13},default,quantize-auto{schemes=static}",
    "half": "default,quantize-auto{schemes=dynamic}",
}
"""What these presets mean where there is a target: the operators that stay in float are not
given but found."""

_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SPECIAL = set('{}[]()=,"')


def parse(text: str, *, has_target: bool = False) -> list[Pass]:
    """Return the passes that ``text`` names.

    Args:
        text: The pipeline.
        has_target: Whether a quality is asked for: presets that quantize then search for the
            precisions that keep it (``SEARCHES``).

    Raises:
        PipelineError: The text is not a pipeline, or a pass or an option does not exist; the
            hint names the nearest valid one.
    """
    if not text.strip():
        raise PipelineError("empty", "the pipeline names no pass.", hint="Try 'default'.")
    presets = {**PRESETS, **SEARCHES} if has_target else PRESETS
    return list(_items(_Scanner(text), presets, closing="", depth=0))


def without(passes: Sequence[Pass], names: Iterable[str]) -> list[Pass]:
    """Return the passes without those that are called by one of ``names``, in brackets or not.

    Raises:
        PipelineError: A name is not in the pipeline, or nothing is left.
    """
    unwanted = set(names)
    present = {one.name for pass_ in passes for one in _flat(pass_)}
    for name in sorted(unwanted - present):
        raise PipelineError(
            "not-in-pipeline",
            f"there is no {name!r} in the pipeline to leave out.",
            hint=nearest(name, present),
        )
    left: list[Pass] = []
    for pass_ in passes:
        kept = [one for one in _flat(pass_) if one.name not in unwanted]
        if isinstance(pass_, Fixpoint) and kept:
            left.append(Fixpoint(tuple(one for one in kept if isinstance(one, RulePass))))
        else:
            left += kept
    if not left:
        raise PipelineError("empty", "no pass of the pipeline is left.")
    return left


def _flat(pass_: Pass) -> Sequence[Pass]:
    return pass_.passes if isinstance(pass_, Fixpoint) else [pass_]


def format_pipeline(passes: Iterable[Pass]) -> str:
    """Return the text that ``parse`` turns into equal passes."""
    return ",".join(format_pass(pass_) for pass_ in passes)


def format_pass(pass_: Pass) -> str:
    """Return the text of one pass: its name and the options that are not the default."""
    if isinstance(pass_, Fixpoint):
        return f"[{format_pipeline(pass_.passes)}]"
    options = []
    for field in dataclasses.fields(pass_):  # type: ignore[arg-type]  # every pass is one
        value = getattr(pass_, field.name)
        if value != _default_of(field):
            options.append(f"{field.name.replace('_', '-')}={_format_value(value)}")
    return f"{pass_.name}{{{','.join(options)}}}" if options else pass_.name


def check_order(passes: Sequence[Pass]) -> None:
    """Check the order constraints that passes declare (``Pass.after``).

    Raises:
        PipelineError: A pass stands before one that it must follow.
    """
    flat = [one for pass_ in passes for one in _flat(pass_)]
    for index, pass_ in enumerate(flat):
        before = {earlier.name for earlier in flat[:index]}
        for later in flat[index + 1 :]:
            if later.name in pass_.after and later.name not in before:
                raise PipelineError(
                    "order",
                    f"{pass_.name!r} stands before {later.name!r}.",
                    hint=f"Put {later.name!r} first.",
                )


def _items(
    scanner: _Scanner, presets: Mapping[str, str], closing: str, depth: int
) -> Iterable[Pass]:
    if depth > 8:
        raise scanner.error("brackets or presets are nested too deeply")
    while True:
        if scanner.take("["):
            inner = list(_items(scanner, presets, closing="]", depth=depth + 1))
            yield _fixpoint(inner, scanner)
        else:
            name = scanner.word("a pass")
            if name in presets:
                if scanner.peek() == "{":
                    raise scanner.error(f"the preset {name!r} takes no options")
                text = _Scanner(presets[name])
                yield from _items(text, presets, closing="", depth=depth + 1)
            else:
                yield _pass(name, scanner)
        if not scanner.take(","):
            break
    if closing and not scanner.take(closing):
        raise scanner.error(f"expected ',' or {closing!r}")
    if not closing and scanner.peek():
        raise scanner.error(f"expected ',' or the end, found {scanner.peek()!r}")


def _fixpoint(passes: list[Pass], scanner: _Scanner) -> Fixpoint:
    rule_passes: list[RulePass] = []
    for pass_ in passes:
        if isinstance(pass_, Fixpoint):
            rule_passes += pass_.passes
        elif isinstance(pass_, RulePass):
            rule_passes.append(pass_)
        else:
            raise scanner.error(f"{pass_.name!r} has no rules and cannot stand in brackets")
    return Fixpoint(tuple(rule_passes))


def _pass(name: str, scanner: _Scanner) -> Pass:
    if name not in registry.names():
        raise PipelineError(
            "unknown-pass",
            f"there is no pass or preset {name!r}.",
            hint=nearest(name, [*registry.names(), *PRESETS]),
        )
    cls = registry.find(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    options: dict[str, object] = {}
    if scanner.take("{"):
        while not scanner.take("}"):
            option = scanner.word("an option").replace("-", "_")
            if option not in fields:
                raise PipelineError(
                    "unknown-option",
                    f"{name!r} has no option {option.replace('_', '-')!r}.",
                    hint=nearest(option, fields).replace("_", "-"),
                )
            if option in options:
                raise scanner.error(f"{option.replace('_', '-')!r} is given twice")
            if not scanner.take("="):
                raise scanner.error(f"expected '=' after {option!r}")
            options[option] = _convert(scanner.value(), hints[option], f"{name}{{{option}}}")
            if scanner.peek() != "}" and not scanner.take(","):
                raise scanner.error("expected ',' or '}'")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise PipelineError("bad-option", f"{name}: {error}.") from error


class _Quoted(str):
    """A value that was written in quotes: text, never the word ``none``."""

    __slots__ = ()


class _Scanner:
    """Reads the words and signs of a pipeline's text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._text[self._at : self._at + 1]

    def take(self, sign: str) -> bool:
        if self.peek() == sign:
            self._at += 1
            return True
        return False

    def word(self, what: str) -> str:
        start = self._at if self.peek() else len(self._text)
        while self._at < len(self._text) and self._text[self._at] not in _SPECIAL:
            self._at += 1
        word = self._text[start : self._at].strip()
        if not word:
            found = repr(self.peek()) if self.peek() else "the end"
            raise self.error(f"expected {what}, found {found}")
        return word

    def value(self) -> str | list[str]:
        if self.take("("):
            values: list[str] = []
            while not self.take(")"):
                values.append(self._atom())
                if self.peek() != ")" and not self.take(","):
                    raise self.error("expected ',' or ')'")
            return values
        return self._atom()

    def _atom(self) -> str:
        if not self.take('"'):
            return self.word("a value")
        out: list[str] = []
        while self._at < len(self._text):
            sign = self._text[self._at]
            self._at += 1
            if sign == '"':
                return _Quoted("".join(out))
            if sign == "\\" and self._at < len(self._text):
                sign = self._text[self._at]
                self._at += 1
            out.append(sign)
        raise self.error("the quote is not closed")

    def error(self, what: str) -> PipelineError:
        return PipelineError(
            "syntax", f"{what}, at character {self._at + 1} of {self._text!r}."
        )


def _convert(text: str | list[str], kind: object, where: str) -> object:
    """Return ``text`` as a value of the annotated type ``kind``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        is_none = text in ("none", "None") and not isinstance(text, _Quoted)
        if is_none and type(None) in args:
            return None
        (kind,) = [arg for arg in args if arg is not type(None)]
        return _convert(text, kind, where)
    if origin is tuple:
        return tuple(
            _convert(part, args[0], where)
            for part in ([text] if isinstance(text, str) else text)
        )
    if isinstance(text, list):
        raise PipelineError("bad-option", f"{where} takes one value, not a list.")
    try:
        return _convert_word(text, kind, origin, args)
    except ValueError as error:
        raise PipelineError("bad-option", f"{where}: {error}.") from error


def _convert_word(text: str, kind: object, origin: object, args: tuple[object, ...]) -> object:
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


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"({','.join(_format_value(part) for part in value)})"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        value = value.value
    text = repr(float(value)) if isinstance(value, float) else str(value)
    plain = text and text == text.strip() and not set(text) & (_SPECIAL | {"\\"})
    if plain and not (isinstance(value, str) and text in ("none", "None")):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _default_of(field: dataclasses.Field[typing.Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default

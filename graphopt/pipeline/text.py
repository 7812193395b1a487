"""A pipeline's text <-> its passes; the grammar is that of ``graphopt.pipeline``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping

from graphopt import registry
from graphopt.errors import PipelineError, nearest
from graphopt.passbase import Pass
from graphopt.pipeline.presets import PRESETS, SEARCHES
from graphopt.pipeline.scanner import Scanner
from graphopt.pipeline.values import format_value, parse_value
from graphopt.rewrite import Fixpoint, RulePass

__all__ = ["format_pass", "format_pipeline", "parse"]


def parse(text: str | None, *, has_target: bool = False) -> list[Pass]:
    """Return the passes that ``text`` names.

    Args:
        text: The pipeline; ``None``: ``auto`` with a target, ``default`` without.
        has_target: Whether a quality is asked for: presets that quantize then search for the
            precisions that keep it (``SEARCHES``).

    Raises:
        PipelineError: The text is not a pipeline, or a pass or an option does not exist; the
            hint names the nearest valid one.
    """
    if text is None:
        text = "auto" if has_target else "default"
    if not text.strip():
        raise PipelineError("empty", "the pipeline names no pass.", hint="Try 'default'.")
    presets = {**PRESETS, **SEARCHES} if has_target else PRESETS
    return list(_items(Scanner(text), presets, closing="", depth=0))


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
            options.append(f"{field.name.replace('_', '-')}={format_value(value)}")
    return f"{pass_.name}{{{','.join(options)}}}" if options else pass_.name


def _items(
    scanner: Scanner, presets: Mapping[str, str], closing: str, depth: int
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
                text = Scanner(presets[name])
                yield from _items(text, presets, closing="", depth=depth + 1)
            else:
                yield _pass(name, scanner)
        if not scanner.take(","):
            break
    if closing and not scanner.take(closing):
        raise scanner.error(f"expected ',' or {closing!r}")
    if not closing and scanner.peek():
        raise scanner.error(f"expected ',' or the end, found {scanner.peek()!r}")


def _fixpoint(passes: list[Pass], scanner: Scanner) -> Fixpoint:
    rule_passes: list[RulePass] = []
    for pass_ in passes:
        if isinstance(pass_, Fixpoint):
            rule_passes += pass_.passes
        elif isinstance(pass_, RulePass):
            rule_passes.append(pass_)
        else:
            raise scanner.error(f"{pass_.name!r} has no rules and cannot stand in brackets")
    return Fixpoint(tuple(rule_passes))


def _pass(name: str, scanner: Scanner) -> Pass:
    if name not in registry.names():
        raise PipelineError(
            "unknown-pass",
            f"there is no pass or preset {name!r}.",
            hint=nearest(name, [*registry.names(), *PRESETS]),
        )
    cls = registry.find(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # as above
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
            options[option] = parse_value(
                scanner.value(), hints[option], f"{name}{{{option}}}"
            )
            if scanner.peek() != "}" and not scanner.take(","):
                raise scanner.error("expected ',' or '}'")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise PipelineError("bad-option", f"{name}: {error}.") from error


def _default_of(field: dataclasses.Field[typing.Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default

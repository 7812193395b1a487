"""What ``graphopt passes`` prints: every pass, from its own docstring."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing

from graphopt import pipeline, registry
from graphopt.passbase import Pass

__all__ = ["describe_pass", "list_passes"]


def list_passes() -> str:
    """Return one line for each pass and preset."""
    lines = ["Passes (graphopt passes NAME tells all about one):", ""]
    width = max(map(len, registry.names()))
    for name in registry.names():
        cls = registry.find(name)
        lines.append(f"  {name:{width}}  {cls.promise.value:6}  {_first_line(cls)}")
    lines += ["", "Presets:", ""]
    width = max(map(len, pipeline.PRESETS))
    for name, text in pipeline.PRESETS.items():
        first, *rest = _wrapped(text, 76 - width)  # 80 columns
        lines.append(f"  {name:{width}}  {first}")
        lines += [" " * (width + 4) + line for line in rest]
    return "\n".join(lines)


def describe_pass(name: str) -> str:
    """Return the contract and the options of the pass ``name``.

    Raises:
        PipelineError: There is no such pass.
    """
    cls = registry.find(name)
    lines = [name, "=" * len(name), "", inspect.getdoc(sys.modules[cls.__module__]) or ""]
    lines += ["", f"Promise: {cls.promise.value}"]
    if cls.needs_samples:
        lines.append("Needs samples: --data")
    if cls.after:
        lines.append(f"Comes after: {', '.join(sorted(cls.after))}")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # the registry has checked it
    if fields:
        lines += ["", "Options:", ""]
    hints = typing.get_type_hints(cls)
    for field in fields:
        default = "required" if field.default is dataclasses.MISSING else repr(field.default)
        kind = hints[field.name]
        shown = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        lines.append(f"  {field.name.replace('_', '-')}: {shown} = {default}")
    lines += ["", *_attribute_docs(cls)]
    return "\n".join(lines).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """Return ``text`` in lines that end after a comma; only a single pass may be wider."""
    lines = [""]
    for part in text.replace(",", ",\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _first_line(cls: type[Pass]) -> str:
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    return module.partition("\n")[0].replace("``", "")


def _attribute_docs(cls: type[Pass]) -> list[str]:
    doc = inspect.getdoc(cls) or ""
    _, found, rest = doc.partition("Attributes:\n")
    return [f"  {line.strip()}" for line in rest.splitlines() if line.strip()] if found else []

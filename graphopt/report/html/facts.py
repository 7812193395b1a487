"""How the result was made: command, options, versions, seeds."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from .content import Fact

if TYPE_CHECKING:
    from graphopt.api import Result

__all__ = ["facts_of"]

_PACKAGES = ("onnxruntime", "onnx", "onnx-ir", "numpy")


def facts_of(result: Result, command: str) -> list[Fact]:
    """Return one line a fact; ``command`` is what was typed."""
    origin, options = result.origin, result.origin.options
    saved = result.saved
    facts = [
        Fact("command", command, code=True),
        Fact("pipeline", origin.passes, code=True),
        Fact("model", origin.source or "given in memory"),
        Fact("result", str(saved.path) if saved is not None else "not written"),
        Fact("samples", origin.samples.describe()),
        Fact("seed", str(options.seed)),
        Fact("operators", options.emit.value),
        Fact("made by", result.before.producer),
        *(Fact(name, metadata.version(name)) for name in ("graphopt", *_PACKAGES)),
        Fact("Python", f"{platform.python_version()}, {platform.machine()}"),
    ]
    changed = [
        f"{name}={value}"
        for name, value in (
            ("target", options.quality),
            ("metric", options.metric if options.quality is not None else None),
            ("tolerance", options.tolerance),
            ("rewrite-limit", options.limit),
            ("safe", options.safe or None),
            ("allow-slower", options.allow_slower or None),
        )
        if value is not None
    ]
    facts.insert(6, Fact("options", ", ".join(changed) or "the defaults"))
    return [fact for fact in facts if fact.text]

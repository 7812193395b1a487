"""Looks through a model for all that is wrong with it, and does not stop at the first error.

``structure`` reads the file as it is; where that is sound, ``types`` asks onnx whether types
and shapes fit together; where they do, ``kernels`` asks onnxruntime whether it can run the
nodes. ``smells`` are warnings: what is allowed, and rarely meant.
"""

from __future__ import annotations

import pathlib

from graphopt import model_io
from graphopt.debug.lint.findings import Finding
from graphopt.debug.lint.kernels import kernels
from graphopt.debug.lint.smells import smells
from graphopt.debug.lint.structure import structure
from graphopt.debug.lint.types import types
from graphopt.errors import ModelError
from graphopt.runtime import Runtime

__all__ = ["Finding", "lint"]


def lint(path: pathlib.Path, runtime: Runtime | None) -> list[Finding]:
    """Return everything that is wrong with the model in a file, errors first.

    Args:
        path: The file.
        runtime: Where it is loaded; ``None``: onnxruntime is not asked.

    Raises:
        ModelError: The file cannot be read as a model at all.
    """
    found = structure(path)
    try:
        model = model_io.load(path)
    except ModelError as error:
        # What only the whole model shows, such as a cycle.
        if error.code not in {one.code for one in found}:
            found.append(Finding.of(error))
        return found
    if not any(one.is_error for one in found):
        found += types(model)
    if not any(one.is_error for one in found) and runtime is not None:
        found += kernels(path, model, runtime)
    found += smells(model)
    return sorted(found, key=lambda one: not one.is_error)

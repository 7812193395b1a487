"""ONNX graph-level optimizer: rewrites a model, proves the result, measures it.

Example:
    >>> import graphopt
    >>> result = graphopt.optimize("model.onnx", "default")  # doctest: +SKIP
    >>> result.save("smaller.onnx")  # doctest: +SKIP

The names below are imported when they are first used, so that ``graphopt --help`` and the
child process that runs onnxruntime start without loading onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.api import Result, optimize, validate
    from graphopt.errors import GraphoptError
    from graphopt.manager import PassManager
    from graphopt.model_io import load, save
    from graphopt.passbase import Context, Pass, PassResult, Promise, Target
    from graphopt.samples import Samples
    from graphopt.validation import Comparison

__all__ = [
    "Comparison",
    "Context",
    "GraphoptError",
    "Pass",
    "PassManager",
    "PassResult",
    "Promise",
    "Result",
    "Samples",
    "Target",
    "load",
    "optimize",
    "save",
    "validate",
]

__version__ = "0.1.0"

_HOME = {
    "Comparison": "validation",
    "Context": "passbase",
    "GraphoptError": "errors",
    "Pass": "passbase",
    "PassManager": "manager",
    "PassResult": "passbase",
    "Promise": "passbase",
    "Result": "api",
    "Samples": "samples",
    "Target": "passbase",
    "load": "model_io",
    "optimize": "api",
    "save": "model_io",
    "validate": "api",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found

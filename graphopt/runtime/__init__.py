"""The way to onnxruntime: everything that runs a model does it in a child process.

A native crash, a hang or a lack of memory in there is an ``ExecutionError`` here. The names
are imported when they are first used, so that the child, which is started as
``python -m graphopt.runtime.worker``, imports numpy and onnxruntime and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.runtime.latency import Latency
    from graphopt.runtime.runtime import Runtime
    from graphopt.runtime.session import Session

__all__ = ["Latency", "Runtime", "Session"]

_HOMES = {"Latency": "latency", "Runtime": "runtime", "Session": "session"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

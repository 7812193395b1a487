"""Finds passes by name through the entry-point group ``graphopt.passes``.

The built-in passes are declared in ``pyproject.toml`` exactly as a plug-in declares its own.
Listing the names imports none of them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect

from graphopt.errors import PassError, PipelineError, nearest
from graphopt.passbase import Pass

__all__ = ["GROUP", "find", "names", "refresh"]

GROUP = "graphopt.passes"


@functools.cache
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise PipelineError(
                "name-clash",
                f"two packages declare a pass {entry.name!r}: "
                f"{other.value} and {entry.value}.",
                hint="Uninstall one of them.",
            )
    return found


def refresh() -> None:
    """Look again at what is installed; the entry points are read once in a process."""
    _entry_points.cache_clear()


def names() -> list[str]:
    """Return the names of all installed passes, sorted."""
    return sorted(_entry_points())


def find(name: str) -> type[Pass]:
    """Return the class of the pass ``name``.

    Raises:
        PipelineError: No such pass is installed.
        PassError: The entry point does not lead to a pass.
    """
    entry = _entry_points().get(name)
    if entry is None:
        raise PipelineError(
            "unknown-pass", f"there is no pass {name!r}.", hint=nearest(name, _entry_points())
        )
    try:
        found: object = entry.load()
    except Exception as error:  # whatever the module of a plug-in raises
        raise PassError(
            "import",
            f"the pass {name!r} cannot be imported from {entry.value}: "
            f"{type(error).__name__}: {error}.",
        ) from error
    if not (inspect.isclass(found) and issubclass(found, Pass)):
        raise PassError("not-a-pass", f"{entry.value} is not a class derived from Pass.")
    if found.name != name:
        raise PassError("name", f"{entry.value} calls itself {found.name!r}, not {name!r}.")
    return found

"""Remembers the evaluations of a search in a file, so that the next run goes on from there."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from graphopt.errors import OutputError, PipelineError

from .auto_choice import Choice, Evaluation, Speed
from .auto_search import Measure

__all__ = ["Journal"]

logger = logging.getLogger(__name__)

VERSION = 5


class Journal:
    """A ``Measure`` that asks another only for what is not in the file yet.

    Args:
        measure: Builds and measures.
        path: The file; ``None``: nothing is remembered.
        key: Fingerprint of what the evaluations are true of.
        is_strict: Refuse a file that is of no use, which is set aside otherwise; refuse to go
            on where it cannot be written.

    Raises:
        PipelineError: The file is no journal, or one of another model or other settings.
        OutputError: The file cannot be written.
    """

    def __init__(
        self, measure: Measure, path: pathlib.Path | None, key: str, *, is_strict: bool
    ) -> None:
        self._measure = measure
        self._path = path
        self._key = key
        self._is_strict = is_strict
        self._is_written = path is not None
        self._known: dict[Choice, Evaluation] = {}
        self._harms: dict[tuple[str, str], float] = {}
        if path is not None:
            try:
                self._read(path)
            except PipelineError as error:
                if is_strict:
                    raise
                self._set_aside(path, error.message)
        self._resumed = len(self._known)

    def notes(self) -> list[str]:
        """Return what the reader has to know of the file."""
        if not self._resumed:
            return []
        return [f"{self._resumed} evaluations were known from {self._path}"]

    def quality(self, choice: Choice) -> Evaluation:
        """Return quality and size of a choice."""
        if choice not in self._known:
            self._known[choice] = self._measure.quality(choice)
            self._write()
        # Speeds are measured next to each other: those of another day would not compare.
        return self._known[choice]

    def harm(self, scheme: str, name: str) -> float:
        """Return what one operator alone does in integer, for the work that it saves."""
        key = (scheme, name)
        if key not in self._harms:
            self._harms[key] = self._measure.harm(scheme, name)
            self._write()
        return self._harms[key]

    def speeds(self, choices: Sequence[Choice]) -> list[Speed | None]:
        """Return how long choices take, all measured in turn with the original."""
        return self._measure.speeds(choices)

    def _set_aside(self, path: pathlib.Path, message: str) -> None:
        """Keep a file that is of no use here under another name: it is of use to someone."""
        names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        other = next(name for name in names if not os.path.lexists(name))
        try:
            path.rename(other)
        except OSError as error:
            reason = error.strerror or error
            logger.warning("%s It stays (%s); the search is not remembered.", message, reason)
            self._is_written = False
        else:
            logger.warning("%s It is kept as %s; the search starts anew.", message, other.name)

    def _read(self, path: pathlib.Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise PipelineError("journal", f"{path} is no journal: {error}.") from error
        try:
            data: dict[str, Any] = json.loads(text)
            key = data["key"] if data["version"] == VERSION else None
            found = [
                Evaluation(
                    Choice(str(entry["scheme"]), tuple(map(str, entry["kept"]))),
                    float(entry["quality"]),
                    float(entry["proven"]),
                    int(entry["size_bytes"]),
                    is_partial=bool(entry["is_partial"]),
                )
                for entry in data["evaluations"]
            ]
            harms = {(str(s), str(name)): float(harm) for s, name, harm in data["harms"]}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise PipelineError("journal", f"{path} is no journal: {error}.") from error
        if key != self._key:
            raise PipelineError(
                "journal",
                f"{path} is the journal of another model, other samples or other options.",
                hint="Give another file, or remove this one to start again.",
            )
        self._known = {evaluation.choice: evaluation for evaluation in found}
        self._harms = harms

    def _write(self) -> None:
        if self._path is None or not self._is_written:
            return
        data = {
            "version": VERSION,
            "key": self._key,
            "harms": [[*key, harm] for key, harm in self._harms.items()],
            "evaluations": [
                {
                    "scheme": found.choice.scheme,
                    "kept": list(found.choice.kept),
                    "quality": found.quality,
                    "proven": found.proven,
                    "size_bytes": found.size_bytes,
                    "is_partial": found.is_partial,
                }
                for found in self._known.values()
            ],
        }
        try:
            _replace(self._path, json.dumps(data))
        except OSError as error:
            message = f"{self._path} cannot be written: {error.strerror or error}."
            if self._is_strict:
                raise OutputError("unwritable", message) from error
            logger.warning("%s The search is not remembered.", message)
            self._is_written = False


def _replace(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all: the run may be killed at any moment."""
    handle, name = tempfile.mkstemp(".tmp", f".{path.name}-", path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise

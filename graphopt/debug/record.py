"""What checks said, on disk: through a crash of the machine a search goes on where it was."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from graphopt.debug.checks import Verdict

__all__ = ["Record"]


class Record:
    """The verdicts of one search, by name.

    Each is written down as failed before the check is made, and corrected after it: a check
    that took the whole process, or the machine, with it has failed when the search goes on.

    Args:
        path: The file; ``None``: nothing is written.
        key: What the verdicts depend on. A file with another key, or of a search that came to
            its end, is started anew: since then a pass may have been mended.

    Attributes:
        facts: Further numbers that were found out; written with the next verdict.
        checks: Checks that were made, not counting those of an earlier start.
    """

    def __init__(self, path: pathlib.Path | None, key: Mapping[str, Any]) -> None:
        self._path = path
        self._key = json.loads(json.dumps(key))
        self._verdicts: dict[str, Verdict] = {}
        self._finished = False
        self.facts: dict[str, int] = {}
        self.checks = 0
        if path is not None and path.exists():
            self._read(path)

    def check(self, name: str, run: Callable[[], Verdict]) -> Verdict:
        """Return the verdict ``name``: the one that is known, or else what ``run`` says."""
        known = self._verdicts.get(name)
        if known is not None:
            return known
        self.checks += 1
        self._write(name, Verdict("interrupted", "the check did not come back"))
        try:
            verdict = run()
        except BaseException:
            del self._verdicts[name]  # nothing was found out: a usage error, or an interrupt
            self._save()
            raise
        self._write(name, verdict)
        return verdict

    def finish(self) -> None:
        """Say that the search has come to its end."""
        self._finished = True
        self._save()

    def _write(self, name: str, verdict: Verdict) -> None:
        self._verdicts[name] = verdict
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        checks = [
            {"name": name, "kind": verdict.kind, "detail": verdict.detail}
            for name, verdict in self._verdicts.items()
        ]
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(
                {
                    "finished": self._finished,
                    "key": self._key,
                    "facts": self.facts,
                    "checks": checks,
                },
                file,
                indent=1,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)

    def _read(self, path: pathlib.Path) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["key"] == self._key and not data["finished"]:
                self._verdicts = {
                    check["name"]: Verdict(check["kind"], check["detail"])
                    for check in data["checks"]
                }
                self.facts = dict(data["facts"])
        except (ValueError, KeyError, TypeError):
            return  # not a record, or half of one

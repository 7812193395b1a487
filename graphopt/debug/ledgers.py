"""Reads a ledger from the files that graphopt writes one to."""

from __future__ import annotations

import json
import pathlib

from graphopt.errors import GraphoptError
from graphopt.ledger import SCHEMA, Ledger

__all__ = ["LedgerError", "read_ledger"]


class LedgerError(GraphoptError):
    """A file that should hold a ledger does not."""

    family = "ledger"


def read_ledger(path: pathlib.Path) -> Ledger:
    """Return the ledger in ``path``: a ledger.json, or what ``optimize --json`` printed.

    Raises:
        LedgerError: There is none in it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LedgerError("missing-file", f"{path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise LedgerError("unreadable", f"{path} cannot be read as JSON: {error}.") from error
    try:
        if data["schema"].startswith("graphopt/optimize/"):
            data = {
                "schema": SCHEMA,
                "limit": None,
                "applications": data["ledger"],
                "skips": data["skipped"],
            }
        return Ledger.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(
            "no-ledger",
            f"{path} holds no ledger: {error}.",
            hint="Give the output of graphopt optimize --json, or a trace's ledger.json.",
        ) from error

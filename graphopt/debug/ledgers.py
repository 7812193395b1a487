"""Reads a ledger from the files that graphopt writes one to."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from graphopt import model_io
from graphopt.errors import GraphoptError
from graphopt.instruments.provenance import Run, read_provenance, read_runs
from graphopt.ledger import SCHEMA, Ledger

__all__ = ["LedgerError", "LedgerFile", "open_ledger", "read_ledger"]


class LedgerError(GraphoptError):
    """A file that should hold a ledger does not."""

    family = "ledger"


@dataclasses.dataclass(frozen=True)
class LedgerFile:
    """What a file says about the runs behind a model.

    Attributes:
        ledger: The rewrites.
        runs: The runs that made them; empty for a JSON file.
        names: Names of nodes, tensors and weights of the model; empty for a JSON file.
    """

    ledger: Ledger
    runs: tuple[Run, ...] = ()
    names: frozenset[str] = frozenset()


def read_ledger(path: pathlib.Path) -> Ledger:
    """Return the ledger in ``path``; see ``open_ledger``."""
    return open_ledger(path).ledger


def open_ledger(path: pathlib.Path) -> LedgerFile:
    """Return what is in a ledger.json, in what ``optimize --json`` printed, or in a model.

    Raises:
        LedgerError: There is no ledger in it.
        ModelError: It is a model that cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except FileNotFoundError as error:
        raise LedgerError("missing-file", f"{path} does not exist.") from error
    except OSError as error:
        raise LedgerError("unreadable", f"{path}: {error.strerror}.") from error
    if path.suffix == ".json" or start[:1] in (b"{", b"["):
        return LedgerFile(_from_json(path))
    return _from_model(path)


def _from_model(path: pathlib.Path) -> LedgerFile:
    model = model_io.load(path)
    ledger, runs = read_provenance(model), read_runs(model)
    if ledger is None:
        raise LedgerError(
            "no-ledger",
            f"{path} does not say how it was made.",
            hint="Make it with graphopt optimize --provenance, or give the output of --json.",
        )
    names = {
        name
        for graph in model.graphs()
        for name in (
            *graph.initializers,
            *(node.name for node in graph),
            *(value.name for node in graph for value in node.outputs),
        )
        if name
    }
    return LedgerFile(ledger, tuple(runs), frozenset(names))


def _from_json(path: pathlib.Path) -> Ledger:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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

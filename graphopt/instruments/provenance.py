"""The ledger inside the model that it is about: which rewrites made each node and weight.

In the file, where any viewer shows them:

- a node or initializer that rewrites made or changed has ``graphopt.rewrites``, e.g.
  ``#8 fuse-conv-batchnorm/conv-batchnorm; #31 fold-constants/fold``;
- the model has ``graphopt.runs``: version, pipeline, options and last number of each run, as
  JSON; and ``graphopt.ledger``: every rewrite and reason, as compressed JSON.

Numbers go on where an earlier run that is recorded in the file stopped. A run without a
rewrite adds nothing to an earlier record, so that a second run writes the same file.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import onnx_ir as ir

import graphopt
from graphopt.ledger import Application, Ledger

__all__ = ["Run", "read_provenance", "read_runs", "write_provenance"]

REWRITES, RUNS, LEDGER = "graphopt.rewrites", "graphopt.runs", "graphopt.ledger"
SCHEMA = "graphopt/provenance/1"
MOST_BYTES = 256 << 20
"""More than this a ledger must not unpack to: the file may come from anywhere. A rewrite takes
some 500 bytes."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run that made a model what it is.

    Attributes:
        graphopt: Version of graphopt.
        passes: The pipeline that was run, as text.
        last: Number of its last rewrite; its first follows the last of the run before.
        options: Options that are not the default.
    """

    graphopt: str
    passes: str
    last: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def write_provenance(
    model: ir.Model, ledger: Ledger, passes: str, options: Mapping[str, Any]
) -> None:
    """Write the record of a run into ``model``, which is edited in place.

    Args:
        model: The result of the run.
        ledger: Its ledger.
        passes: The pipeline, as text.
        options: What else the result depends on.
    """
    runs, merged = read_runs(model), read_provenance(model)
    if merged is None or not runs:
        runs, merged = [], Ledger()
    elif not ledger.applications:
        return
    start = len(merged)
    for entry in ledger.applications:
        merged.applications.append(dataclasses.replace(entry, number=start + entry.number))
    for skip in ledger.skips:
        merged.skip(**dataclasses.asdict(skip))
    runs.append(Run(graphopt.__version__, passes, len(merged), dict(options)))
    model.metadata_props[RUNS] = json.dumps(
        {"schema": SCHEMA, "runs": [dataclasses.asdict(run) for run in runs]}, sort_keys=True
    )
    model.metadata_props[LEDGER] = _packed(merged)
    _mark(model, merged)


def read_runs(model: ir.Model) -> list[Run]:
    """Return the runs that ``model`` says it went through; empty without a record."""
    try:
        data = json.loads(model.metadata_props[RUNS])
        if data["schema"] != SCHEMA:
            return []
        return [Run(**run) for run in data["runs"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []


def read_provenance(model: ir.Model) -> Ledger | None:
    """Return the ledger that ``model`` holds; ``None``: there is none, or a broken one."""
    text = model.metadata_props.get(LEDGER)
    if text is None:
        return None
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
        if not inflate.eof:
            return None
        data = json.loads(raw)
        empty = dataclasses.asdict(Application(0, "", "", ""))
        data["applications"] = [{**empty, **entry} for entry in data["applications"]]
        return Ledger.from_json(data)
    except (binascii.Error, zlib.error, KeyError, TypeError, ValueError, AttributeError,
            RecursionError):  # fmt: skip
        return None


def _packed(ledger: Ledger) -> str:
    data = ledger.to_json()
    data["limit"] = None  # that of one run; it is among its options
    data["applications"] = [
        {key: value for key, value in entry.items() if value} for entry in data["applications"]
    ]
    text = json.dumps(data, separators=(",", ":"), sort_keys=True)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _mark(model: ir.Model, ledger: Ledger) -> None:
    """Write at every node and initializer which rewrites made it."""
    made: dict[str, dict[int, str]] = {}
    for entry in ledger.applied():
        label = f"#{entry.number} {entry.pass_name}/{entry.rule}"
        for name in _made_by(entry):
            made.setdefault(name, {})[entry.number] = label
    for graph in model.graphs():
        for node in graph:
            names = [node.name, *(value.name for value in node.outputs)]
            _set(node.metadata_props, made, names)
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                _set(value.const_value.metadata_props, made, [name])


def _made_by(entry: Application) -> Iterator[str]:
    for node in (*entry.nodes_added, *entry.nodes_changed):
        yield node.name
        yield from node.outputs
    for weight in entry.weights_added:
        yield weight.name


def _set(
    properties: MutableMapping[str, str],
    made: Mapping[str, dict[int, str]],
    names: list[str | None],
) -> None:
    found: dict[int, str] = {}
    for name in names:
        found |= made.get(name or "", {}) if name else {}
    text = "; ".join(found[number] for number in sorted(found))
    if text:
        properties[REWRITES] = text
    else:
        properties.pop(REWRITES, None)

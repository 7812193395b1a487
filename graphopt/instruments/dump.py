"""Writes the model after every pass that changed it, or after every rewrite."""

from __future__ import annotations

import os
import pathlib
import re

import onnx_ir as ir

from graphopt import model_io
from graphopt.diff import Snapshot, diff
from graphopt.errors import OutputError
from graphopt.ledger import Application
from graphopt.manager import Step
from graphopt.model_io.staging import write_file
from graphopt.passbase import Pass

__all__ = ["DumpChanged", "DumpRewrites"]


class DumpChanged:
    """Instrument: numbered ``.onnx`` files that any viewer opens, and a text diff for each.

    ``00_original.onnx``, then ``03_fuse-conv-batchnorm.onnx`` with
    ``03_fuse-conv-batchnorm.diff`` where the third pass changed something. A run that starts
    again (a pass did not pay and is left out) starts the numbers again and its files replace
    those of the run before.

    Args:
        folder: Where the files go; made if it does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = pathlib.Path(folder)
        self.written: list[pathlib.Path] = []
        self._before: Snapshot | None = None

    def __call__(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        """Write the model if ``previous`` changed it, or before the first pass."""
        del next_
        if previous is None:
            self._start(model)
            return
        if not previous.result.modified:
            return
        assert self._before is not None, "an instrument is called before the first pass"
        after = Snapshot.of(model)
        stem = f"{previous.index + 1:02}_{_file_name(previous.label)}"
        self._write(model, stem)
        text = f"# {previous.label}: {previous.result.summary}\n{diff(self._before, after)}"
        path = self.folder / f"{stem}.diff"
        write_file(path, text.encode())
        self.written.append(path)
        self._before = after

    def _start(self, model: ir.Model) -> None:
        _make(self.folder)
        for path in self.written:
            path.unlink(missing_ok=True)
        self.written = []
        self._write(model, "00_original")
        self._before = Snapshot.of(model)

    def _write(self, model: ir.Model, stem: str) -> None:
        saved = model_io.save(model, self.folder / f"{stem}.onnx")
        self.written.append(saved.path)
        if saved.external_path is not None:
            self.written.append(saved.external_path)


class DumpRewrites:
    """Observer (``graphopt.edit.Observer``): the model and its diff after every rewrite.

    ``0007_fuse-conv-batchnorm_conv-batchnorm.onnx`` and ``.diff`` for rewrite 7.

    Args:
        folder: Where the files go; made if it does not exist.
        model: The model before the first rewrite.
    """

    def __init__(self, folder: str | os.PathLike[str], model: ir.Model) -> None:
        self.folder = pathlib.Path(folder)
        _make(self.folder)
        self._before = Snapshot.of(model)

    def __call__(self, model: ir.Model, entry: Application) -> None:
        """Write what ``entry`` made of the model."""
        stem = f"{entry.number:04}_{_file_name(f'{entry.pass_name}_{entry.rule}')}"
        after = Snapshot.of(model)
        text = f"# {entry.summary()}\n{diff(self._before, after)}"
        write_file(self.folder / f"{stem}.diff", text.encode())
        model_io.save(model, self.folder / f"{stem}.onnx")
        self._before = after


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "unwritable", f"{folder} cannot be made: {error.strerror}."
        ) from error


def _file_name(label: str) -> str:
    """Return ``label`` as a file name: a pipeline's text may hold anything."""
    return re.sub(r"[^\w.-]+", "_", label).strip("_")[:60]

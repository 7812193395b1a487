"""Guard: undoes every rewrite after which the model gives other answers than promised."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import ExecutionError, ValidationError
from graphopt.ledger import Application
from graphopt.metrics import DifferenceMeter
from graphopt.passbase import Pass, Promise
from graphopt.rewrite import Fixpoint
from graphopt.runtime import Runtime
from graphopt.samples import Samples
from graphopt.validation import Tolerance, judge

__all__ = ["Safe"]


class Safe:
    """Guard (``graphopt.edit.Guard``): runs the model after every single rewrite.

    What a rewrite is held to is the promise of its pass. ``exact``: the answers of the model
    before it, bit for bit. ``close``: the answers of the original, within the tolerance,
    however many rewrites came before. ``lossy``: the model runs and its answers are finite
    where they were, and reach ``target`` if there is one; they are what later rewrites are
    held to. Both sides run without onnxruntime's own optimizations, which change answers too.

    Args:
        original: The model before the first pass; run at once.
        passes: The pipeline, for the promises.
        samples: Where the feeds come from.
        runtime: Where the model is run.
        tolerance: For ``close``.
        metric: What ``target`` is measured in (see ``graphopt.validation.compare``).
        target: The least that ``metric`` must be after a lossy rewrite; ``None``: not judged.
        count: Feeds to run; the first ones.

    Raises:
        ValidationError: The original cannot be run.
    """

    def __init__(
        self,
        original: ir.Model | str | os.PathLike[str],
        passes: Iterable[Pass],
        samples: Samples,
        runtime: Runtime,
        tolerance: Tolerance | None = None,
        metric: str = "cosine",
        target: float | None = None,
        count: int = 3,
    ) -> None:
        self._promises = dict(_promises(passes))
        self._runtime = runtime
        self._tolerance = tolerance or Tolerance()
        self._metric = metric
        self._target = target
        self._feeds = list(itertools.islice(samples.feeds(), count))
        try:
            self._original = self._run(original)
        except ExecutionError as error:
            raise ValidationError("not-runnable", f"the original: {error.message}") from error
        self._baseline = self._latest = self._original

    def __call__(self, model: ir.Model, entry: Application) -> str:
        """Return why the rewrite ``entry`` must be undone, or ``""``."""
        promise = self._promises.get(entry.pass_name, Promise.CLOSE)
        try:
            answers = self._run(model)
        except ExecutionError as error:
            return error.message
        reference = {
            Promise.EXACT: self._latest,
            Promise.CLOSE: self._baseline,
            Promise.LOSSY: self._original,
        }[promise]
        objection = self._compare(reference, answers, promise)
        if not objection:
            self._latest = answers
            if promise is Promise.LOSSY:
                self._baseline = answers
        return objection

    def _run(self, model: ir.Model | str | os.PathLike[str]) -> list[dict[str, np.ndarray]]:
        with self._runtime.session(model, optimize=False) as session:
            return [dict(_arrays(session.run(feed))) for feed in self._feeds]

    def _compare(
        self,
        reference: list[dict[str, np.ndarray]],
        answers: list[dict[str, np.ndarray]],
        promise: Promise,
    ) -> str:
        meters: dict[str, DifferenceMeter] = {}
        kinds: dict[str, str] = {}
        for index, (want, got) in enumerate(zip(reference, answers, strict=True)):
            if want.keys() != got.keys():
                return f"the outputs are {', '.join(got)} and were {', '.join(want)}"
            for name, array in want.items():
                other = got[name]
                if array.dtype != other.dtype or array.shape != other.shape:
                    return (
                        f"output {name!r} is {other.dtype}{list(other.shape)} and was "
                        f"{array.dtype}{list(array.shape)}"
                    )
                kinds[name] = str(array.dtype)
                meters.setdefault(name, DifferenceMeter()).add(index, array, other)
        judged = (
            judge(
                name,
                kinds[name],
                meter.result(),
                promise,
                self._tolerance,
                self._metric,
                self._target,
            )
            for name, meter in meters.items()
            if meter.result().elements
        )
        return "; ".join(f"output {one.name!r}: {one.reason}" for one in judged if one.reason)


def _arrays(outputs: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the outputs of a run; those of a sequence one by one."""
    for name, value in outputs.items():
        if isinstance(value, list):
            yield from _arrays({f"{name}[{i}]": item for i, item in enumerate(value)})
        else:
            yield name, np.asarray(value)


def _promises(passes: Iterable[Pass]) -> Mapping[str, Promise]:
    found: dict[str, Promise] = {}
    for pass_ in passes:
        for one in pass_.passes if isinstance(pass_, Fixpoint) else [pass_]:
            found[one.name] = one.promise
    return found

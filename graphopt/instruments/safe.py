"""Guard: undoes every rewrite after which the model gives other answers than promised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from graphopt.answers import answers, first_feeds, objection, tolerance_for
from graphopt.errors import ExecutionError, ValidationError
from graphopt.ledger import Application
from graphopt.passbase import Pass, Promise
from graphopt.rewrite import Fixpoint
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Samples
from graphopt.validation import Tolerance

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
        tolerance: For ``close``; ``None``: what the precision of the original asks for.
        metric: What ``target`` is measured in (see ``graphopt.validation.compare``).
        target: The least that ``metric`` must be after a lossy rewrite; ``None``: not judged.
        count: Feeds to run; the first ones.

    Raises:
        ValidationError: The original cannot be run.
    """

    def __init__(
        self,
        original: Model,
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
        self._tolerance = tolerance or tolerance_for(original)
        self._metric = metric
        self._target = target
        self._feeds = first_feeds(samples, count)
        try:
            self._original = answers(original, self._feeds, runtime)
        except ExecutionError as error:
            raise ValidationError("not-runnable", f"the original: {error.message}") from error
        self._baseline = self._latest = self._original

    def __call__(self, model: ir.Model, entry: Application) -> str:
        """Return why the rewrite ``entry`` must be undone, or ``""``."""
        promise = self._promises.get(entry.pass_name, Promise.CLOSE)
        try:
            found = answers(model, self._feeds, self._runtime)
        except ExecutionError as error:
            return error.message
        reference = {
            Promise.EXACT: self._latest,
            Promise.CLOSE: self._baseline,
            Promise.LOSSY: self._original,
        }[promise]
        wrong = objection(
            reference, found, promise, self._tolerance, self._metric, self._target
        )
        if not wrong:
            self._latest = found
            if promise is Promise.LOSSY:
                self._baseline = found
        return wrong


def _promises(passes: Iterable[Pass]) -> Mapping[str, Promise]:
    found: dict[str, Promise] = {}
    for pass_ in passes:
        for one in pass_.passes if isinstance(pass_, Fixpoint) else [pass_]:
            found[one.name] = one.promise
    return found

"""The attempts of one ``optimize``: all the passes, then without those that do not pay."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

import onnx
import onnx_ir as ir

from graphopt import model_io, pipeline
from graphopt.api.options import Options
from graphopt.api.result import Origin, Result, require_valid, speedup_of
from graphopt.api.sources import Source
from graphopt.errors import ValidationError
from graphopt.instruments.latency import LatencyAfter
from graphopt.instruments.provenance import write_provenance
from graphopt.instruments.safe import Safe
from graphopt.instruments.timing import Timing
from graphopt.ledger import Ledger
from graphopt.manager import Instrument, PassManager, Step
from graphopt.passbase import Context, Pass, Progress, Promise, Target
from graphopt.report.summary import ModelSummary, summarize
from graphopt.runtime import Latency, Runtime
from graphopt.samples import Samples
from graphopt.validation import Comparison, compare

__all__ = ["Work"]

logger = logging.getLogger(__name__)

SLOWER_THAN = 0.97
"""A result below this ratio of the original's speed counts as slower. Interleaved one-thread
medians of equal models repeat within 3 % (see ``graphopt.runtime.latency``)."""

EFFORT = (20, 60)
"""Repetitions of the first measurement, and of the one that must confirm a slower result."""


@dataclasses.dataclass(frozen=True)
class Work:
    """One call of ``optimize``."""

    source: Source
    original: pathlib.Path  # the source as a file
    model: ir.Model  # the original, never edited
    before: ModelSummary
    given: Samples | None
    samples: Samples  # the given ones, or synthetic
    fed: Mapping[str, tuple[int, ...]]  # input -> its shape in the first of them
    options: Options
    runtime: Runtime
    instruments: tuple[Instrument, ...]
    progress: Progress | None
    journal: pathlib.Path | None  # of a search, so that it can be taken up again
    executor: Executor | None

    def run(self, passes: list[Pass], stage: model_io.Stage, *, write: bool) -> Result:
        """Run the passes; leave out, one at a time from the end, those that do not pay."""
        left_out: dict[str, str] = {}
        asked_for = pipeline.format_pipeline(passes)
        timing, latencies = Timing(), self._latency_after()
        watch: list[Instrument] = [timing, *([latencies] if latencies else [])]
        while True:
            context, model, steps = self._transform(passes, watch)
            if self.options.provenance:
                self._write_provenance(model, context.ledger, passes)
            stage.write(model)
            comparison = self._compare(stage.path, pipeline.promise_of(passes))
            latency = self._latency(stage.path, EFFORT[0]) if comparison.passed else ()
            optional = self._without_last_optional(passes)
            slower = optional is not None and self._slower_speedup(stage.path, latency)
            if optional is None or not slower:
                break
            text, kept = optional
            left_out[text] = f"with it the model is slower than the original: {slower:.2f}x"
            logger.info("%s is left out: %s", text, left_out[text])
            passes = kept
        files = [stage.path] + ([stage.external_path] if stage.external_path else [])
        size_bytes = sum(file.stat().st_size for file in files)
        after = summarize(model, size_bytes, self.fed)
        result = Result(
            model,
            self.before,
            after,
            comparison,
            latency,
            context.ledger,
            tuple(steps),
            left_out,
            None,
            context.artifacts,
            tuple(timing.measurements),
            tuple(latencies.measurements) if latencies else (None,) * len(steps),
            Origin(
                "" if isinstance(self.source, onnx.ModelProto) else os.fspath(self.source),
                self.model,
                asked_for,
                self.samples,
                self.fed,
                self.options,
            ),
        )
        return self._written(result, stage) if write else result

    def _written(self, result: Result, stage: model_io.Stage) -> Result:
        """Let the result take its place, if it is valid."""
        try:
            require_valid(result.comparison)
        except ValidationError as error:
            error.result = result
            raise
        saved = stage.commit()
        if self.journal is not None and _has_searched(result.steps):
            self.journal.unlink(missing_ok=True)
        return dataclasses.replace(result, saved=saved)

    def _transform(
        self, passes: list[Pass], watch: Sequence[Instrument]
    ) -> tuple[Context, ir.Model, list[Step]]:
        context = Context(
            samples=self.given,
            ledger=Ledger(self.options.limit),
            target=self.options.emit,
            seed=self.options.seed,
            quality=self.options.quality,
            metric=self.options.metric,
            original=self.original,
            journal=self.journal,
            executor=self.executor,
        )
        context.share(self.runtime)
        if self.progress is not None:
            context.progress = self.progress
        if self.options.safe:
            context.guards.append(
                Safe(
                    self.original,
                    passes,
                    self.samples,
                    self.runtime,
                    self.options.tolerance,
                    *self.options.judged_by,
                )
            )
        model = model_io.load(self.source)
        model, steps = PassManager(passes, (*self.instruments, *watch)).run(model, context)
        return context, model, steps

    def _write_provenance(
        self, model: ir.Model, ledger: Ledger, passes: Sequence[Pass]
    ) -> None:
        options = {
            "seed": self.options.seed,
            "emit": self.options.emit.value,
            "limit": self.options.limit,
            "safe": self.options.safe,
        }
        defaults = {"seed": 0, "emit": Target.STANDARD.value, "limit": None, "safe": False}
        changed = {key: value for key, value in options.items() if value != defaults[key]}
        write_provenance(model, ledger, pipeline.format_pipeline(passes), changed)

    def _latency_after(self) -> LatencyAfter | None:
        if not (self.options.measure and self.options.measure_each):
            return None
        return LatencyAfter(self.original, next(iter(self.samples.feeds())), self.runtime)

    def _compare(self, candidate: pathlib.Path, promise: Promise) -> Comparison:
        return compare(
            self.original,
            candidate,
            self.samples,
            promise=promise,
            runtime=self.runtime,
            tolerance=self.options.tolerance,
            metric=self.options.metric,
            target=self.options.quality,
            progress=self.progress,
        )

    def _without_last_optional(self, passes: Sequence[Pass]) -> tuple[str, list[Pass]] | None:
        return None if self.options.allow_slower else pipeline.without_last_optional(passes)

    def _latency(self, candidate: pathlib.Path, repetitions: int) -> tuple[Latency, ...]:
        if not self.options.measure:
            return ()
        feeds = next(iter(self.samples.feeds()))
        models = [self.original, candidate]
        task = None if self.progress is None else self.progress.track("measuring latency")
        try:
            return tuple(self.runtime.latency(models, feeds, repetitions=repetitions))
        finally:
            if task is not None:
                task.close()

    def _slower_speedup(
        self, candidate: pathlib.Path, latency: Sequence[Latency]
    ) -> float | None:
        """Return the speed-up of a candidate that is slower; confirmed by a longer look."""
        speedup = speedup_of(latency)
        if speedup is not None and speedup < SLOWER_THAN:
            speedup = speedup_of(self._latency(candidate, EFFORT[1]))
        return speedup if speedup is not None and speedup < SLOWER_THAN else None


def _has_searched(steps: Sequence[Step]) -> bool:
    """Whether there was a search, and all there was came to its end."""
    ends = [step.result.details.get("is_complete") for step in steps]
    return True in ends and False not in ends

"""``optimize`` and ``validate``: the whole life of a model in one call each."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import model_io, pipeline
from graphopt.errors import OutputError, PipelineError, SamplesError, ValidationError
from graphopt.instruments.latency import LatencyAfter
from graphopt.instruments.provenance import write_provenance
from graphopt.instruments.safe import Safe
from graphopt.instruments.timing import Measurement, Timing
from graphopt.ledger import Ledger
from graphopt.manager import Instrument, PassManager, Step
from graphopt.passbase import Context, Pass, Progress, Promise, Target
from graphopt.report.summary import ModelSummary, files_of, size_on_disk, summarize
from graphopt.rewrite import Fixpoint
from graphopt.runtime import Latency, Runtime
from graphopt.samples import Samples
from graphopt.scores import Metric, UserMetric, metric_of
from graphopt.validation import Comparison, Tolerance, accepted, compare

__all__ = ["Options", "Origin", "Result", "SamplesLike", "Source", "optimize", "validate"]

logger = logging.getLogger(__name__)

Source: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto"
Feeds: TypeAlias = Sequence[Mapping[str, np.ndarray]]
SamplesLike: TypeAlias = "Samples | str | os.PathLike[str] | Feeds | Any"
"""Samples, a path to them, a list of feeds, or a ``CalibrationDataReader``."""

SLOWER_THAN = 0.97
"""A result below this ratio of the original's speed counts as slower. Interleaved one-thread
medians of equal models repeat within 3 % (see ``graphopt.runtime.latency``)."""

EFFORT = (20, 60)
"""Repetitions of the first measurement, and of the one that must confirm a slower result."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How ``optimize`` goes about its work; what it does is the pipeline's matter.

    Attributes:
        emit: Which operators may be emitted.
        quality: The target: what a lossy pipeline must keep by ``metric``: in (0, 1], or dB
            for ``sqnr``. It makes a preset that quantizes, or no pipeline at all, choose the
            precision of every operator. ``None``: the loss is reported and not judged.
        metric: ``"cosine"``, ``"top1"`` or ``"sqnr"``; ``"module:function"``, or a function
            (see ``graphopt.scores``).
        tolerance: What ``exact`` and ``close`` pipelines may differ by; ``None``: their own.
        allow_slower: Keep steps that make the model slower (smaller may be what is wanted).
        measure: Measure latency. Without it nothing is said about speed.
        external_data: Whether weights go to a file of their own.
        seed: Seed of everything random.
        limit: Make at most this many rewrites (for bisecting).
        safe: Check the model after every rewrite; undo and name the ones that break it.
        provenance: Write into the model which rewrites made each node and weight (see
            ``graphopt.instruments.provenance``).
        measure_each: Measure latency after each pass that changed the model too, for the
            report.
    """

    emit: Target = Target.STANDARD
    quality: float | None = None
    metric: Metric = "cosine"
    tolerance: Tolerance | None = None
    allow_slower: bool = False
    measure: bool = True
    external_data: model_io.ExternalData = "auto"
    seed: int = 0
    limit: int | None = None
    safe: bool = False
    provenance: bool = False
    measure_each: bool = False

    @property
    def judged_by(self) -> tuple[str, float | None]:
        """Metric and target where built-in metrics only can be taken: a user's is not."""
        metric = metric_of(self.metric)
        return (metric, self.quality) if isinstance(metric, str) else ("cosine", None)

    def __post_init__(self) -> None:
        """Check what can be wrong.

        Raises:
            PipelineError: ``quality`` is a share that nothing can reach.
            MetricError: There is no such metric, or it cannot be used.
        """
        metric = metric_of(self.metric)
        if self.quality is None:
            return
        least, most = (0.0, math.inf) if metric == "sqnr" else (0.0, 1.0)
        if isinstance(metric, UserMetric) and not metric.is_share:
            least, most = -math.inf, math.inf
        if not (least < self.quality <= most and math.isfinite(self.quality)):
            name = metric if isinstance(metric, str) else metric.name
            raise PipelineError(
                "target",
                f"a target of {self.quality} for {name} cannot be reached.",
                hint="Shares of the original are in (0, 1]; sqnr is in dB, above 0.",
            )


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a result was made from; the report looks at it again.

    Attributes:
        source: The file, or ``""`` where the model came from memory.
        model: The original; its weights stay where they are.
        passes: The pipeline that was asked for, as text.
        samples: What both models were run on.
        options: How it was gone about.
    """

    source: str
    model: ir.Model
    passes: str
    samples: Samples
    options: Options


@dataclasses.dataclass(frozen=True)
class Result:
    """What ``optimize`` returns.

    Attributes:
        model: The optimized model.
        before, after: Size, nodes, parameters … of the original and of the result.
        comparison: The proof: original and result on the same samples in onnxruntime.
        latency: Measured latency of the original and of the result; empty if not measured.
        ledger: Every rewrite, and every reason not to.
        steps: One entry a pass that was run.
        left_out: Text of a pass that did not pay -> why it was left out.
        saved: What was written, if an output was given.
        artifacts: What passes published: plans, tables.
        measurements: Time, nodes and bytes of each step.
        step_latencies: Latency after each step, to that of the original; ``None`` where it was
            not measured (see ``Options.measure_each``).
        origin: What it was made from.
    """

    model: ir.Model
    before: ModelSummary
    after: ModelSummary
    comparison: Comparison
    latency: tuple[Latency, ...]
    ledger: Ledger
    steps: tuple[Step, ...]
    left_out: Mapping[str, str]
    saved: model_io.Saved | None
    artifacts: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    step_latencies: tuple[Latency | None, ...]
    origin: Origin

    @property
    def speedup(self) -> float | None:
        """How many times faster than the original; ``None`` if not measured."""
        return speedup_of(self.latency)

    def save(
        self, path: str | os.PathLike[str], external_data: model_io.ExternalData = "auto"
    ) -> model_io.Saved:
        """Write the model, whole or not at all.

        Raises:
            ValidationError: The model did not validate; it is not written.
            OutputError: ``path`` cannot be written.
        """
        require_valid(self.comparison)
        return model_io.save(self.model, path, external_data=external_data)

    def report(
        self,
        path: str | os.PathLike[str],
        progress: Progress | None = None,
        command: str = "",
    ) -> pathlib.Path:
        """Write the report as one HTML file that needs no network.

        Both models are run on the first samples once more, to compare them layer by layer.

        Args:
            path: Where it goes; written whole or not at all.
            progress: Where this reports.
            command: What was typed, if anything was.

        Returns:
            ``path``.

        Raises:
            OutputError: ``path`` cannot be written.
        """
        from graphopt.report.html import write_report

        return write_report(self, path, progress, command)


def _pipeline(passes: str | Sequence[Pass] | None, *, has_target: bool) -> list[Pass]:
    if passes is None:
        passes = "auto" if has_target else "default"
    if isinstance(passes, str):
        return pipeline.parse(passes, has_target=has_target)
    return list(passes)


def require_valid(comparison: Comparison) -> None:
    """Raise unless the comparison passed.

    Raises:
        ValidationError: With the reason the comparison gives.
    """
    if not comparison.passed:
        raise ValidationError(
            "differs",
            f"the result does not validate: {comparison.reason}",
            hint="Find the rewrite to blame with python -m graphopt.tools.bisect_passes.",
        )


def optimize(
    source: Source,
    passes: str | Sequence[Pass] | None = None,
    *,
    samples: SamplesLike | None = None,
    output: str | os.PathLike[str] | None = None,
    options: Options | None = None,
    instruments: Sequence[Instrument] = (),
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Result:
    """Rewrite a model, prove that the result does its job, and write it.

    Args:
        source: Path of an ONNX file, or a model in memory.
        passes: A pipeline: text, preset or passes. By default ``default``, and ``auto`` where
            a quality is asked for.
        samples: What the model is run on; synthetic from the declared inputs by default.
        output: Where to write the result; nothing is written unless it validates.
        options: How to go about it.
        instruments: Called between passes.
        progress: Where long work reports.
        executor: Where calibration is spread to: any ``concurrent.futures.Executor``; the
            result is the same. ``None``: done here.

    Returns:
        The result. Without an ``output`` look at ``result.comparison.passed`` yourself.

    Raises:
        ModelError, PipelineError, SamplesError, OutputError: Bad input.
        ValidationError: An ``output`` was given and the result does not validate.
    """
    options = options or Options()
    chosen = _pipeline(passes, has_target=options.quality is not None)
    pipeline.check_order(chosen)
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(contextlib.closing(Runtime()))
        original = stack.enter_context(_as_file(source))
        before = model_io.load(source)
        if output is not None:
            _check_output(pathlib.Path(output), original, before)
        given = _samples(samples, before)
        work = _Work(
            source,
            original,
            before,
            summarize(before, size_on_disk(before, original)),
            given,
            given
            or accepted(
                Samples.synthetic(model_io.input_specs(before), seed=options.seed),
                original,
                runtime,
            ),
            options,
            runtime,
            tuple(instruments),
            progress,
            None if output is None else pathlib.Path(f"{output}.search.json"),
            executor,
        )
        stage = stack.enter_context(_stage(output, original, options.external_data))
        return work.run(chosen, stage, write=output is not None)


@dataclasses.dataclass(frozen=True)
class _Work:
    """One call of ``optimize``."""

    source: Source
    original: pathlib.Path  # the source as a file
    model: ir.Model  # the original, never edited
    before: ModelSummary
    given: Samples | None
    samples: Samples  # the given ones, or synthetic
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
            comparison = self._compare(stage.path, promise_of(passes))
            latency = self._latency(stage.path, EFFORT[0]) if comparison.passed else ()
            optional = None if self.options.allow_slower else _without_last_optional(passes)
            slower = optional is not None and self._slower_speedup(stage.path, latency)
            if optional is None or not slower:
                break
            text, kept = optional
            left_out[text] = f"with it the model is slower than the original: {slower:.2f}x"
            logger.info("%s is left out: %s", text, left_out[text])
            passes = kept
        files = [stage.path] + ([stage.external_path] if stage.external_path else [])
        after = summarize(model, sum(file.stat().st_size for file in files))
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
        )

    def _latency(self, candidate: pathlib.Path, repetitions: int) -> tuple[Latency, ...]:
        if not self.options.measure:
            return ()
        feeds = next(iter(self.samples.feeds()))
        return tuple(
            self.runtime.latency([self.original, candidate], feeds, repetitions=repetitions)
        )

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


def speedup_of(latency: Sequence[Latency]) -> float | None:
    """Return how many times faster the last model is than the first, if it was measured."""
    return 1 / latency[-1].ratio if latency else None


def _without_last_optional(passes: Sequence[Pass]) -> tuple[str, list[Pass]] | None:
    """Return the pass to leave out first, as text, and the passes without it.

    That is the last of those that promise least, in brackets or not. Exact passes stay: what
    they gain does not depend on the machine, and the same input should give the same file.
    """
    for promise in (Promise.LOSSY, Promise.CLOSE):
        for index in reversed(range(len(passes))):
            pass_ = passes[index]
            if promise_of([pass_]) is not promise:
                continue
            rest = [*passes[:index], *passes[index + 1 :]]
            if not isinstance(pass_, Fixpoint):
                return pipeline.format_pass(pass_), rest
            last = max(i for i, one in enumerate(pass_.passes) if one.promise is promise)
            inner = (*pass_.passes[:last], *pass_.passes[last + 1 :])
            if inner:
                rest.insert(index, Fixpoint(inner))
            return pipeline.format_pass(pass_.passes[last]), rest
    return None


def promise_of(passes: Sequence[Pass]) -> Promise:
    """Return the weakest promise of the passes: what their sequence is worth."""
    flat: list[Pass] = []
    for pass_ in passes:
        flat += pass_.passes if isinstance(pass_, Fixpoint) else [pass_]
    order = list(Promise)
    return max((pass_.promise for pass_ in flat), key=order.index, default=Promise.EXACT)


def validate(
    original: Source,
    candidate: Source,
    *,
    samples: SamplesLike | None = None,
    options: Options | None = None,
) -> Comparison:
    """Compare two models on the same samples in onnxruntime.

    Args:
        original: The reference.
        candidate: The model that should do the same.
        samples: What both are run on; synthetic from the declared inputs by default.
        options: ``quality`` and ``metric`` to judge by a target; ``tolerance`` otherwise.

    Raises:
        ModelError, SamplesError: Bad input.
    """
    options = options or Options()
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(contextlib.closing(Runtime()))
        first = stack.enter_context(_as_file(original))
        second = stack.enter_context(_as_file(candidate))
        model = model_io.load(first)
        model_io.load(second)  # both are checked before onnxruntime sees them
        given = _samples(samples, model)
        return compare(
            first,
            second,
            given or Samples.synthetic(model_io.input_specs(model), seed=options.seed),
            promise=Promise.LOSSY if options.quality is not None else Promise.CLOSE,
            runtime=runtime,
            tolerance=options.tolerance,
            metric=options.metric,
            target=options.quality,
        )


def _check_output(output: pathlib.Path, original: pathlib.Path, model: ir.Model) -> None:
    """Refuse to write over the weights that the model is read from."""
    place = output.resolve()
    if place != original.resolve() and place in {f.resolve() for f in files_of(model)}:
        raise OutputError(
            "is-input-data",
            f"{output} holds weights of {original}.",
            hint="Write the result elsewhere, or over the model itself.",
        )


def _samples(samples: SamplesLike | None, model: ir.Model) -> Samples | None:
    specs = model_io.input_specs(model)
    if samples is None or isinstance(samples, Samples):
        return samples
    if isinstance(samples, (str, os.PathLike)):
        return Samples.from_path(samples, specs)
    if hasattr(samples, "get_next"):
        return Samples.from_reader(samples, specs)
    if isinstance(samples, Iterable) or callable(samples):
        return Samples.from_feeds(samples, specs)
    raise SamplesError(
        "kind",
        f"samples of type {type(samples).__name__} are not understood.",
        hint="Give a path, a list of feeds or an object with get_next().",
    )


@contextlib.contextmanager
def _as_file(source: Source) -> Iterator[pathlib.Path]:
    """Yield the path of ``source``; a model in memory gets a temporary file."""
    if not isinstance(source, onnx.ModelProto):
        yield pathlib.Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = pathlib.Path(folder) / "model.onnx"
        model_io.save(model_io.load(source), path)
        yield path


@contextlib.contextmanager
def _stage(
    output: str | os.PathLike[str] | None,
    original: pathlib.Path,
    external_data: model_io.ExternalData,
) -> Iterator[model_io.Stage]:
    """Yield where the candidate is written: next to the output, or in a temporary folder."""
    with contextlib.ExitStack() as stack:
        if output is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-"))
            output = pathlib.Path(folder) / original.name
        yield stack.enter_context(model_io.staged(output, external_data=external_data))

"""``optimize``: the whole life of a model."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import Executor

from graphopt import model_io, pipeline
from graphopt.api.attempts import Work
from graphopt.api.options import Options
from graphopt.api.result import Result
from graphopt.api.sources import (
    SamplesLike,
    Source,
    as_file,
    as_samples,
    check_output,
    stage,
)
from graphopt.manager import Instrument
from graphopt.passbase import Pass, Progress
from graphopt.report.summary import size_on_disk, summarize
from graphopt.runtime import Runtime
from graphopt.samples import Samples
from graphopt.validation import accepted

__all__ = ["optimize"]


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
    if passes is None or isinstance(passes, str):
        passes = pipeline.parse(passes, has_target=options.quality is not None)
    chosen = list(passes)
    pipeline.check_order(chosen)
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(contextlib.closing(Runtime()))
        original = stack.enter_context(as_file(source))
        before = model_io.load(source)
        if output is not None:
            check_output(pathlib.Path(output), original, before)
        given = as_samples(samples, before)
        synthetic = Samples.synthetic(model_io.input_specs(before), seed=options.seed)
        chosen_samples = given or accepted(synthetic, original, runtime)
        fed = chosen_samples.first_shapes()
        work = Work(
            source=source,
            original=original,
            model=before,
            before=summarize(before, size_on_disk(before, original), fed),
            given=given,
            samples=chosen_samples,
            fed=fed,
            options=options,
            runtime=runtime,
            instruments=tuple(instruments),
            progress=progress,
            journal=None if output is None else pathlib.Path(f"{output}.search.json"),
            executor=executor,
        )
        place = stack.enter_context(stage(output, original, options.external_data))
        return work.run(chosen, place, write=output is not None)

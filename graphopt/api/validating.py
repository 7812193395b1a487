"""``validate``: two models on the same samples."""

from __future__ import annotations

import contextlib

from graphopt import model_io
from graphopt.api.options import Options
from graphopt.api.sources import SamplesLike, Source, as_file, as_samples
from graphopt.passbase import Progress, Promise
from graphopt.runtime import Runtime
from graphopt.samples import Samples
from graphopt.validation import Comparison, compare

__all__ = ["validate"]


def validate(
    original: Source,
    candidate: Source,
    *,
    samples: SamplesLike | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models on the same samples in onnxruntime.

    Args:
        original: The reference.
        candidate: The model that should do the same.
        samples: What both are run on; synthetic from the declared inputs by default.
        options: ``quality`` and ``metric`` to judge by a target; ``tolerance`` otherwise.
        progress: Told about every sample.

    Raises:
        ModelError, SamplesError: Bad input.
    """
    options = options or Options()
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(contextlib.closing(Runtime()))
        first = stack.enter_context(as_file(original))
        second = stack.enter_context(as_file(candidate))
        model = model_io.load(first)
        model_io.load(second)  # both are checked before onnxruntime sees them
        given = as_samples(samples, model)
        return compare(
            first,
            second,
            given or Samples.synthetic(model_io.input_specs(model), seed=options.seed),
            promise=Promise.LOSSY if options.quality is not None else Promise.CLOSE,
            runtime=runtime,
            tolerance=options.tolerance,
            metric=options.metric,
            target=options.quality,
            progress=progress,
        )

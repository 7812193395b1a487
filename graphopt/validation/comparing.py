"""Runs two models on the same samples and compares their answers.

The original is the reference as it is written: without onnxruntime's own optimizations, whose
defects and roundings are not the model's. The candidate runs the same way, which shows what
the rewrite did, and at onnxruntime's default level, as it is deployed. Each is in a child
process of its own, and samples go through one by one.
"""

from __future__ import annotations

import contextlib

import onnx_ir as ir

from graphopt import model_io
from graphopt.metrics import Tolerance
from graphopt.passbase import Progress, Promise
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Samples
from graphopt.scores import Metric, metric_of
from graphopt.validation.accepted import AcceptedSamples, accepted
from graphopt.validation.bench import Bench, DiffersError
from graphopt.validation.comparison import Comparison
from graphopt.validation.judgement import Judgement
from graphopt.validation.precision import tolerance_of
from graphopt.validation.stream import Stream

__all__ = ["compare"]

# Of models with more weights than this, two are loaded at a time, and not three.
_LARGE_BYTES = 2 << 30


def compare(
    original: Model,
    candidate: Model,
    samples: Samples,
    promise: Promise,
    runtime: Runtime,
    tolerance: Tolerance | None = None,
    metric: Metric = "cosine",
    target: float | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run two models on the same samples and compare their outputs.

    What ``promise`` asks for:

    - ``EXACT``: the same bits without onnxruntime's optimizations; at the default level, where
      it may fuse the two differently, as ``CLOSE``.
    - ``CLOSE``: within ``tolerance`` at both levels. Outputs that are no floats are the same.
    - ``LOSSY``: the candidate runs, and is finite where the original is, at both levels;
      ``target`` is reached at the default level if there is one.

    Args:
        original: The reference.
        candidate: The model that should do the same.
        samples: What both are run on. Made-up samples that the original refuses are replaced
            by others.
        promise: How much they may differ.
        runtime: Where they are run.
        tolerance: What may differ; ``None``: what the precision of the original asks for.
        metric: For ``LOSSY``: what ``target`` is measured in (see ``graphopt.scores``).
        target: The least that ``metric`` must be; ``None``: reported, not judged.
        progress: Told about every sample.

    Raises:
        ValidationError: ``not-runnable``: the original cannot be run, so that nothing can be
            said.
        SamplesError: The samples do not fit the original.
        ModelError: A file is missing, or is no model.
        MetricError: The metric cannot be used.
    """
    chosen = metric_of(metric)
    model = original if isinstance(original, ir.Model) else model_io.load(original)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    size_bytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    with contextlib.ExitStack() as stack:
        bench = Bench(runtime, original, candidate)
        stack.callback(bench.close)
        samples = accepted(samples, original, runtime)
        stream = Stream(bench, samples)
        if progress is not None:
            task = stack.enter_context(contextlib.closing(progress.track("validate")))
            stream.advance = task.advance
        judgement = Judgement(
            bench, stream, promise, tolerance or tolerance_of(model), chosen, target
        )
        reason = ""
        try:
            judgement.run(one_by_one=size_bytes > _LARGE_BYTES)
        except DiffersError as error:
            reason = str(error)
    levels = tuple(judgement.levels)
    return Comparison(
        promise=promise,
        tolerance=judgement.tolerance,
        metric=chosen if isinstance(chosen, str) else chosen.name,
        target=target,
        levels=levels,
        samples=stream.count,
        described=samples.describe(),
        reason=reason or "; ".join(level.reason for level in levels if level.reason),
        notes=(
            *(samples.notes if isinstance(samples, AcceptedSamples) else ()),
            *stream.notes,
            *judgement.notes,
        ),
    )

"""Recovery without training: what reads fewer channels is fitted to what it returned before.

Layers are taken in the order of the graph. Each is fitted to the outputs of the original model
with the inputs that the smaller model, recovered as far as that layer, gives it; so a layer
makes up for what was lost before it, too (He et al. 2017, arXiv 1707.06168). Where no fitted
layer comes before a BatchNormalization (a Conv in groups, a ConvTranspose), its statistics are
estimated again. In memory are only sums of products, of one layer at a time; both models are
run once, in stretches from layer to layer, and what a stretch hands on is on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.passbase import Context
from graphopt.rewriter import Rewriter
from graphopt.samples import Samples

from .compaction import Compactor
from .layers import Layer
from .recover_layer import fit_layer, layers_to_fit
from .recover_statistics import estimate_statistics, norms_to_estimate
from .recovered import Pair, Recovered
from .shelf import Shelf
from .statistics import Norm
from .stretches import Stretches

__all__ = ["recover"]


def recover(
    original: ir.Model,
    compactor: Compactor,
    rewriter: Rewriter,
    samples: Samples,
    context: Context,
    limit_bytes: int,
    fit_layers: bool = True,
) -> list[Recovered]:
    """Fit every layer of the cut model whose inputs became fewer, or the statistics.

    Args:
        original: The model before it was cut; not changed.
        compactor: What cut the model.
        rewriter: What the model is edited with: one application a layer.
        samples: What the models are run on.
        context: Gives the runtime, the seed and the progress.
        limit_bytes: What the sums of one layer may take; a layer that needs more is left as
            it is.
        fit_layers: Otherwise nothing but statistics is touched.

    Raises:
        ExecutionError: onnxruntime does not run one of the models.
    """
    layers = list(layers_to_fit(compactor, limit_bytes)) if fit_layers else []
    steps: list[tuple[Layer | Norm, np.ndarray]] = [
        *layers,
        *norms_to_estimate(compactor, layers),
    ]
    place = {node: number for number, node in enumerate(rewriter.model.graph)}
    steps.sort(key=lambda step: place[step[0].node])
    feeds = sum(1 for _ in samples.feeds())
    originals = {value.name: value for node in original.graph for value in node.outputs}
    dense_targets = [originals[step.y.name] for step, _ in steps]
    task = context.progress.track("recovering", len(steps))
    found: list[Recovered] = []
    with contextlib.closing(Shelf()) as shelf:
        dense = Stretches(original, dense_targets, context.runtime, shelf)
        small = Stretches(
            rewriter.model, [step.x for step, _ in steps], context.runtime, shelf
        )
        for number, (step, kept) in enumerate(steps):
            pairs = _pairs(dense, small, number, samples, context.seed)
            if isinstance(step, Layer):
                found.append(fit_layer(step, kept, pairs, feeds, rewriter))
            else:
                found.append(estimate_statistics(step, kept, pairs, rewriter))
            task.advance()
    task.close()
    return found


def _pairs(
    dense: Stretches, small: Stretches, number: int, samples: Samples, seed: int
) -> Iterator[Pair]:
    """Yield a pair a feed: all that is in memory of the activations at a time."""
    with dense.to(number) as y_of, small.to(number) as x_of:
        for index, feed in enumerate(samples.feeds()):
            yield x_of(feed), y_of(feed), np.random.default_rng([seed, number, index])

"""Recovery without training: what reads fewer channels is fitted to what it returned before.

Layers are taken in the order of the graph. Each is fitted to the outputs of the original model
with the inputs that the smaller model, recovered as far as that layer, gives it; so a layer
makes up for what was lost before it, too (He et al. 2017, arXiv 1707.06168). Where no fitted
layer comes before a BatchNormalization (a Conv in groups, a ConvTranspose), its statistics are
estimated again. Only sums of products are kept, of one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.passbase import Context
from graphopt.rewriter import Rewriter
from graphopt.runtime import Runtime, Session
from graphopt.samples import Samples

from .compaction import Compactor
from .layers import Layer
from .prefix import prefix_of
from .recover_layer import fit_layer, layers_to_fit
from .recover_statistics import estimate_statistics, norms_to_estimate
from .recovered import Pair, Recovered
from .statistics import Norm

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
    task = context.progress.track("recovering", len(steps))
    found: list[Recovered] = []
    for number, (step, kept) in enumerate(steps):
        seed = (context.seed, number)
        pairs = _pairs(original, rewriter.model, step, samples, context.runtime, seed)
        if isinstance(step, Layer):
            found.append(fit_layer(step, kept, pairs, feeds, rewriter))
        else:
            found.append(estimate_statistics(step, kept, pairs, rewriter))
        task.advance()
    task.close()
    return found


def _pairs(
    original: ir.Model,
    model: ir.Model,
    step: Layer | Norm,
    samples: Samples,
    runtime: Runtime,
    seed: tuple[int, int],
) -> Iterator[Pair]:
    """Yield a pair a feed: all that is in memory of the activations at a time."""
    x_name, y_name = step.x.name or "", step.y.name or ""
    with (
        runtime.session(prefix_of(original, y_name)) as dense,
        runtime.session(prefix_of(model, x_name)) as small,
    ):
        for index, feed in enumerate(samples.feeds()):
            y = _value(dense.run(_inputs(feed, dense)), feed, y_name)
            x = _value(small.run(_inputs(feed, small)), feed, x_name)
            yield x, y, np.random.default_rng([*seed, index])


def _inputs(feed: dict[str, np.ndarray], session: Session) -> dict[str, np.ndarray]:
    wanted = {spec.name for spec in session.input_specs}
    return {name: array for name, array in feed.items() if name in wanted}


def _value(
    results: dict[str, np.ndarray], feed: dict[str, np.ndarray], name: str
) -> np.ndarray:
    return results[name] if name in results else feed[name]

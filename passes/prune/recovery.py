"""Recovery without training: what reads fewer channels is fitted to what it returned before.

Layers are taken in the order of the graph. Each is fitted to the outputs of the original model
with the inputs that the smaller model, recovered as far as that layer, gives it; so a layer
makes up for what was lost before it, too (He et al. 2017, arXiv 1707.06168). Where no fitted
layer comes before a BatchNormalization (a Conv in groups, a ConvTranspose), its statistics are
estimated again. Only sums of products are kept, of one layer at a time.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.groups import Dimensions
from graphopt.edit import Edit
from graphopt.passbase import Context
from graphopt.rewriter import Rewriter
from graphopt.runtime import Runtime, Session
from graphopt.samples import Samples

from .compaction import Compactor
from .layers import Layer, layer_of
from .least_squares import HELD_OUT, Moments, Rows, chunks, fit, needed_bytes
from .prefix import prefix_of
from .statistics import ChannelMoments, Norm, norm_of

__all__ = ["Recovered", "recover", "recovery_summary"]

logger = logging.getLogger(__name__)

ROWS = 16384
"""Rows that are enough for a layer with few inputs; more inputs get more."""

HOLD_OUT = 2
"""Every so-many-th row is held out, where there are few."""


@dataclasses.dataclass(frozen=True)
class Recovered:
    """One layer that was fitted, or left as it was.

    Attributes:
        layer: Name of the node.
        method: What gave the best weights.
        error_before, error: Mean square error on rows held out, relative to the mean square of
            the original outputs.
    """

    layer: str
    method: str
    error_before: float
    error: float


Pair: TypeAlias = tuple[np.ndarray, np.ndarray, np.random.Generator]
"""What goes into a layer now, what the original made there, and the dice of this feed."""


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
    layers = list(_layers(compactor, rewriter, limit_bytes)) if fit_layers else []
    steps: list[tuple[Layer | Norm, np.ndarray]] = [*layers, *_norms(compactor, layers)]
    place = {node: number for number, node in enumerate(rewriter.model.graph)}
    steps.sort(key=lambda step: place[step[0].node])
    feeds = sum(1 for _ in samples.feeds())
    task = context.progress.track("recovering", len(steps))
    found: list[Recovered] = []
    for number, (step, kept) in enumerate(steps):
        seed = (context.seed, number)
        pairs = _pairs(original, rewriter.model, step, samples, context.runtime, seed)
        if isinstance(step, Layer):
            found.append(_fit_one(step, _measure(step, kept, pairs, feeds), rewriter))
        else:
            found.append(_estimate_one(step, kept, pairs, rewriter))
        task.advance()
    task.close()
    return found


def _layers(
    compactor: Compactor, rewriter: Rewriter, limit_bytes: int
) -> Iterator[tuple[Layer, np.ndarray]]:
    """Yield the layers that lost inputs, and which of their outputs are left."""
    dimensions: Dimensions = compactor.dimensions
    sites = {use: site for site in dimensions.coupling.sites for use in site.uses}
    done: set[ir.Node] = set()
    for node, operands in dimensions.coupling.contractions:
        if node in done or node.graph is not rewriter.model.graph:
            continue
        weights = [(index, axis) for index, axis in operands if (node, index) in sites]
        if not weights or all(
            axis.size == 1 or compactor.alive(axis).all() for _, axis in weights
        ):
            continue
        done.add(node)
        layer = layer_of(node)
        if isinstance(layer, str):
            rewriter.skip("recover-layer", node, layer)
            continue
        needed = needed_bytes(*layer.weight().shape)
        if needed > limit_bytes:
            reason = f"it needs {needed >> 20} MB and memory_limit is {limit_bytes >> 20} MB"
            rewriter.skip("recover-layer", node, reason)
            continue
        out = sites[node, layer.weight_index].axes[layer.out_axis]
        alive = np.ones(1, bool) if out.size == 1 else compactor.alive(out)
        yield layer, np.nonzero(alive)[0]


def _rows_wanted(inputs: int) -> int:
    """Return how many rows to look at: enough for as many unknowns."""
    return ROWS + 4 * inputs


def _norms(
    compactor: Compactor, layers: Sequence[tuple[Layer, np.ndarray]]
) -> Iterator[tuple[Norm, np.ndarray]]:
    """Yield what normalizes something else than a fitted layer, and the channels left."""
    # What a fitted layer returns has the mean that it had, and a bias of its own to see to it.
    fitted = {layer.node for layer, _ in layers if layer.bias_node is not None}
    dimensions: Dimensions = compactor.dimensions
    graph = compactor.rewriter.model.graph
    sites = {use: site for site in dimensions.coupling.sites for use in site.uses}
    for node in graph:
        norm = norm_of(node)
        if isinstance(norm, str) or norm.x.producer() in fitted or (node, 1) not in sites:
            continue
        (channels,) = sites[node, 1].axes
        alive = np.ones(1, bool) if channels.size == 1 else compactor.alive(channels)
        yield norm, np.nonzero(alive)[0]


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


def _measure(
    layer: Layer,
    kept: np.ndarray,
    pairs: Iterator[Pair],
    feeds: int,
) -> tuple[Moments, Rows]:
    """Return the moments of a layer to fit, and rows to judge by."""
    inputs = layer.weight().shape[1]
    fitted, judged = Moments(inputs, len(kept)), Rows()
    share = -(-_rows_wanted(inputs) // max(feeds, 1))
    every = seen = 0
    for x, y, rng in pairs:
        total = layer.positions(y)
        count = min(share, total)
        picked = np.sort(rng.choice(total, count, replace=False))
        # Few rows: one of two. Many: no more than are needed, from all feeds.
        every = every or max(HOLD_OUT, -(-count * feeds // HELD_OUT))
        # Counted through all feeds: one of a single row gives that to one of the two.
        held = (seen + rng.permutation(count)) % every == every - 1
        seen += count
        for take, mine in ((fitted.update, picked[~held]), (judged.update, picked[held])):
            for part in chunks(len(mine), inputs):
                targets = layer.targets(y, mine[part])[:, kept]
                take(layer.rows(x, mine[part]), targets)
    return fitted, judged


def _estimate_one(
    norm: Norm,
    kept: np.ndarray,
    pairs: Iterator[Pair],
    rewriter: Rewriter,
) -> Recovered:
    name = norm.node.name or ""
    both = (ChannelMoments(len(kept)), ChannelMoments(len(kept)))
    for x, y, rng in pairs:
        rows, targets = norm.rows(x), norm.rows(y)[:, kept]
        held = rng.permutation(len(rows)) % HOLD_OUT == 0
        for moments, mine in zip(both, (~held, held), strict=True):
            moments.update(rows[mine], targets[mine])
    seen, held_out = both
    if not (seen.is_finite and held_out.is_finite):
        rewriter.skip("recover-statistics", norm.node, "nothing finite goes into it")
        return Recovered(name, "as it was", float("nan"), float("nan"))
    mean = seen.x / seen.count
    old = (norm.parameter(3), norm.parameter(4))
    before = held_out.error(*norm.affine(*old))
    # A variance that is too large damps what is left of the signal, and its error as well.
    choices = [(mean, old[1]), (mean, np.maximum(seen.xx / seen.count - mean**2, 0.0))]
    errors = [held_out.error(*norm.affine(*choice)) for choice in choices]
    error, best = min(errors), choices[int(np.argmin(errors))]
    if error >= before:
        rewriter.skip(
            "recover-statistics", norm.node, "new ones are no better on held-out rows"
        )
        return Recovered(name, "as it was", before, before)

    def rewrite(edit: Edit) -> None:
        edit.note(f"{name}: error {before:.3g} -> {error:.3g}")
        norm.set(edit, *best)

    rewriter.apply("recover-statistics", norm.node, rewrite)
    return Recovered(name, "statistics", before, error)


def _inputs(feed: dict[str, np.ndarray], session: Session) -> dict[str, np.ndarray]:
    wanted = {spec.name for spec in session.input_specs}
    return {name: array for name, array in feed.items() if name in wanted}


def _value(
    results: dict[str, np.ndarray], feed: dict[str, np.ndarray], name: str
) -> np.ndarray:
    return results[name] if name in results else feed[name]


def _fit_one(layer: Layer, moments: tuple[Moments, Rows], rewriter: Rewriter) -> Recovered:
    name = layer.node.name or ""
    fitted, held_out = moments
    if not (fitted.is_finite and held_out.is_finite):
        reason = "its inputs or outputs on the samples are not finite"
        rewriter.skip("recover-layer", layer.node, reason)
        return Recovered(name, "as it was", float("nan"), float("nan"))
    weight, own = layer.weight(), layer.bias()
    # Where the bias is added later, what comes out of the node has none.
    bias = np.zeros_like(own) if layer.adds_bias_later else own
    best = fit(fitted, held_out, weight, bias, free_bias=layer.bias_node is not None)
    if best.method != "as it was":

        def rewrite(edit: Edit) -> None:
            edit.note(f"{name}: error {best.error_before:.3g} -> {best.error:.3g}")
            new_bias = own + best.bias if layer.adds_bias_later else best.bias
            layer.set(edit, best.weight, new_bias if layer.bias_node is not None else None)

        rewriter.apply("recover-layer", layer.node, rewrite)
    else:
        rewriter.skip("recover-layer", layer.node, "no fit was better on the rows held out")
    logger.debug("%s: %s, %.3g -> %.3g", name, best.method, best.error_before, best.error)
    return Recovered(name, best.method, best.error_before, best.error)


def recovery_summary(recovered: Sequence[Recovered]) -> str:
    """Return one line about what recovery did."""
    fitted = [one for one in recovered if one.method != "as it was"]
    return f"recovered {len(fitted)} of {len(recovered)} layers"

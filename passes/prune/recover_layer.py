"""Layers that lost inputs: which they are, and each fitted to what it returned before."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.edit import Edit
from graphopt.rewriter import Rewriter

from .compaction import Compactor
from .layers import Layer, layer_of, weight_place
from .least_squares import HELD_OUT, Moments, Rows, chunks, fit, needed_bytes
from .recovered import HOLD_OUT, Pair, Recovered

__all__ = ["fit_layer", "layers_to_fit"]

logger = logging.getLogger(__name__)

ROWS = 16384
"""Rows that are enough for a layer with few inputs; more inputs get more."""


def layers_to_fit(
    compactor: Compactor, limit_bytes: int
) -> Iterator[tuple[Layer, np.ndarray]]:
    """Yield the layers that lost inputs, and which of their outputs are left.

    Args:
        compactor: What cut the model.
        limit_bytes: What fitting one may take; why a layer is left out is recorded.
    """
    dimensions, rewriter = compactor.dimensions, compactor.rewriter
    sites = {use: site for site in dimensions.coupling.sites for use in site.uses}
    done: set[ir.Node] = set()
    for node, operands in dimensions.coupling.contractions:
        if node in done or node.graph is not rewriter.model.graph:
            continue
        weights = [(i, axis) for i, axis in operands if weight_place(node, i) in sites]
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
        out = sites[layer.weight_node, layer.weight_index].axes[layer.out_axis]
        alive = np.ones(1, bool) if out.size == 1 else compactor.alive(out)
        yield layer, np.nonzero(alive)[0]


def _measure(
    layer: Layer,
    kept: np.ndarray,
    pairs: Iterator[Pair],
    feeds: int,
) -> tuple[Moments, Rows]:
    """Return the moments of a layer to fit, and rows to judge by."""
    inputs = layer.weight().shape[1]
    fitted, judged = Moments(inputs, len(kept)), Rows()
    # Enough for as many unknowns.
    share = -(-(ROWS + 4 * inputs) // max(feeds, 1))
    seen = 0
    for x, y, rng in pairs:
        total = layer.positions(y)
        count = min(share, total)
        picked = np.sort(rng.choice(total, count, replace=False))
        # Few rows: one of two. Many: no more than are needed, from all feeds.
        every = max(HOLD_OUT, -(-count * feeds // HELD_OUT))
        # Counted through all feeds: one of a single row gives that to one of the two.
        held = (seen + rng.permutation(count)) % every == every - 1
        seen += count
        for take, mine in ((fitted.update, picked[~held]), (judged.update, picked[held])):
            for part in chunks(len(mine), inputs):
                targets = layer.targets(y, mine[part])[:, kept]
                take(layer.rows(x, mine[part]), targets)
    return fitted, judged


def fit_layer(
    layer: Layer,
    kept: np.ndarray,
    pairs: Iterator[Pair],
    feeds: int,
    rewriter: Rewriter,
) -> Recovered:
    """Fit one layer to what it returned before; one application.

    Args:
        layer: The layer.
        kept: Which of its outputs are left.
        pairs: What goes in and what should come out, a feed each.
        feeds: How many there are.
        rewriter: What the model is edited with.
    """
    name = layer.node.name or ""
    fitted, held_out = _measure(layer, kept, pairs, feeds)
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

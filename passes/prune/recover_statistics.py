"""Normalizations that no fitted layer sees to: which they are, and their new statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.edit import Edit
from graphopt.rewriter import Rewriter

from .compaction import Compactor
from .layers import Layer
from .recovered import HOLD_OUT, Pair, Recovered
from .statistics import ChannelMoments, Norm, norm_of

__all__ = ["estimate_statistics", "norms_to_estimate"]


def norms_to_estimate(
    compactor: Compactor, layers: Sequence[tuple[Layer, np.ndarray]]
) -> Iterator[tuple[Norm, np.ndarray]]:
    """Yield what normalizes something else than a fitted layer, and the channels left."""
    # What a fitted layer returns has the mean that it had, and a bias of its own to see to it.
    fitted = {layer.node for layer, _ in layers if layer.bias_node is not None}
    dimensions = compactor.dimensions
    graph = compactor.rewriter.model.graph
    sites = {use: site for site in dimensions.coupling.sites for use in site.uses}
    for node in graph:
        norm = norm_of(node)
        if isinstance(norm, str) or norm.x.producer() in fitted or (node, 1) not in sites:
            continue
        (channels,) = sites[node, 1].axes
        alive = np.ones(1, bool) if channels.size == 1 else compactor.alive(channels)
        yield norm, np.nonzero(alive)[0]


def estimate_statistics(
    norm: Norm,
    kept: np.ndarray,
    pairs: Iterator[Pair],
    rewriter: Rewriter,
) -> Recovered:
    """Estimate the statistics of one normalization; one application.

    Args:
        norm: The normalization.
        kept: Which of its channels are left.
        pairs: What goes in and what should come out, a feed each.
        rewriter: What the model is edited with.
    """
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

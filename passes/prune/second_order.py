"""Importance from what activations a weight meets: Wanda, and optimal brain surgeon.

Both need second moments of what goes into the layers that read a group, measured on the model
before anything is cut. *Wanda* takes their diagonal: an index matters as the weights that read
it times the size of what they read (Sun et al. 2023, arXiv 2306.11695). *OBS* asks how much
the output of those layers changes if the index goes and the weights that are left make up for
it as well as they can: indices go a few at a time, and weights and inverse follow (Hassibi &
Stork 1993; for structures Kurtic et al. 2023, "ZipLM", arXiv 2302.04089).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.groups import Dimensions, Group
from graphopt.passbase import Context
from graphopt.samples import Samples

from .gram import Gram
from .layers import Layer, layer_of, weight_place
from .least_squares import chunks
from .prefix import prefix_of

__all__ = [
    "Consumer",
    "consumers_of",
    "diagonals",
    "grams",
    "obs_order",
    "sums_bytes",
    "wanda",
]

STEP = 0.05
"""Share of the indices that go between two updates of the inverse."""

DAMPING = 1e-2
"""Added to the diagonal, times its mean, so that what is never seen can be inverted."""

ROWS = 16384
"""Rows that are enough for a layer with few inputs; more inputs get more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Consumer:
    """A layer that reads a group.

    Attributes:
        layer: The layer.
        index: For every column of its weight, the index of the group there, or -1.
    """

    layer: Layer
    index: np.ndarray


def consumers_of(dimensions: Dimensions, group: Group) -> list[Consumer]:
    """Return the layers that sum over the indices of ``group`` and can be fitted."""
    coupling = dimensions.coupling
    position = np.full(dimensions.atom_count, -1, np.int64)
    position[group.atoms] = np.arange(group.size)
    position[0] = -1
    sites = {use: site for site in coupling.sites for use in site.uses}
    found: list[Consumer] = []
    for node, operands in coupling.contractions:
        for index, axis in operands:
            place = weight_place(node, index)
            if place not in sites or axis.size == 1:
                continue
            where = position[dimensions.rows(axis)].max(axis=1)
            layer = layer_of(node) if (where >= 0).any() else ""
            if isinstance(layer, Layer) and place == (layer.weight_node, layer.weight_index):
                columns = layer.weight().shape[1]
                found.append(Consumer(layer, np.repeat(where, columns // len(where))))
    return found


def sums_bytes(layer: Layer) -> int:
    """Return what the second moments of what goes into ``layer`` take."""
    return Gram.bytes_of(layer.weight().shape[1])


def grams(
    model: ir.Model, layers: Iterable[Layer], samples: Samples, context: Context
) -> dict[ir.Node, np.ndarray]:
    """Return node -> the mean of ``x x^T`` of what goes into it, float64 ``[K, K]``.

    Args:
        model: The model, as it is.
        layers: The layers to look at; their sums are in memory together.
        samples: What the model is run on, once.
        context: Gives the runtime, the seed and the progress.
    """
    sums: dict[ir.Node, Gram] = {}
    counts: dict[ir.Node, int] = {}
    for layer, rows in _rows(model, layers, samples, context):
        gram = sums.setdefault(layer.node, Gram(rows.shape[1]))
        for part in chunks(*rows.shape):
            gram.add(rows[part].astype(np.float32, copy=False))
        counts[layer.node] = counts.get(layer.node, 0) + len(rows)
    found: dict[ir.Node, np.ndarray] = {}
    for node, gram in sums.items():
        if counts[node] and gram.is_finite:
            found[node] = gram.full()
            found[node] /= counts[node]
    return found


def diagonals(
    model: ir.Model, layers: Iterable[Layer], samples: Samples, context: Context
) -> dict[ir.Node, np.ndarray]:
    """Return node -> the mean of ``x^2`` of what goes into it, float64 ``[K]``."""
    sums: dict[ir.Node, np.ndarray] = {}
    counts: dict[ir.Node, int] = {}
    for layer, rows in _rows(model, layers, samples, context):
        power = np.square(rows, dtype=np.float64).sum(axis=0)
        sums[layer.node] = sums.get(layer.node, 0.0) + power
        counts[layer.node] = counts.get(layer.node, 0) + len(rows)
    return {
        node: total / counts[node]
        for node, total in sums.items()
        if counts[node] and np.isfinite(total).all()
    }


def _rows(
    model: ir.Model, layers: Iterable[Layer], samples: Samples, context: Context
) -> Iterator[tuple[Layer, np.ndarray]]:
    """Run the model once on all samples; yield rows of what goes into each layer."""
    chosen = list({layer.node: layer for layer in layers}.values())
    if not chosen:
        return
    names = sorted({name for one in chosen for name in (one.x.name, one.y.name) if name})
    feeds = sum(1 for _ in samples.feeds())
    task = context.progress.track("measuring what layers read", feeds)
    with context.runtime.session(prefix_of(model, *names)) as session:
        wanted = {spec.name for spec in session.input_specs}
        for number, feed in enumerate(samples.feeds()):
            results = session.run({n: a for n, a in feed.items() if n in wanted})
            for place, one in enumerate(chosen):
                x_name = one.x.name or ""
                x = results[x_name] if x_name in results else feed[x_name]
                share = -(-(ROWS + 4 * one.weight().shape[1]) // max(feeds, 1))
                total = one.positions(results[one.y.name or ""])
                rng = np.random.default_rng([context.seed, place, number])
                picked = np.sort(rng.choice(total, min(share, total), replace=False))
                yield one, one.rows(x, picked)
            task.advance()
    task.close()


def wanda(
    group: Group, consumers: Sequence[Consumer], sizes: dict[ir.Node, np.ndarray]
) -> np.ndarray | None:
    """Return the importance of every index, ``None`` where nothing was measured.

    Args:
        group: The group.
        consumers: The layers that read it.
        sizes: Node -> mean squares of what goes into it; see ``diagonals``.
    """
    total: np.ndarray | None = None
    for one in consumers:
        size = sizes.get(one.layer.node)
        if size is None:
            continue
        power = np.square(one.layer.weight()).sum(axis=0) * size
        there = one.index >= 0
        score = np.bincount(one.index[there], power[there], minlength=group.size)
        share = np.sqrt(score / (score.mean() or 1.0))
        total = share if total is None else total + share
    return total


def obs_order(
    group: Group, consumers: Sequence[Consumer], sums: dict[ir.Node, np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the order in which ``count`` indices go, and what the first ``k`` of them cost.

    Costs are shares of the mean square of what the layers that read the group return,
    ``[count + 1]``, from 0. ``None`` where nothing was measured.

    Args:
        group: The group.
        consumers: The layers that read it.
        sums: Node -> second moments of what goes into it; see ``grams``.
        count: How many indices go.
    """
    states = [
        _State(one, sums[one.layer.node], group.size)
        for one in consumers
        if one.layer.node in sums
    ]
    if not states:
        return None
    left = np.ones(group.size, bool)
    step = max(1, round(STEP * group.size))
    order: list[int] = []
    errors = [0.0]
    while len(order) < count:
        scores = sum((state.scores(left) for state in states), np.zeros(group.size))
        scores[~left] = np.inf
        gone = np.argsort(scores, kind="stable")[: min(step, count - len(order))]
        for state in states:
            state.remove(gone)
        left[gone] = False
        errors += (errors[-1] + np.cumsum(scores[gone]) / len(states)).tolist()
        order += gone.tolist()
    return np.array(order, np.int64), np.array(errors)


class _State:
    """The weights of one consumer and the inverse of its moments, as indices go."""

    def __init__(self, consumer: Consumer, gram: np.ndarray, size: int) -> None:
        weight = consumer.layer.weight()
        damped = gram + DAMPING * max(float(np.diag(gram).mean()), 1e-30) * np.eye(len(gram))
        self._inverse = np.linalg.inv(damped)
        self._weight = weight.copy()
        self._columns = [np.nonzero(consumer.index == i)[0] for i in range(size)]
        # Errors of different layers are compared as shares of what they return.
        self._scale = float(np.sum((weight @ gram) * weight)) or 1.0

    def scores(self, left: np.ndarray) -> np.ndarray:
        """Return what removing each index adds to the error, at best."""
        found = np.zeros(len(left))
        for index in np.nonzero(left)[0]:
            columns = self._columns[index]
            if len(columns) == 1:
                (k,) = columns
                power = float(np.square(self._weight[:, k]).sum())
                found[index] = power / max(self._inverse[k, k], 1e-30)
            elif len(columns):
                block = self._inverse[np.ix_(columns, columns)]
                part = self._weight[:, columns]
                found[index] = float(np.sum(np.linalg.solve(block, part.T) * part.T))
        return found / self._scale

    def remove(self, indices: np.ndarray) -> None:
        """Remove indices; the other weights make up for them."""
        columns = np.concatenate([self._columns[index] for index in indices])
        if not len(columns):
            return
        block = self._inverse[np.ix_(columns, columns)]
        rows = np.linalg.solve(block, self._inverse[columns])
        self._weight -= self._weight[:, columns] @ rows
        self._inverse -= self._inverse[:, columns] @ rows
        self._weight[:, columns] = 0.0
        # What is gone is not inverted again.
        self._inverse[columns] = 0.0
        self._inverse[:, columns] = 0.0

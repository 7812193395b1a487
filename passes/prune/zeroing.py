"""What every weight becomes: its zeros, and other elements that make up for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.passbase import Context
from graphopt.samples import Samples

from .layers import Layer, layer_of
from .masks import block_mask, kth_smallest, n_of_m_mask, smallest_mask
from .second_order import diagonals, grams, sums_bytes
from .sparse_update import row_mask, sparsegpt
from .weights import Weight

__all__ = ["Method", "Zeroing", "zeroed"]

Method: TypeAlias = Literal["magnitude", "wanda", "sparsegpt"]


@dataclasses.dataclass(frozen=True)
class Zeroing:
    """How zeros are chosen.

    Attributes:
        method: What decides: the element, what it reads too, or that and what the others can
            make up for.
        sparsity: Share of zeros.
        scope: ``layer`` or ``global``.
        n_of_m: Of every ``m`` inputs of an output ``n`` are left.
        block: Blocks ``[outputs, inputs]`` are removed whole.
        limit_bytes: What sums over activations may take at a time.
    """

    method: Method
    sparsity: float
    scope: str
    n_of_m: tuple[int, int] | None
    block: tuple[int, int] | None
    limit_bytes: int


def zeroed(
    how: Zeroing,
    weights: Sequence[Weight],
    model: ir.Model,
    samples: Samples | None,
    context: Context,
) -> Iterator[tuple[Weight, np.ndarray]]:
    """Yield every weight with its new elements, of its own shape and type, in some order.

    A weight of which is not known what it reads (a recurrent one, a shared one) is pruned by
    the size of its elements.
    """
    if how.method == "magnitude" or samples is None:
        yield from _by_magnitude(how, weights)
        return
    layers: dict[Weight, Layer] = {}
    for weight in weights:
        layer = layer_of(weight.node) if weight.index == 1 else ""
        if isinstance(layer, Layer):
            layers[weight] = layer
    if how.method == "wanda":
        sizes = diagonals(model, layers.values(), samples, context)
        for weight, layer in layers.items():
            size = sizes.get(layer.node)
            if size is not None:
                yield weight, _masked(weight, _wanda_mask(how, weight, size))
        rest = [w for w in weights if w not in layers or layers[w].node not in sizes]
    else:
        rest = [weight for weight in weights if weight not in layers]
        for part in _parts(layers, how.limit_bytes):
            sums = grams(model, [layers[weight] for weight in part], samples, context)
            for weight in part:
                gram = sums.get(layers[weight].node)
                if gram is None:
                    rest.append(weight)
                    continue
                matrix = weight.matrix(weight.tensor.numpy())
                new = sparsegpt(matrix, gram, how.sparsity, how.n_of_m)
                yield weight, weight.restored(new.astype(matrix.dtype))
    yield from _by_magnitude(how, rest)


def _parts(layers: dict[Weight, Layer], limit_bytes: int) -> list[list[Weight]]:
    """Divide weights into parts whose sums fit in memory; one weight is always a part."""
    parts: list[list[Weight]] = []
    room = 0
    for weight, layer in layers.items():
        size = sums_bytes(layer)
        if not parts or size > room:
            parts.append([])
            room = limit_bytes
        parts[-1].append(weight)
        room -= size
    return parts


def _masked(weight: Weight, mask: np.ndarray) -> np.ndarray:
    data = np.array(weight.tensor.numpy())
    data[weight.restored(mask)] = 0
    return data


def _wanda_mask(how: Zeroing, weight: Weight, size: np.ndarray) -> np.ndarray:
    scores = _magnitude(weight) * np.sqrt(size).astype(np.float32)
    if how.n_of_m is not None:
        return n_of_m_mask(scores, *how.n_of_m)
    if how.block is not None:
        return block_mask(scores, how.block, how.sparsity)
    return row_mask(scores, how.sparsity)


def _magnitude(weight: Weight) -> np.ndarray:
    data = weight.matrix(weight.tensor.numpy())
    return np.ascontiguousarray(np.abs(data), dtype=np.float32)


def _by_magnitude(
    how: Zeroing, weights: Sequence[Weight]
) -> Iterator[tuple[Weight, np.ndarray]]:
    if how.scope == "global" and weights:
        yield from _globally(how, weights)
        return
    for weight in weights:
        scores = _magnitude(weight)
        if how.n_of_m is not None:
            mask = n_of_m_mask(scores, *how.n_of_m)
        elif how.block is not None:
            mask = block_mask(scores, how.block, how.sparsity)
        else:
            mask = smallest_mask(scores, round(how.sparsity * scores.size))
        yield weight, _masked(weight, mask)


def _globally(how: Zeroing, weights: Sequence[Weight]) -> Iterator[tuple[Weight, np.ndarray]]:
    count = round(how.sparsity * sum(weight.tensor.size for weight in weights))
    if not count:
        for weight in weights:
            yield weight, np.array(weight.tensor.numpy())
        return
    # The tensors as they are now: those that are yielded first change meanwhile.
    threshold, below = kth_smallest(lambda: (_magnitude(w) for w in weights), count)
    ties = count - below
    for weight in weights:
        scores = _magnitude(weight)
        mask = scores < threshold
        equal = np.nonzero(scores.reshape(-1) == threshold)[0][:ties]
        mask.reshape(-1)[equal] = True
        ties -= len(equal)
        yield weight, _masked(weight, mask)

"""Compares two models tensor by tensor, and finds where they part.

The tensors are looked at in portions: a run returns as many of them as the budget allows, so
that memory does not grow with the depth of the model or the number of samples.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.debug.matching import other_data
from graphopt.errors import ExecutionError
from graphopt.ledger import Ledger
from graphopt.metrics import Difference, DifferenceMeter, Tolerance
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Feed

__all__ = ["Layer", "Observe", "compare_layers", "match_names", "worst"]

Observe: TypeAlias = Callable[[str, object, object], None]
"""Looks at what onnxruntime returned for a value of both models, an array as a rule: its name
in the original, the value there and in the candidate."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One tensor of both models.

    Attributes:
        name: Its name in the original.
        candidate_name: Its name in the candidate.
        op_type: Operator that computes it in the original.
        node: Name of that node.
        difference: How far the candidate's is off; ``None`` where it cannot be measured.
        added_noise: Energy of the error over that of the tensor, less what came in with the
            inputs: what this layer adds. 0 where it adds none.
        range: Least and largest element in the original; ``candidate_range`` in the candidate.
        candidate_range: See ``range``.
        not_finite: Elements of the original that are NaN or infinite;
            ``candidate_not_finite`` in the candidate.
        candidate_not_finite: See ``not_finite``.
        fault: Why it cannot be measured; empty where it can.
    """

    name: str
    candidate_name: str
    op_type: str
    node: str
    difference: Difference | None = None
    added_noise: float = 0.0
    range: tuple[float, float] | None = None
    candidate_range: tuple[float, float] | None = None
    not_finite: int = 0
    candidate_not_finite: int = 0
    fault: str = ""

    @property
    def noise(self) -> float:
        """Energy of the error over that of the tensor."""
        return 10 ** (-self.difference.sqnr_db / 10) if self.difference is not None else 0.0

    def exceeds(self, sqnr_db: float | None = None) -> bool:
        """Whether the error is more than the tolerance, or the SQNR less than ``sqnr_db``."""
        if self.difference is None:
            return bool(self.fault)
        if self.difference.not_finite:
            return True
        if sqnr_db is not None:
            return self.difference.sqnr_db < sqnr_db
        return self.difference.needed > 1


def match_names(
    original: ir.Model, candidate: ir.Model, ledger: Ledger | None = None
) -> dict[str, str]:
    """Return tensor of the original -> tensor of the candidate, in the order of computation.

    Tensors are those that nodes of the main graph compute. One that a rewrite replaced is
    followed through the ledger, and one that holds other data now is left out; without a
    ledger equal names are taken for equal tensors.
    """
    there = {value.name for node in candidate.graph for value in node.outputs if value.name}
    moved: dict[str, str] = {}
    for entry in ledger.applied() if ledger is not None else ():
        moved |= entry.values_replaced
    other = other_data(original.graph, ledger) if ledger is not None else set()
    matched = {}
    for node in original.graph:
        for value in node.outputs:
            if value.name in other:
                continue
            # The last name on the way that is still there carries the data: of a tensor that
            # was quantized, that is the dequantized one and not the one that kept its name.
            found, name, seen = "", value.name or "", set[str]()
            while name and name not in seen:
                seen.add(name)
                found = name if name in there else found
                name = moved.get(name, "")
            if found:
                matched[value.name or ""] = found
    return matched


def compare_layers(
    original: Model,
    candidate: Model,
    names: Mapping[str, str],
    feeds: Sequence[Feed],
    runtime: Runtime,
    *,
    tolerance: Tolerance,
    graph: ir.Graph,
    budget_bytes: int = 16 << 20,
    advance: Callable[[int], None] = lambda tensors: None,
    observe: Observe = lambda name, want, got: None,
) -> list[Layer]:
    """Compare the tensors ``names`` of two models, each run without optimization.

    Args:
        original: The reference.
        candidate: The model that should do the same.
        names: Tensor of the original -> tensor of the candidate.
        feeds: What both are run on.
        runtime: Where they are run.
        tolerance: What ``Difference.needed`` is a multiple of.
        graph: Main graph of the original: sizes and order of the tensors.
        budget_bytes: How much the tensors of one portion may take.
        advance: Called with the number of tensors that were compared.
        observe: Called with every tensor of every sample: its name, and both of them. Those
            of one portion come between two calls of ``advance``.

    Returns:
        One entry a tensor, in the order of computation.
    """
    sizes = _sizes(graph, feeds, budget_bytes)
    found: dict[str, Layer] = {}
    nodes = {value.name: node for node in graph for value in node.outputs}
    for portion in _portions(list(names), sizes, budget_bytes):
        for name, measured in _compare(
            original, candidate, portion, names, feeds, runtime, tolerance, observe
        ):
            node = nodes[name]
            found[name] = dataclasses.replace(
                measured, op_type=node.op_type, node=node.name or ""
            )
        advance(len(portion))
    return _with_added_noise([found[name] for name in names], graph)


def worst(layers: Sequence[Layer], count: int) -> list[Layer]:
    """Return the ``count`` layers that add most noise, the worst first."""
    guilty = [layer for layer in layers if layer.added_noise > 0]
    return sorted(guilty, key=lambda layer: -layer.added_noise)[:count]


def _sizes(graph: ir.Graph, feeds: Sequence[Feed], budget: int) -> dict[str, int]:
    """Return about how many bytes each tensor takes; a part of the budget where unknown."""
    symbols: dict[str, int] = {}
    for value in graph.inputs:
        for feed in feeds:
            array = feed.get(value.name or "")
            if array is None or value.shape is None or len(value.shape) != array.ndim:
                continue
            for dim, size in zip(value.shape, array.shape, strict=True):
                if isinstance(dim, ir.SymbolicDim) and dim.value:
                    symbols[dim.value] = max(size, symbols.get(dim.value, 0))
    sizes = {}
    for node in graph:
        for value in node.outputs:
            size = value.dtype.itemsize if value.dtype is not None else 4.0
            known = value.shape is not None
            for dim in value.shape if value.shape is not None else ():
                length = dim if isinstance(dim, int) else symbols.get(dim.value or "")
                known = known and length is not None
                size *= 1 if length is None else length
            sizes[value.name or ""] = math.ceil(size if known else max(size, budget / 16))
    return sizes


def _portions(
    names: Sequence[str], sizes: Mapping[str, int], budget: int
) -> Iterator[list[str]]:
    portion: list[str] = []
    used = 0
    for name in names:
        if portion and used + sizes[name] > budget:
            yield portion
            portion, used = [], 0
        portion.append(name)
        used += sizes[name]
    if portion:
        yield portion


def _compare(
    original: Model,
    candidate: Model,
    portion: Sequence[str],
    names: Mapping[str, str],
    feeds: Sequence[Feed],
    runtime: Runtime,
    tolerance: Tolerance,
    observe: Observe,
) -> Iterator[tuple[str, Layer]]:
    """Yield the layers of one portion; halve it where onnxruntime refuses it."""
    meters = {name: _Meter(tolerance) for name in portion}
    there = list(dict.fromkeys(names[name] for name in portion))
    # One after the other, so that only one model is in memory; what the first computed waits
    # on the disk.
    with tempfile.TemporaryFile(prefix="graphopt-") as waiting:
        try:
            with runtime.session(original, list(portion), optimize=False) as session:
                for feed in feeds:
                    want = session.run(feed)
                    for name in portion:
                        pickle.dump(want.pop(name), waiting, protocol=5)
            waiting.seek(0)
            with runtime.session(candidate, there, optimize=False) as session:
                for index, feed in enumerate(feeds):
                    got = session.run(feed)
                    for name, meter in meters.items():
                        one, other = pickle.load(waiting), got[names[name]]
                        meter.add(index, one, other)
                        observe(name, one, other)
                    del got  # before the next ones come
        except ExecutionError as error:
            if len(portion) == 1:
                (name,) = portion
                yield name, Layer(name, names[name], "", "", fault=error.message)
                return
            middle = len(portion) // 2
            for half in (portion[:middle], portion[middle:]):
                yield from _compare(
                    original, candidate, half, names, feeds, runtime, tolerance, observe
                )
            return
    for name, meter in meters.items():
        yield name, meter.layer(name, names[name])


class _Meter:
    """The difference and the ranges of one tensor."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._meter = DifferenceMeter(tolerance)
        self._ranges: list[tuple[float, float] | None] = [None, None]
        self._not_finite = [0, 0]
        self._fault = ""

    def add(self, sample: int, want: object, got: object) -> None:
        if not (isinstance(want, np.ndarray) and isinstance(got, np.ndarray)):
            self._fault = "it is no tensor"
        elif want.shape != got.shape:
            self._fault = f"its shape is {list(got.shape)} and was {list(want.shape)}"
        elif want.dtype != got.dtype:
            self._fault = f"its type is {got.dtype} and was {want.dtype}"
        if self._fault:
            return
        assert isinstance(want, np.ndarray)
        assert isinstance(got, np.ndarray)
        self._meter.add(sample, want, got)
        for at, array in enumerate((want, got)):
            finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
            self._not_finite[at] += array.size - finite.size
            if finite.size and array.dtype.kind in "fiub":
                low, high = float(finite.min()), float(finite.max())
                old = self._ranges[at] or (low, high)
                self._ranges[at] = (min(low, old[0]), max(high, old[1]))

    def layer(self, name: str, candidate_name: str) -> Layer:
        if self._fault:
            return Layer(name, candidate_name, "", "", fault=self._fault)
        left, right = self._ranges
        return Layer(
            name,
            candidate_name,
            "",
            "",
            self._meter.result(),
            range=left,
            candidate_range=right,
            not_finite=self._not_finite[0],
            candidate_not_finite=self._not_finite[1],
        )


def _with_added_noise(layers: Sequence[Layer], graph: ir.Graph) -> list[Layer]:
    """Fill in ``added_noise``: noise at the output less the largest noise at an input.

    A tensor that was not measured carries on the noise of what it is computed from.
    """
    measured = {layer.name: layer for layer in layers}
    carried: dict[str, float] = {}
    added: dict[str, float] = {}
    for node in graph:
        names = [value.name or "" for value in node.inputs if value is not None]
        incoming = max((carried.get(name, 0.0) for name in names), default=0.0)
        for value in node.outputs:
            name = value.name or ""
            layer = measured.get(name)
            if layer is None or layer.difference is None:
                carried[name] = incoming
                continue
            lost = layer.difference.lost > 0
            carried[name] = math.inf if lost else layer.noise
            added[name] = 0.0 if carried[name] <= incoming else carried[name] - incoming
    return [
        dataclasses.replace(layer, added_noise=added.get(layer.name, 0.0)) for layer in layers
    ]

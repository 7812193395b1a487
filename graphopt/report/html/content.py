"""What the report says, as plain values that ``collect`` gathers and ``render`` writes."""

from __future__ import annotations

import dataclasses
from typing import Any

from graphopt.report.skips import SkipRow

from .graph_rows import GraphContent

__all__ = [
    "Bins",
    "Card",
    "Content",
    "Fact",
    "InputRow",
    "LayerRow",
    "OutputRow",
    "RewriteRow",
    "SampleRow",
    "SearchPoint",
    "StepPart",
    "StepRow",
]


@dataclasses.dataclass(frozen=True)
class Card:
    """One figure of the summary.

    Attributes:
        label: What it is.
        value: The figure of the result, with its unit.
        before: That of the original; empty where there is none to compare with.
        change: The difference in words; empty where there is none.
        verdict: ``good``, ``bad`` or empty: how the change is to be taken.
    """

    label: str
    value: str
    before: str = ""
    change: str = ""
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class StepPart:
    """What one of several passes that run in turn did: rewrites, nodes added less removed."""

    label: str
    rewrites: int
    nodes_delta: int


@dataclasses.dataclass(frozen=True)
class StepRow:
    """One pass of the pipeline.

    Attributes:
        label: What it is called.
        summary: What it did, in words; why, where it was left out.
        text: Its text, as in a pipeline.
        left_out: Whether it was taken back because it did not pay.
        rewrites: How many of its rewrites stand; the first it made has the number ``first``.
        first: See ``rewrites``.
        nodes, weight_bytes: What the model had after it.
        nodes_delta, bytes_delta: What it added or (negative) removed.
        latency_ratio: Latency after it over the original's; ``None``: not measured.
        wall_s: Seconds it took.
        parts: Of passes that run in turn: those that made rewrites, and what of it is theirs
            (the bytes are not told apart: what one replaces, another sweeps up).
    """

    label: str
    summary: str
    text: str = ""
    left_out: bool = False
    rewrites: int = 0
    first: int = 0
    nodes: int = 0
    weight_bytes: int = 0
    nodes_delta: int = 0
    bytes_delta: int = 0
    latency_ratio: float | None = None
    wall_s: float = 0.0
    parts: tuple[StepPart, ...] = ()


@dataclasses.dataclass(frozen=True)
class SearchPoint:
    """One choice that a search looked at.

    Attributes:
        name: The choice in words.
        quality: By the metric, on samples that were held out.
        proven: What of that the number of samples shows.
        speedup: How many times faster than the original; ``None``: not measured.
        size_bytes: Size of its weights.
        is_best: Whether it was taken.
        on_front: Whether no other that was measured beats it in quality, speed and size.
    """

    name: str
    quality: float
    proven: float
    speedup: float | None
    size_bytes: int
    is_best: bool
    on_front: bool


@dataclasses.dataclass(frozen=True)
class OutputRow:
    """One output of both models, compared."""

    name: str
    dtype: str
    max_abs: float
    max_rel: float
    cosine: float | None
    sqnr_db: float | None
    top1: float | None
    worst_sample: int | None
    passed: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class InputRow:
    """One input of a sample: type and shape, its first values, or a picture (a data URI)."""

    name: str
    type: str
    values: str
    picture: str


@dataclasses.dataclass(frozen=True)
class SampleRow:
    """One of the samples with the largest errors.

    Attributes:
        index: Its place in the samples, from 0.
        output: The output that is furthest off.
        error: Its largest absolute error; ``None``: an element is finite in one model only.
        inputs: What went in.
    """

    index: int
    output: str
    error: float | None
    inputs: tuple[InputRow, ...]


@dataclasses.dataclass(frozen=True)
class Bins:
    """How many values lie where, in bins of equal width.

    Attributes:
        low, high: Ends of the first and of the last bin.
        counts: One number a bin.
        smallest, largest: The extreme values.
        zeros: Share of the values that are 0.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    smallest: float
    largest: float
    zeros: float


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One operator with a weight, in the original and in the result.

    Attributes:
        name: Name of the node, else of its first output.
        op_type: Its operator.
        weight: Name of its weight.
        shape, shape_after: Shape of the weight.
        precision: Element type of the weight in the result; empty where it is gone.
        error_db: Signal-to-noise ratio of its output in the result; ``None``: not measured.
            Infinite ones are given as ``EQUAL_DB``.
        added: Noise that this layer adds: energy over that of its output; ``None`` as before.
        sensitivity_db: Signal-to-noise ratio of its product in integer, as a search estimated
            it; ``None`` without one.
        kept, channels: Output channels after and before; ``None``: not known.
        macs, macs_after: Multiply-accumulate operations on the first sample.
        size_bytes, size_after: Bytes of the weight.
        reason: Why it was left as it was; empty where it was not.
        rewrites: Numbers of the rewrites that touched it.
        weights, weights_after: Distribution of the weight.
        outputs, outputs_after: Distribution of what it computes.
        fault: Why ``error_db`` could not be measured.
        place: Nodes and attributes that lead to the subgraph it is in, e.g. ``"loop.body"``;
            empty for the main graph.
    """

    name: str
    op_type: str
    weight: str
    shape: tuple[int, ...]
    shape_after: tuple[int, ...] | None
    precision: str
    error_db: float | None
    added: float | None
    sensitivity_db: float | None
    kept: int | None
    channels: int | None
    macs: int | None
    macs_after: int | None
    size_bytes: int
    size_after: int
    reason: str
    rewrites: tuple[int, ...]
    weights: Bins | None = None
    weights_after: Bins | None = None
    outputs: Bins | None = None
    outputs_after: Bins | None = None
    fault: str = ""
    place: str = ""


@dataclasses.dataclass(frozen=True)
class RewriteRow:
    """One rewrite of the ledger; ``removed``, ``added`` and ``changed`` name nodes."""

    number: int
    pass_name: str
    rule: str
    anchor: str
    note: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    bytes_delta: int
    undone: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """A line about the run."""

    label: str
    text: str
    code: bool = False


@dataclasses.dataclass(frozen=True)
class Content:
    """The whole report."""

    title: str
    judged: str
    verdict: str
    notes: tuple[str, ...]
    cards: tuple[Card, ...]
    start: StepRow
    steps: tuple[StepRow, ...]
    search: tuple[SearchPoint, ...]
    search_about: dict[str, Any]
    outputs: tuple[OutputRow, ...]
    samples: tuple[SampleRow, ...]
    layers: tuple[LayerRow, ...]
    before: GraphContent
    after: GraphContent
    rewrites: tuple[RewriteRow, ...]
    skips: tuple[SkipRow, ...]
    facts: tuple[Fact, ...]

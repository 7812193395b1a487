"""Rules of normalizations: what is scaled by itself, and what is measured together."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.analysis.coupling.dense import align
from graphopt.analysis.coupling.rules import Axis, Op, rule

__all__: list[str] = []


@rule("BatchNormalization")
def batch_normalization(op: Op) -> None:
    """X.1 = scale = B = mean = var; every channel by itself."""
    x = op.axes(0)
    if op.attr("training_mode"):
        op.refuse("it is in training mode")
    if len(x) > 1:
        for index in range(1, 5):
            op.unify(op.axes(index)[0], x[1])
    op.output(x)


@rule("InstanceNormalization")
def instance_normalization(op: Op) -> None:
    """X.1 = scale = B; a channel is normalized over its positions."""
    x = op.axes(0)
    for index in (1, 2):
        op.unify(op.axes(index)[0], x[1])
    measured(op, x[2:])
    op.output(x)


@rule("GroupNormalization")
def group_normalization(op: Op) -> None:
    """X.1 = ``[groups, width]``: whole groups go; within one the statistics change."""
    x, groups = op.axes(0), op.attr_int("num_groups", 1)
    if x[1].size is None or x[1].size % groups:
        op.refuse("its channels do not divide into its groups")
    blocks, width = op.split(x[1], [groups, x[1].size // groups])
    for index in (1, 2):
        scale = op.axes(index)[0]
        # One scale a group before opset 21, one a channel since.
        op.unify(scale, blocks if scale.size == groups and op.opset < 21 else x[1])
    measured(op, [width, *x[2:]])
    op.count("num_groups", blocks)
    op.output(x)


def measured(op: Op, axes: Iterable[Axis]) -> None:
    """Say that statistics are taken over ``axes``."""
    for axis in axes:
        op.statistics(axis, "takes statistics over it")


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(op: Op) -> None:
    """Axes from ``axis`` on are measured together; scale and bias are aligned with them."""
    x = op.axes(0)
    first = op.axis(op.attr_int("axis", -1), len(x))
    measured(op, x[first:])
    for index in (1, 2):
        if op.has(index):
            align(op, x, op.axes(index))
    op.output(x)
    reduced = [*x[:first], *(op.frozen(1, "") for _ in x[first:])]
    for index in range(1, len(op.node.outputs)):
        op.output(reduced, index)


@rule(
    "com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization"
)
def skip_layer_normalization(op: Op) -> None:
    """Input + skip (+ bias), then LayerNormalization over the last axis."""
    x = op.axes(0)
    for index in range(1, len(op.node.inputs)):
        if op.has(index):
            align(op, x, op.axes(index))
    measured(op, x[-1:])
    op.output(x)
    op.output(x, 3)
    for index in (1, 2):
        if index < len(op.node.outputs) and op.node.outputs[index].name:
            op.output([*x[:-1], op.frozen(1, "")], index)


@rule("com.microsoft::EmbedLayerNormalization")
def embed_layer_normalization(op: Op) -> None:
    """Word + position (+ segment) embedding, then LayerNormalization."""
    if not op.has(2):
        op.refuse("it has no table of words")
    ids, words = op.axes(0), op.axes(2)
    op.whole(words[:1], "looks up positions in it")
    for index in (3, 4):
        if op.has(index):
            table = op.axes(index)
            op.whole(table[:1], "looks up positions in it")
            op.unify(table[1], words[1])
    for index in (5, 6):
        op.unify(op.axes(index)[0], words[1])
    measured(op, words[1:])
    op.output([*ids, words[1]])
    if len(op.node.outputs) > 1:
        op.output(ids[:1], 1)
    op.output([*ids, words[1]], 2)


@rule("LRN")
def local_response(op: Op) -> None:
    """Neighbouring channels are measured together."""
    x = op.axes(0)
    op.whole(x[1:2], "compares neighbours along it")
    op.output(x)


@rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def softmax(op: Op) -> None:
    """The normalized axis is needed whole; before opset 13 that is everything from it on."""
    x = op.axes(0)
    old = op.opset < 13 and op.node.op_type != "LpNormalization"
    axis = op.axis(op.attr_int("axis", 1 if old else -1), len(x))
    op.whole(x[axis:] if old else [x[axis]], "normalizes over it")
    op.output(x)


@rule("MeanVarianceNormalization")
def mean_variance(op: Op) -> None:
    """The axes of the attribute are measured together."""
    x = op.axes(0)
    axes = op.attr("axes", [0, 2, 3])
    measured(op, [x[op.axis(axis, len(x))] for axis in axes])
    op.output(x)

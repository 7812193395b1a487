"""Rules of operators on sequences of tensors, as ``SplitToSequence`` makes them.

A sequence is followed as the list of the axes of its tensors while its length is fixed.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.coupling.cut import Cut
from graphopt.analysis.coupling.rules import Op, rule

__all__: list[str] = []


@rule("SplitToSequence")
def split_to_sequence(op: Op) -> None:
    """The tensors are pieces of the axis; their sizes are kept right."""
    x = op.axes(0)
    axis = op.axis(op.attr_int("axis", 0), len(x))
    size = x[axis].size
    if size is None or not op.has(1):
        op.refuse("how it divides an axis is not known")
    numbers = op.numbers(1)
    given = op.integers(1)
    if numbers is not None and numbers.ndim == 0:
        step = given[0]
        given = [min(step, size - start) for start in range(0, size, step)]
    if sum(given) != size:
        op.refuse(f"its parts {given} do not make up {size}")
    ends = np.cumsum(given).tolist()
    parts = [
        op.part(x[axis], slice(end - length, end))
        for end, length in zip(ends, given, strict=True)
    ]
    op.coupling.sequences[op.node.outputs[0]] = [
        (*x[:axis], part, *x[axis + 1 :]) for part in parts
    ]

    def set_sizes(cut: Cut) -> None:
        cut.set_vector(1, [cut.length(part) for part in parts], np.dtype(np.int64))

    op.coupling.shape_inputs.add((op.node, 1))
    op.fix(parts, set_sizes)


@rule("SequenceConstruct")
def sequence_construct(op: Op) -> None:
    """The tensors are the inputs."""
    tensors = [op.axes(index) for index in range(len(op.node.inputs))]
    op.coupling.sequences[op.node.outputs[0]] = tensors


@rule("SequenceAt")
def sequence_at(op: Op) -> None:
    """One tensor of the sequence; which one must be fixed."""
    tensors = op.coupling.sequences.get(op.value(0))
    if tensors is None:
        op.refuse("what the sequence holds is not known")
    op.ignore(0)
    (position,) = op.integers(1)
    if not -len(tensors) <= position < len(tensors):
        op.refuse(f"the sequence has no tensor {position}")
    op.output(tensors[position])


@rule("ConcatFromSequence")
def concat_from_sequence(op: Op) -> None:
    """The tensors are laid end to end."""
    tensors = op.coupling.sequences.get(op.value(0))
    if tensors is None or op.attr_int("new_axis", 0):
        op.refuse("what the sequence holds is not known")
    op.ignore(0)
    axis = op.axis(op.attr_int("axis", 0), len(tensors[0]))
    out = list(tensors[0])
    for other in tensors[1:]:
        for index, of_other in enumerate(other):
            if index != axis:
                op.unify(out[index], of_other)
    parts = [axes[axis] for axes in tensors]
    if any(part.size is None for part in parts):
        op.whole(parts, "puts it beside an axis of unknown length")
        dims = op.dims()
        out[axis] = op.frozen(dims[axis] if dims is not None else None, "is concatenated")
    else:
        out[axis] = op.concatenate(parts)
    op.output(out)


@rule("SequenceLength")
def sequence_length(op: Op) -> None:
    """A number."""
    op.ignore(0)
    op.output([])

"""The analysis of a whole model: every node's rule in graph order, then the interface.

One forward pass is enough: a rule derives the axes of the outputs from those of the inputs,
and what becomes the same or divided later becomes so everywhere (see ``cells``).
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.cost import macs_of
from graphopt.analysis.coupling.cells import Cells
from graphopt.analysis.coupling.following import LIMIT, follow
from graphopt.analysis.coupling.numbers import Number, Numbers, constants
from graphopt.analysis.coupling.rules import ONE, Axis, Fix, Op, Refusal, find_rule, label
from graphopt.analysis.dims import Dims, dims_of, infer
from graphopt.analysis.facts import tensor_of

__all__ = ["Coupling", "Site", "analyse"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Site:
    """A constant at the places where its axes are the same.

    Attributes:
        value: The constant.
        tensor: Its data in the model as it was analysed.
        axes: Its axes.
        uses: Node and input index of every use with these axes.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    axes: tuple[Axis, ...]
    uses: list[tuple[ir.Node, int]] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the constant."""
        return self.value.name or ""


class Coupling:
    """Which indices of which axes live or die together, in one model.

    Attributes:
        model: The model; not changed by the analysis.
        cells: The atoms.
        sites: Every constant that a rule looked at.
        fixes: What else must change at a node when an axis becomes shorter.
        layers: Every node with a constant weight, and the axes of the weight.
        contractions: Every sum over an axis: the node, and its inputs with that axis.
        mixed: Axes whose indices a node combines other than in a recorded sum.
        costs: Multiplications: the node, a factor, the axes whose lengths are multiplied. What
            is open counts as 1, until ``count_run``.
        statistics: Axes where removing an index changes the others, and what does it.
        refused: Why nothing is known about a node.
    """

    def __init__(self, model: ir.Model, untie: bool = True) -> None:
        self.model = model
        self.untie = untie
        self.cells = Cells()
        self.sites: list[Site] = []
        self.fixes: list[Fix] = []
        self.layers: list[tuple[ir.Node, tuple[Axis, ...] | None]] = []
        self.contractions: list[tuple[ir.Node, tuple[tuple[int, Axis], ...]]] = []
        self.mixed: list[Axis] = []
        self.costs: list[tuple[ir.Node, int, tuple[Axis, ...]]] = []
        self.statistics: list[tuple[Axis, str]] = []
        self.refused: list[tuple[ir.Node, str]] = []
        self.shape_inputs: set[tuple[ir.Node, int]] = set()
        self.axes: dict[ir.Value, tuple[Axis, ...]] = {}
        # Sequence -> the axes of each of its tensors, while they are followed.
        self.sequences: dict[ir.Value, list[tuple[Axis, ...]]] = {}
        self._sites: dict[tuple[object, ...], Site] = {}
        self._numbers: dict[ir.Value, Numbers | None] = {}
        self._used_numbers: dict[tuple[ir.Node, int], Numbers] = {}
        self._fixed: set[ir.Value] = set()
        self._inferred = infer(model)
        self._run(model.graph, "graph")

    def count_run(self, shape_of: Mapping[ir.Value, ir.Shape | None]) -> None:
        """Let ``costs`` be those of the run whose shapes are ``shape_of``.

        Before, what is open counts as 1: a convolution over half an image as much as one over
        a single position.
        """
        whole: collections.Counter[ir.Node] = collections.Counter()
        for node, times, axes in self.costs:
            lengths = (len(axis.rows) for axis in axes if axis.rows is not None)
            whole[node] += times * math.prod(lengths)
        for index, (node, times, axes) in enumerate(self.costs):
            macs = macs_of(node, {}, shape_of)
            if macs and whole[node]:
                self.costs[index] = (node, max(1, round(times * macs / whole[node])), axes)

    # For the rules.

    def dims_of(self, value: ir.Value) -> Dims | None:
        """Return the inferred dimensions of ``value``; ``None`` where the rank is unknown."""
        found = self._inferred.dims.get(value.name or "")
        return dims_of(value) if found is None else found

    def kind_of(self, value: ir.Value) -> ir.DataType | None:
        """Return the element type of ``value``; ``None`` where it is unknown."""
        return value.dtype or self._inferred.kinds.get(value.name or "")

    def is_constant(self, value: ir.Value) -> bool:
        """Whether ``value`` is a constant."""
        return value not in self.axes and tensor_of(value) is not None

    def is_fixed(self, value: ir.Value) -> bool:
        """Whether ``value`` is a constant or computed from constants alone."""
        return value in self._fixed or self.is_constant(value)

    def axes_of(self, node: ir.Node, index: int) -> tuple[Axis, ...] | None:
        """Return the axes of an input of ``node``; ``None`` where its rank is unknown."""
        value = node.inputs[index]
        assert value is not None, "only a given input has axes"
        axes = self.axes.get(value)
        if axes is not None:
            return axes
        tensor = tensor_of(value)
        if tensor is not None:
            return self._site(value, tensor, node, index).axes
        return None

    def constant(self, value: ir.Value) -> np.ndarray:
        """Return the data of a constant."""
        tensor = tensor_of(value)
        assert tensor is not None, "only a constant has data"
        return tensor.numpy()

    def numbers_of(self, value: ir.Value) -> Numbers | None:
        """Return the elements of a small tensor that is followed; see ``numbers``."""
        if value not in self._numbers:
            tensor = tensor_of(value)
            small = tensor is not None and tensor.size <= LIMIT
            numeric = small and tensor is not None and tensor.dtype != ir.DataType.STRING
            self._numbers[value] = (
                constants(tensor.numpy()) if numeric and tensor is not None else None
            )
        return self._numbers[value]

    def numbers_of_use(self, node: ir.Node, index: int) -> Numbers | None:
        """Return the elements that input ``index`` of ``node`` had when it was analysed."""
        return self._used_numbers.get((node, index))

    def set_axes(self, value: ir.Value, axes: Sequence[Axis]) -> None:
        """Give the axes of an output; they must fit what shape inference found."""
        dims = self.dims_of(value)
        if dims is not None and len(dims) != len(axes):
            raise Refusal(f"{value.name!r} has rank {len(dims)}, expected {len(axes)}")
        for axis, dim in zip(axes, dims or (), strict=False):
            if isinstance(dim, int) and axis.size is not None and dim != axis.size:
                raise Refusal(f"{value.name!r} has shape {dims}, expected length {axis.size}")
        self.axes[value] = tuple(axes)

    def _site(
        self, value: ir.Value, tensor: ir.TensorProtocol, node: ir.Node, index: int
    ) -> Site:
        shape = [int(dim) for dim in tensor.shape.numpy()]
        # A vector that several layers share (equal zero biases, usually) costs next to nothing
        # to store once for each of them; a matrix that is shared is shared on purpose.
        alone = self.untie and sum(dim > 1 for dim in shape) <= 1
        key = (value, node, index) if alone else (value,)
        site = self._sites.get(key)
        if site is None:
            axes = tuple(ONE if dim == 1 else Axis(self.cells.fresh(dim)) for dim in shape)
            site = self._sites[key] = Site(value, tensor, axes)
            self.sites.append(site)
            if value.is_graph_output():
                self._freeze(axes, f"graph output {value.name!r}")
            if tensor.dtype == ir.DataType.INT64 and tensor.size <= LIMIT:
                self._freeze(axes, f"{value.name!r} holds positions or lengths")
        if (node, index) not in site.uses:
            site.uses.append((node, index))
        return site

    # The pass over the graph.

    def _run(self, graph: ir.Graph, kind: str, whole: bool = True) -> None:
        """Visit the nodes of a graph; ``whole``: its outputs are needed whole.

        A subgraph may use values from outside, as they are: they are the same in there.
        """
        for value in graph.inputs:
            self.axes[value] = self._fixed_axes(value, f"{kind} input {value.name!r}")
        for node in graph:
            self._visit(node)
        for value in graph.outputs if whole else ():
            tensors = (
                [self.axes[value]] if value in self.axes else self.sequences.get(value, [])
            )
            for axes in tensors:
                self._freeze(axes, f"{kind} output {value.name!r}")

    def _visit(self, node: ir.Node) -> None:
        if node.op_type == "Constant" and not node.domain:
            return
        given = [value for value in node.inputs if value is not None]
        if given and all(self.is_fixed(value) for value in given):
            self._fixed.update(node.outputs)
        for graph in _subgraphs(node):
            self._run(graph, f"{label(node)} subgraph", whole=node.op_type != "If")
        found = find_rule(node)
        op = Op(self, node)
        try:
            if found is None:
                op.refuse("there is no rule for this operator")
            found(op)
            self._freeze_unseen(op)
        except Refusal as refusal:
            self._refuse(node, str(refusal))
        self._follow(node)
        for value in node.outputs:
            if value not in self.axes:
                reason = f"the rule of {label(node)} says nothing about it"
                self._give_fixed(value, reason)

    def _freeze_unseen(self, op: Op) -> None:
        """Freeze the inputs that the rule did not look at: indices, sizes, conditions ..."""
        for index, value in enumerate(op.node.inputs):
            if value is None or index in op.seen:
                continue
            tensors = (
                [self.axes[value]] if value in self.axes else self.sequences.get(value, [])
            )
            for axes in tensors:
                self._freeze(axes, f"{op.label} reads its input {index}")

    def _refuse(self, node: ir.Node, reason: str) -> None:
        """Freeze everything at ``node``."""
        reason = f"{label(node)}: {reason}"
        logger.debug("%s", reason)
        self.refused.append((node, reason))
        for index, value in enumerate(node.inputs):
            axes = None if value is None else self.axes_of(node, index)
            if axes is not None:
                self._freeze(axes, reason)
            elif value is not None:
                self._freeze_value(value, reason)
        for value in node.outputs:
            self.axes.pop(value, None)
            self.sequences.pop(value, None)
            self._give_fixed(value, reason)

    def _give_fixed(self, value: ir.Value, reason: str) -> None:
        if self.dims_of(value) is not None:
            self.axes[value] = self._fixed_axes(value, reason)

    def _fixed_axes(self, value: ir.Value, reason: str) -> tuple[Axis, ...]:
        axes = []
        for dim in self.dims_of(value) or ():
            if isinstance(dim, int):
                axes.append(ONE if dim == 1 else Axis(self.cells.frozen(dim, reason)))
            else:
                axes.append(Axis(symbol=dim if dim is not None else object()))
        return tuple(axes)

    def _freeze_value(self, value: ir.Value, reason: str) -> None:
        """Freeze all axes of a computed tensor, or of all tensors of a sequence."""
        for axes in [self.axes.get(value, ()), *self.sequences.get(value, ())]:
            self._freeze(axes, reason)

    def _freeze(self, axes: Sequence[Axis], reason: str) -> None:
        for axis in axes:
            if axis.rows is not None and axis.size != 1:
                self.cells.freeze(axis.rows, reason)

    def _follow(self, node: ir.Node) -> None:
        """Follow the integers of ``node``; guard those that leave the arithmetic of shapes."""
        inputs = [None if value is None else self.numbers_of(value) for value in node.inputs]
        for index, numbers in enumerate(inputs):
            if numbers is not None:
                self._used_numbers[node, index] = numbers
        result = None
        if len(node.outputs) == 1:
            lengths = self._lengths(node) if node.op_type in ("Shape", "Size") else None
            result = follow(node, inputs, lengths)
            self._numbers[node.outputs[0]] = result
        if result is not None:
            return
        for index, numbers in enumerate(inputs):
            if numbers is not None and (node, index) not in self.shape_inputs:
                self._keep_value(node, index, numbers)

    def _lengths(self, node: ir.Node) -> list[Number] | None:
        """Return the lengths of the first input of ``node``."""
        axes = self.axes_of(node, 0)
        if axes is None:
            return None
        return [
            Number.of_axis(
                axis, axis.rows is not None and not self.cells.is_frozen(axis.rows).all()
            )
            for axis in axes
        ]

    def _keep_value(self, node: ir.Node, index: int, numbers: Numbers) -> None:
        """A length that is used as a number keeps its value when the axis is cut."""
        axes: dict[Axis, None] = {}
        for number in numbers.reshape(-1):
            if number.value is None:
                what = f"{label(node)} computes with its length and an unknown one"
                self._freeze(tuple(number.axes), what)
            else:
                axes.update(dict.fromkeys(number.axes))
        if axes:
            self.fixes.append(Fix(node, tuple(axes), lambda cut: cut.keep_value(index)))


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()


def analyse(model: ir.Model, untie: bool = True) -> Coupling:
    """Analyse ``model``.

    Args:
        model: Any valid model; it is not changed.
        untie: Let every use of a shared *vector* be cut by itself; matrices stay tied.
    """
    # Unused: the rules register themselves when their module is imported.
    from graphopt.analysis.coupling import families  # noqa: F401

    return Coupling(model, untie)

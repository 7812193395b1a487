"""Lets operators compute with float16, one by one.

Each is given float16 inputs and gives float16 outputs, with a Cast behind for what still wants
float32. Where the next operator takes float16 too it reads the value before that Cast, which
goes when nothing is left that reads it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.analysis.facts import tensor_of
from graphopt.calibration.collect import collect
from graphopt.edit import Edit
from graphopt.passbase import Context, Pass, PassResult
from graphopt.rewrite import Reason

from .float16_values import LARGEST, round_to_half
from .selection import Selection
from .weights import WeightStore, drop_unused, owner_node

__all__ = ["Float16Operators"]

logger = logging.getLogger(__name__)

MARGIN = 2.0
"""How much larger than on the samples an activation may become elsewhere."""

_NEEDS_FLOAT32 = frozenset({
    "BatchNormalization", "BitCast", "Cast", "CumSum", "DequantizeLinear",
    "DynamicQuantizeLinear", "Exp", "Log", "LogSoftmax", "LpPool", "NonMaxSuppression",
    "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Resize",
    "Scatter", "ScatterElements", "ScatterND", "Softplus", "Sqrt", "TopK",
})  # fmt: skip
"""Powers, logarithms and long sums leave the range of float16; a Cast may carry integers that
float16 rounds; the quantizers and the others have no float16 kernel on CPUs (onnxruntime 1.31,
the node tests of the onnx package)."""


@dataclasses.dataclass(frozen=True)
class _Operator:
    """An operator that can compute with float16: indices of its inputs and outputs that do."""

    node: ir.Node
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Float16Operators:
    """Converts the operators of a main graph.

    Args:
        pass_: The pass, for its name.
        selection: Which operators may be converted.
        model: Edited in place.
        context: Gives the ledger, and the samples for precondition 6.
    """

    def __init__(
        self, pass_: Pass, selection: Selection, model: ir.Model, context: Context
    ) -> None:
        self._name = pass_.name
        self._selection = selection
        self._model = model
        self._context = context
        self._rewriter = context.rewriter(model, pass_)
        self._store = WeightStore()
        # float32 value -> the float16 value it is a Cast of, or that is a Cast of it
        self._halves: dict[ir.Value, ir.Value] = {}

    def run(self) -> PassResult:
        """Convert all that can be."""
        opset = self._model.opset_imports.get("", 0)
        found = [(node, self._read(node, opset)) for node in self._model.graph]
        operators = [one for _, one in found if isinstance(one, _Operator)]
        peaks = self._peaks(operators)
        count = total = 0
        for node, operator in found:
            if operator is None:
                continue
            total += 1
            if isinstance(operator, _Operator):
                operator = self._overflow(operator, peaks) or operator
            if isinstance(operator, Reason):
                self._rewriter.skip(self._name, node, operator.text)
                continue
            rewrite = functools.partial(self._convert, operator=operator)
            count += self._rewriter.apply(self._name, node, rewrite) is not None
        summary = f"{count} of {total} operators compute with float16"
        logger.info("%s: %s", self._name, summary)
        return PassResult(self._model, count > 0, summary)

    def _read(self, node: ir.Node, opset: int) -> _Operator | Reason | None:
        """Return how ``node`` computes with float16, why not, or ``None`` without floats."""
        if not any(v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs):
            return None
        # 1.
        if refusal := self._selection.refusal(node):
            return Reason(refusal)
        # 3.
        if node.op_type in _NEEDS_FLOAT32:
            return Reason("it needs float32")
        if any(a.type in _GRAPHS for a in node.attributes.values()):
            return Reason("it holds a subgraph")
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain or "")
        except onnx.defs.SchemaError:
            return Reason("it is not an operator of the ONNX standard")
        allowed = {
            one.type_param_str: "tensor(float16)" in one.allowed_type_strs
            for one in schema.type_constraints
        }
        ends: list[list[int]] = []
        for values, formal in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
            ends.append([])
            for index, value in enumerate(values):
                kind = formal[min(index, len(formal) - 1)].type_str
                if value is None or (value.dtype is not None and kind not in allowed):
                    continue
                if value.dtype is None:
                    return Reason(f"the type of {value.name!r} is not known")
                if value.dtype == ir.DataType.FLOAT:
                    if not allowed[kind]:
                        return Reason("its definition does not allow float16")
                    ends[-1].append(index)
        # 4. and 5.
        for index in ends[0]:
            value = node.inputs[index]
            tensor = tensor_of(value)
            if value is not None and tensor is not None and tensor.size:
                half = round_to_half(np.asarray(tensor.numpy()))
                if isinstance(half, Reason):
                    return Reason(f"constant {value.name!r}: {half.text}")
        return _Operator(node, tuple(ends[0]), tuple(ends[1]))

    def _peaks(self, operators: list[_Operator]) -> Mapping[str, float]:
        """Return the largest magnitude of each activation on the samples, if there are any."""
        samples = self._context.samples
        if samples is None or not operators:
            return {}
        names = {
            value.name or ""
            for one in operators
            for value in _values(one)
            if tensor_of(value) is None
        }
        found = collect(self._model, sorted(names), samples, self._context)
        return {
            name: np.inf if stats.not_finite else max(-stats.low, stats.high)
            for name, stats in found.items()
        }

    def _overflow(self, operator: _Operator, peaks: Mapping[str, float]) -> Reason | None:
        # 6.
        for value in _values(operator):
            if (peak := peaks.get(value.name or "", 0.0)) * MARGIN > LARGEST:
                return Reason(f"{value.name!r} reaches {peak:g}: near 65504 or beyond")
        return None

    def _convert(self, edit: Edit, operator: _Operator) -> None:
        node = operator.node
        for index in operator.inputs:
            value = node.inputs[index]
            assert value is not None
            edit.set_input(node, index, self._half(edit, node, value))
            cast = value.producer()
            if cast is not None and self._halves.get(value) in cast.inputs:
                if not value.uses() and not value.is_graph_output():
                    edit.remove(cast)
            elif tensor_of(value) is not None:
                drop_unused(edit, value)
        for index in operator.outputs:
            value = node.outputs[index]
            if not (value.uses() or value.is_graph_output()):
                edit.set_type(value, ir.TensorType(ir.DataType.FLOAT16), value.shape)
                continue
            full = self._cast(edit, value, ir.DataType.FLOAT, node)
            edit.replace(value, full)
            edit.set_type(value, ir.TensorType(ir.DataType.FLOAT16), value.shape)
            self._halves[full] = value
        edit.note(f"{node.op_type} computes with float16")

    def _half(self, edit: Edit, node: ir.Node, value: ir.Value) -> ir.Value:
        """Return ``value`` as float16."""
        tensor = tensor_of(value)
        if tensor is not None:
            data = tensor.numpy()
            return self._store.constant(
                edit, value, ("half",), f"{value.name}_half", lambda: data.astype(np.float16)
            )
        known = self._halves.get(value)
        # An application that was taken back has taken its nodes along.
        if known is None or known.graph is None:
            known = self._cast(edit, value, ir.DataType.FLOAT16, value.producer())
            self._halves[value] = known
        return known

    def _cast(
        self, edit: Edit, value: ir.Value, to: ir.DataType, behind: ir.Node | None
    ) -> ir.Value:
        name = f"{value.name}_to_{to.name.lower()}"
        before = owner_node(value) if behind is None else None
        (out,) = edit.node(
            "Cast",
            [value],
            before=before,
            after=behind,
            attributes={"to": int(to)},
            name=name,
        )
        out.name = edit.fresh_name(f"{value.name}_{to.name.lower()}")
        shape = value.shape.copy() if value.shape is not None else None
        edit.set_type(out, ir.TensorType(to), shape)
        return out


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _values(operator: _Operator) -> list[ir.Value]:
    """Return the values that would be float16."""
    node = operator.node
    values = [node.inputs[index] for index in operator.inputs]
    values += [node.outputs[index] for index in operator.outputs]
    return [value for value in values if value is not None]

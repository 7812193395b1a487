"""Writes the operators of dynamic quantization into a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.facts import attribute, tensor_of
from graphopt.calibration.qparams import QParams
from graphopt.edit import Edit, Rewrite

from .linear import Linear, Lookup
from .selection import label
from .table_form import quantize_table
from .weights import WeightStore, drop_unused

__all__ = ["DynamicForm", "Operator"]

Operator: TypeAlias = Linear | Lookup


class ScaleChoice(Protocol):
    """Chooses the scales of a weight."""

    def __call__(self, operator: Operator) -> QParams:
        """Return the scales of the operator's weight, as it is stored."""
        ...


class DynamicForm:
    """Makes the edits of one run; remembers what operators share.

    Args:
        operators: What will be quantized; nothing has been edited yet.
        scales: Chooses the scales of a weight.
    """

    def __init__(self, operators: Iterable[Operator], scales: ScaleChoice) -> None:
        self._scales = scales
        weights = [op.weight for op in operators if isinstance(op, Linear)]
        self._as_stored = {weight for weight in weights if _wanted_as_stored(weight)}
        self._store = WeightStore()
        # (activation, graph of the user) -> outputs of its DynamicQuantizeLinear
        self._activations: dict[tuple[ir.Value, ir.Graph], tuple[ir.Value, ...]] = {}
        # scale of an activation -> bytes of the weight scales multiplied with it -> weight
        self._partners: dict[ir.Value, dict[bytes, ir.Value]] = {}

    def rewrite(self, operator: Operator) -> Rewrite:
        """Return the rewrite that quantizes ``operator``."""
        if isinstance(operator, Linear):
            return lambda edit: self._linear(edit, operator)
        return lambda edit: quantize_table(edit, operator, self._scales(operator), self._store)

    def _linear(self, edit: Edit, op: Linear) -> None:
        node, (y,) = op.node, op.node.outputs
        quantized, x_scale, x_zero = self._activation(edit, op)
        w_quantized, w_scale = self._weight(edit, op, x_scale)
        stem = label(node)
        shape = y.shape

        def insert(
            op_type: str, inputs: list[ir.Value], kind: ir.DataType, **attrs: int
        ) -> ir.Value:
            name = f"{stem}_{op_type}"
            (out,) = edit.node(op_type, inputs, before=node, attributes=dict(attrs), name=name)
            edit.set_type(out, ir.TensorType(kind), _copy(shape))
            return out

        product = insert("MatMulInteger", [quantized, w_quantized, x_zero], ir.DataType.INT32)
        product = insert("Cast", [product], ir.DataType.FLOAT, to=int(ir.DataType.FLOAT))
        (scale,) = edit.node("Mul", [x_scale, w_scale], before=node, name=f"{stem}_scale")
        edit.set_type(scale, ir.TensorType(ir.DataType.FLOAT), _copy(w_scale.shape))
        result = insert("Mul", [product, scale], ir.DataType.FLOAT)
        if op.bias is not None:
            result = insert("Add", [result, self._bias(edit, op, op.bias)], ir.DataType.FLOAT)
        edit.replace(y, result)
        edit.remove(node)
        for operand in node.inputs[1:]:
            if operand is not None:
                drop_unused(edit, operand, [node])
        rows, columns = op.weight.shape or (0, 0)
        edit.note(f"{node.op_type} with a {rows}x{columns} weight to int8")

    def _activation(self, edit: Edit, op: Linear) -> tuple[ir.Value, ...]:
        """Return integers, scale and zero point of x; operators of one graph share them."""
        graph = op.node.graph
        assert isinstance(graph, ir.Graph)
        known = self._activations.get((op.x, graph))
        # An application that was taken back has taken its nodes along.
        if known is None or known[0].graph is None:
            name = f"{op.x.name}_DynamicQuantizeLinear"
            known = edit.node(
                "DynamicQuantizeLinear", [op.x], before=op.node, outputs=3, name=name
            )
            for value, role, kind, shape in zip(
                known,
                ("quantized", "scale", "zero_point"),
                (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8),
                (op.x.shape, ir.Shape(()), ir.Shape(())),
                strict=True,
            ):
                value.name = edit.fresh_name(f"{op.x.name}_{role}")
                edit.set_type(value, ir.TensorType(kind), _copy(shape))
            self._activations[op.x, graph] = known
        return known

    def _weight(self, edit: Edit, op: Linear, x_scale: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the int8 weight as ``[K, N]``, and its scales times alpha."""
        qparams = self._scales(op)
        turned = op.is_transposed and op.weight not in self._as_stored
        layout = ("int8", qparams.axis, turned)

        def quantize() -> npt.NDArray[Any]:
            q = qparams.quantize(op.stored())
            return np.ascontiguousarray(q.T) if turned else q

        name = f"{op.weight.name}_quantized"
        quantized = self._store.constant(edit, op.weight, layout, name, quantize)
        if op.is_transposed and not turned:
            transpose = f"{quantized.name}_Transpose"
            source = quantized
            (quantized,) = edit.node(
                "Transpose",
                [source],
                before=op.node,
                attributes={"perm": [1, 0]},
                name=transpose,
            )
            rows, columns = source.shape or (0, 0)
            edit.set_type(quantized, source.type, ir.Shape([columns, rows]))
        # Two weights with the same scales under one activation would share one product of
        # scales (common subexpressions), which onnxruntime 1.31 then cannot fuse. One unit in
        # the last place tells them apart.
        scales = np.asarray(qparams.scale * np.float32(op.alpha), np.float32)
        partners = self._partners.setdefault(x_scale, {})
        while partners.setdefault(scales.tobytes(), op.weight) is not op.weight:
            scales = np.asarray(np.nextafter(scales, np.float32(np.inf)))
        key = ("scale", scales.tobytes())
        scale = self._store.constant(
            edit, op.weight, key, f"{op.weight.name}_scale", lambda: scales
        )
        return quantized, scale

    def _bias(self, edit: Edit, op: Linear, bias: ir.Value) -> ir.Value:
        """Return ``beta * bias``; as a vector where it is one, which is what gets fused."""
        tensor = tensor_of(bias)
        if tensor is None or (op.beta == 1 and len(tensor.shape) == 1):
            return bias
        data = (tensor.numpy() * np.float32(op.beta)).astype(np.float32)
        if data.ndim == 2 and data.shape[0] == 1:
            data = data[0]
        key = ("bias", op.beta)
        return self._store.constant(edit, bias, key, f"{bias.name}_scaled", lambda: data)


def _wanted_as_stored(weight: ir.Value) -> bool:
    """Whether some user of ``weight`` wants it as it is, and not transposed."""
    for user in weight.consumers():
        if user.op_type == "Transpose":
            continue
        if (
            user.op_type == "Gemm"
            and attribute(user, "transB", 0)
            and user.inputs[1] is weight
        ):
            continue
        return True
    return weight.is_graph_output()


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    """Return a copy: a shape can be changed in place, so two values must not share one."""
    return None if shape is None else shape.copy()

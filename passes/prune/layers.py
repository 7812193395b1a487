"""Linear layers as matrices: what goes in, what comes out, and where the weights are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import attribute, tensor_of
from graphopt.analysis.coupling.cut import drop_unused
from graphopt.edit import Edit

from .weights import place_of

__all__ = ["Layer", "layer_of", "put_constant", "weight_place"]


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, Gemm or MatMul: ``rows @ weight.T + bias``.

    Attributes:
        node: The node.
        weight_node, weight_index: Where the weight is: an input of the node itself, or of a
            Transpose in between, as exporters leave it.
        bias_node, bias_index: Where the bias is: an input of the node itself, or of the Add
            that follows; it may not be there yet. ``None``: there is no place for one.
    """

    node: ir.Node
    weight_node: ir.Node
    weight_index: int
    bias_node: ir.Node | None
    bias_index: int

    @property
    def x(self) -> ir.Value:
        """What goes in."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def y(self) -> ir.Value:
        """What comes out."""
        return self.node.outputs[0]

    @property
    def out_axis(self) -> int:
        """Axis of the weight that makes the outputs."""
        if self.node.op_type == "Conv":
            return 0
        swapped = bool(attribute(self.node, "transB", 0)) != (
            self.weight_node is not self.node
        )
        return 0 if swapped else 1

    @property
    def adds_bias_later(self) -> bool:
        """Whether ``y`` comes without the bias."""
        return self.bias_node is not self.node

    def weight(self) -> np.ndarray:
        """Return the weight: float64 ``[outputs, inputs]``; of a Conv with the kernel."""
        tensor = tensor_of(self.weight_node.inputs[self.weight_index])
        assert tensor is not None
        data = tensor.numpy().astype(np.float64)
        return data.reshape(len(data), -1) if self.out_axis == 0 else data.T

    def bias(self) -> np.ndarray:
        """Return the bias: float64 ``[outputs]``; zeros where there is none."""
        size = len(self.weight())
        if self.bias_node is None or self.bias_index >= len(self.bias_node.inputs):
            return np.zeros(size)
        tensor = tensor_of(self.bias_node.inputs[self.bias_index])
        if tensor is None:
            return np.zeros(size)
        return np.broadcast_to(tensor.numpy().astype(np.float64).reshape(-1), (size,))

    def positions(self, y: np.ndarray) -> int:
        """Return how many rows the output ``y`` has."""
        outputs = y.shape[1 if self.node.op_type == "Conv" else -1]
        return int(y.size // outputs)

    def targets(self, y: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """Return rows of the output: ``[len(picked), outputs]``."""
        if self.node.op_type == "Conv":
            y = np.moveaxis(y, 1, -1)
        return np.asarray(y.reshape(-1, y.shape[-1])[picked])

    def rows(self, x: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """Return rows of the input: ``[len(picked), inputs]``, of a Conv the windows."""
        if self.node.op_type != "Conv":
            return np.asarray(x.reshape(-1, x.shape[-1])[picked])
        windows = self._windows(x)
        rank = x.ndim - 2
        shape = (x.shape[0], *windows.shape[2 : 2 + rank])
        where = np.unravel_index(picked, shape)
        # Positions first, then channels and kernel, as the weight has them.
        windows = np.moveaxis(windows, 1, 1 + rank)
        return np.asarray(windows[tuple(where)].reshape(len(picked), -1))

    def _windows(self, x: np.ndarray) -> np.ndarray:
        """Return a view ``[batch, channels, positions..., kernel...]``."""
        tensor = tensor_of(self.weight_node.inputs[self.weight_index])
        assert tensor is not None
        kernel = [int(size) for size in tensor.shape.numpy()[2:]]
        rank = len(kernel)
        strides = attribute(self.node, "strides", [1] * rank)
        dilations = attribute(self.node, "dilations", [1] * rank)
        spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        pads = self._pads(x.shape[2:], spans, strides)
        padded = np.pad(x, [(0, 0), (0, 0), *pads]) if any(map(any, pads)) else x
        axes = tuple(range(2, 2 + rank))
        view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
        steps = tuple(slice(None, None, stride) for stride in strides)
        inner = tuple(slice(None, None, dilation) for dilation in dilations)
        return np.asarray(view[(slice(None), slice(None), *steps, *inner)])

    def _pads(
        self, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
    ) -> list[tuple[int, int]]:
        rank = len(sizes)
        mode = attribute(self.node, "auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            pads = []
            for size, span, stride in zip(sizes, spans, strides, strict=True):
                both = max((-(-size // stride) - 1) * stride + span - size, 0)
                small, large = both // 2, both - both // 2
                pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
            return pads
        flat = attribute(self.node, "pads", [0] * (2 * rank)) if mode == "NOTSET" else None
        flat = flat or [0] * (2 * rank)
        return [(flat[i], flat[i + rank]) for i in range(rank)]

    def set(self, edit: Edit, weight: np.ndarray, bias: np.ndarray | None) -> None:
        """Give the layer another weight ``[outputs, inputs]`` and bias ``[outputs]``."""
        value = self.weight_node.inputs[self.weight_index]
        tensor = tensor_of(value)
        assert value is not None
        assert tensor is not None
        data = weight if self.out_axis == 0 else weight.T
        data = np.ascontiguousarray(data.reshape(tensor.shape.numpy()), tensor.dtype.numpy())
        put_constant(edit, self.weight_node, self.weight_index, data)
        if bias is not None and self.bias_node is not None:
            put_constant(edit, self.bias_node, self.bias_index, bias.astype(data.dtype))


def put_constant(edit: Edit, node: ir.Node, index: int, data: np.ndarray) -> None:
    """Give an input of ``node`` another constant, which no other node sees."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is not None and value.is_initializer() and len(value.uses()) == 1:
        edit.set_tensor(value, data)
        return
    name = (value.name if value is not None else "") or f"{node.name or 'node'}_bias"
    edit.set_input(node, index, edit.constant(data, name, near=node))
    if value is not None:
        drop_unused(edit, value)


def weight_place(node: ir.Node, index: int) -> tuple[ir.Node, int]:
    """Return where the constant is that ``node`` reads there, or a matrix behind a Transpose.

    What a Transpose returns to others as well is no weight of a layer: they would see another.
    """
    place = place_of(node, index)
    if place.axes and not (place.alone and place.axes == (1, 0)):
        return node, index
    return place.node, place.index


def layer_of(node: ir.Node) -> Layer | str:
    """Return the layer that ``node`` is, or why it is none that can be fitted."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return "it is no Conv, Gemm or MatMul"
    if node.inputs[0] is None or node.inputs[0].is_initializer():
        return "its first input is an initializer"
    place = weight_place(node, 1)
    value = place[0].inputs[place[1]]
    tensor = tensor_of(value)
    if (
        value is None
        or tensor is None
        or tensor.dtype
        not in (
            ir.DataType.FLOAT,
            ir.DataType.FLOAT16,
            ir.DataType.DOUBLE,
        )
    ):
        return "its second input is no floating-point constant"
    if len(value.uses()) != 1:
        return "its weight has other uses"
    if node.op_type == "Conv":
        if attribute(node, "group", 1) != 1:
            return "it has groups"
        return _with_own_bias(node, place)
    if len(tensor.shape) != 2:
        return "its weight is no matrix"
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0:
            return "it transposes or scales its input"
        if attribute(node, "beta", 1.0) != 1.0:
            return "it scales its bias"
        return _with_own_bias(node, place)
    uses = node.outputs[0].uses()
    if len(uses) == 1 and not node.outputs[0].is_graph_output():
        (use,) = uses
        if use.node.op_type == "Add" and not use.node.domain:
            added = tensor_of(use.node.inputs[1 - use.idx])
            width = tensor.shape.numpy()[Layer(node, *place, None, 0).out_axis]
            if added is not None and tuple(added.shape.numpy()) == (width,):
                return Layer(node, *place, use.node, 1 - use.idx)
    return Layer(node, *place, None, 0)


def _with_own_bias(node: ir.Node, place: tuple[ir.Node, int]) -> Layer | str:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        tensor = tensor_of(bias)
        if tensor is None or sum(int(dim) > 1 for dim in tensor.shape.numpy()) > 1:
            return "its bias is no constant vector"
    return Layer(node, *place, node, 2)

"""Networks in ONNX text with random weights, and the oracle: masked equals compacted."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from graphopt.passes.prune.compaction import Compactor
from graphopt.passes.prune.prune_channels import PruneChannels
from graphs import HEADER, check, random_feeds, run

from graphopt.analysis.coupling.graph import Coupling, Site, analyse
from graphopt.analysis.coupling.groups import Dimensions, find_groups
from graphopt.passbase import Context

WEIGHTED: dict[str, tuple[int, ...]] = {
    "Attention": (1, 2),
    "Conv": (1, 2),
    "ConvInteger": (1,),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Einsum": (0, 1),
    "FusedConv": (1, 2),
    "FusedGemm": (0, 1, 2),
    "FusedMatMul": (0, 1),
    "GRU": (1, 2, 3),
    "Gemm": (0, 1, 2),
    "LSTM": (1, 2, 3, 7),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (1, 6),
    "MatMulNBits": (2, 5),
    "QGemm": (3, 6),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "RNN": (1, 2, 3),
}
"""Operator -> constants that are set to zero; in others a zero may mean something else."""

CARRIERS = {
    "Concat",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators that exporters put between a constant and the layer that it is a weight of."""


def network(
    text: str, opset: int = 21, seed: int = 0, domains: tuple[str, ...] = ()
) -> ir.Model:
    """Return the model of a graph in ONNX text.

    What is declared in ``<...>`` without a value and made by no node is a weight: random, of a
    size that keeps activations near 1. Variances (names start with ``var``) are positive,
    integers are between -9 and 9, or 0 and 9.
    """
    more = "".join(f', "{domain}" : 1' for domain in domains)
    header = "" if text.lstrip().startswith("<") else HEADER.format(opset=opset, more=more)
    proto = onnx.parser.parse_model(header + text)
    graph = proto.graph
    made = {name for node in graph.node for name in node.output}
    rng = np.random.default_rng(seed)
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    for info in graph.value_info:
        if info.name in made:
            continue
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        fan = max(np.prod(shape[1:], dtype=int), 1) if len(shape) > 1 else 1
        data = rng.standard_normal(shape) / np.sqrt(fan)
        if info.name.startswith("var"):
            data = np.abs(data) + 0.5
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if np.issubdtype(kind, np.integer):
            low = 0 if np.issubdtype(kind, np.unsignedinteger) else -9
            data = rng.integers(low, 10, shape)
        graph.initializer.append(onnx.numpy_helper.from_array(data.astype(kind), info.name))
    del graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def groups_of(model: ir.Model, untie: bool = True) -> Dimensions:
    """Return the groups of ``model``."""
    return find_groups(analyse(model, untie))


def sizes(dimensions: Dimensions) -> dict[str, int]:
    """Return the sizes of the free groups by name; without those that statistics need."""
    return {
        group.name: group.size
        for group in dimensions.groups
        if not group.reason and not group.statistics
    }


def reasons(dimensions: Dimensions) -> dict[str, str]:
    """Return why the other groups are frozen."""
    return {group.name: group.reason for group in dimensions.groups if group.reason}


def cut(model: ir.Model, removed: dict[str, list[int]], untie: bool = True) -> ir.Model:
    """Return ``model``, edited in place, without the given indices of groups."""
    dimensions = groups_of(model, untie)
    compactor = Compactor(dimensions, Context().rewriter(model, PruneChannels()))
    by_name = {group.name: group for group in dimensions.groups}
    for name, indices in removed.items():
        assert compactor.cut(by_name[name], indices)
    return model


def masked(model: ir.Model, removed: dict[str, list[int]], untie: bool = True) -> ir.Model:
    """Return ``model``, edited in place, with what belongs to the indices set to zero.

    The slices of all weights of Conv, Gemm, MatMul ... that hold data of the indices, on the
    side that makes them and on the side that takes them, are zero; where two computed
    tensors are multiplied, or one is summed, it is multiplied by a mask first.
    """
    dimensions = groups_of(model, untie)
    coupling = dimensions.coupling
    dead = np.zeros(dimensions.atom_count, bool)
    for group in dimensions.groups:
        if group.name in removed:
            dead[group.atoms[removed[group.name]]] = True
    _zero_weights(dimensions, dead)
    _mask_activations(coupling, dimensions, dead)
    return model


def is_weight(site: Site) -> bool:
    """Whether the constant is multiplied with, perhaps after it was laid out another way."""
    uses = list(site.uses)
    while uses:
        node, index = uses.pop()
        if index in WEIGHTED.get(node.op_type, ()):
            return True
        if node.op_type in CARRIERS:
            uses += [(user, place) for out in node.outputs for user, place in out.uses()]
    return False


def _zero_weights(dimensions: Dimensions, dead: np.ndarray) -> None:
    for number, site in enumerate(dimensions.coupling.sites):
        if not is_weight(site):
            continue
        data = site.tensor.numpy().copy()
        for axis_number, axis in enumerate(site.axes):
            if axis.size != 1:
                gone = ~dimensions.alive(axis, dead)
                np.moveaxis(data, axis_number, 0)[gone] = 0
        graph = dimensions.coupling.model.graph
        value = ir.Value(
            name=f"{site.name}_masked{number}",
            type=ir.TensorType(site.tensor.dtype),
            shape=ir.Shape(data.shape),
            const_value=ir.tensor(data, name=f"{site.name}_masked{number}"),
        )
        graph.register_initializer(value)
        for user, index in site.uses:
            user.replace_input_with(index, value)


def _mask_activations(coupling: Coupling, dimensions: Dimensions, dead: np.ndarray) -> None:
    for number, (node, operands) in enumerate(coupling.contractions):
        computed = [(i, a) for i, a in operands if node.inputs[i] in coupling.axes]
        if len(computed) < len(operands):
            continue
        for index, axis in computed:
            if axis.rows is None or axis.size == 1 or dimensions.alive(axis, dead).all():
                continue
            value = node.inputs[index]
            assert value is not None
            axes = coupling.axes[value]
            (place,) = [i for i, other in enumerate(axes) if other is axis]
            shape = [1] * len(axes)
            shape[place] = -1
            mask = dimensions.alive(axis, dead).astype(np.float32).reshape(shape)
            name = f"mask{number}_{index}"
            constant = ir.Value(name=name, const_value=ir.tensor(mask, name=name))
            constant.type = ir.TensorType(ir.DataType.FLOAT)
            constant.shape = ir.Shape(mask.shape)
            assert node.graph is not None
            node.graph.register_initializer(constant)
            mul = ir.Node("", "Mul", [value, constant], name=name)
            mul.outputs[0].name = f"{name}_out"
            mul.outputs[0].type = constant.type
            node.graph.insert_before(node, mul)
            node.replace_input_with(index, mul.outputs[0])


def assert_masked_equals_cut(
    make: object,
    removed: dict[str, list[int]],
    tolerance: float = 1e-5,
    untie: bool = True,
    seed: int = 0,
) -> ir.Model:
    """Assert the oracle for one choice of indices; return the smaller model.

    Args:
        make: Function that returns a new copy of the model.
        removed: Indices to remove by name of the group.
        tolerance: Largest difference allowed, relative to the largest output.
        untie: Option of the analysis.
        seed: Seed of the inputs.
    """
    smaller = cut(make(), removed, untie)
    check(smaller)
    zeroed = masked(make(), removed, untie)
    feeds = random_feeds(smaller, seed)
    for one, other in zip(run(smaller, feeds), run(zeroed, feeds), strict=True):
        assert one.shape == other.shape
        assert np.isfinite(other).all()
        scale = float(np.abs(other).max(initial=0.0)) or 1.0
        assert float(np.abs(one - other).max(initial=0.0)) <= tolerance * scale
    return smaller

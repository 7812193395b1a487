"""Random valid models for property tests: small, with everything that graphs may hold."""

from __future__ import annotations

import random

import numpy as np
import onnx_ir as ir

UNARY = ("Relu", "Neg", "Identity", "Abs", "Sigmoid")
BINARY = ("Add", "Mul", "Sub", "Max")
FLOATS = ir.TensorType(ir.DataType.FLOAT)


def model(rng: random.Random, size: int = 12) -> ir.Model:
    """Return a random model over vectors of 4 floats.

    It has initializers (one of them overridable), constants, nodes without a name, with
    attributes, several outputs and omitted inputs, and ``If`` whose branches use outer values
    and have initializers of their own.
    """
    builder = _Builder(rng)
    x, y = (ir.Value(name=name, shape=ir.Shape([4]), type=FLOATS) for name in "xy")
    flag = ir.Value(name="flag", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    weights = [builder.weight(f"w{i}") for i in range(3)]
    nodes, values = builder.nodes([x, y, *weights], flag, size, depth=2)
    computed = [value for value in values if value.producer() is not None]
    outputs = rng.sample(computed, k=min(len(computed), rng.randint(1, 3)))
    graph = ir.Graph(
        [x, y, flag, weights[0]],
        outputs,
        nodes=nodes,
        initializers=weights,
        opset_imports={"": 21},
        name="random",
    )
    return ir.Model(graph, ir_version=10)


class _Builder:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def weight(self, name: str) -> ir.Value:
        data = np.array([self._rng.randint(-2, 2) for _ in range(4)], np.float32)
        return ir.Value(
            name=name, shape=ir.Shape([4]), type=FLOATS, const_value=ir.tensor(data, name=name)
        )

    def nodes(
        self, visible: list[ir.Value], flag: ir.Value, size: int, depth: int
    ) -> tuple[list[ir.Node], list[ir.Value]]:
        """Return ``size`` nodes over the ``visible`` values, and all their outputs."""
        nodes: list[ir.Node] = []
        values: list[ir.Value] = []
        for _ in range(size):
            node = self._node([*visible, *values], flag, depth)
            half = node.op_type == "Split"  # its outputs fit nothing and stay unused
            for value in node.outputs:
                value.name = self.name("v")
                if self._rng.random() < 0.8:  # the others have no value_info
                    value.shape, value.type = ir.Shape([2 if half else 4]), FLOATS
                values += [] if half else [value]
            nodes.append(node)
        for value in values:  # any of them may become an output
            value.shape, value.type = ir.Shape([4]), FLOATS
        return nodes, values

    def _node(self, visible: list[ir.Value], flag: ir.Value, depth: int) -> ir.Node:
        rng = self._rng
        a, b = rng.choice(visible), rng.choice(visible)
        name = self.name("n") if rng.random() < 0.8 else ""
        kind = rng.randrange(8)
        if kind == 0:
            return ir.Node("", "LeakyRelu", [a], [ir.AttrFloat32("alpha", 0.5)], name=name)
        if kind == 1:
            data = ir.tensor(np.array([1, 2, 3, 4], np.float32), name="")
            return ir.Node("", "Constant", [], [ir.AttrTensor("value", data)], name=name)
        if kind == 2:
            attributes = [ir.AttrInt64("axis", 0), ir.AttrInt64("num_outputs", 2)]
            return ir.Node("", "Split", [a], attributes, num_outputs=2, name=name)
        if kind == 3 and depth:
            branches = [
                ir.AttrGraph(which, self._branch(visible, flag, depth - 1, which))
                for which in ("then_branch", "else_branch")
            ]
            return ir.Node("", "If", [flag], branches, name=name)
        if kind < 6:
            return ir.Node("", rng.choice(UNARY), [a], name=name)
        return ir.Node("", rng.choice(BINARY), [a, b], name=name)

    def _branch(
        self, visible: list[ir.Value], flag: ir.Value, depth: int, name: str
    ) -> ir.Graph:
        weight = self.weight(self.name("inner"))
        size = self._rng.randint(1, 3)
        nodes, values = self.nodes([*visible, weight], flag, size, depth)
        if not values:  # all of them were Split
            last = ir.Node("", "Identity", [self._rng.choice(visible)], name=self.name("n"))
            last.outputs[0].name = self.name("v")
            last.outputs[0].shape, last.outputs[0].type = ir.Shape([4]), FLOATS
            nodes, values = [*nodes, last], [last.outputs[0]]
        return ir.Graph([], [values[-1]], nodes=nodes, initializers=[weight], name=name)


def graphs(model: ir.Model) -> list[ir.Graph]:
    """Return all graphs of ``model``."""
    return list(model.graphs())


def assert_consistent(model: ir.Model) -> None:
    """Assert that uses and owners say the same as the nodes of the graph do."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    alive = set(nodes)
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None:
                assert (node, index) in value.uses()
                producer = value.producer()
                assert producer is None or producer in alive, f"{value} comes from nowhere"
    values = [value for node in nodes for value in node.outputs]
    for graph in model.graphs():
        values += [*graph.inputs, *graph.initializers.values()]
        for name, value in graph.initializers.items():
            assert value.name == name
            assert value.graph is graph
        for value in graph.outputs:
            assert value.is_graph_output()
            assert value.graph is graph
    for value in values:
        for user, index in value.uses():
            assert user in alive, f"{value} is used by a node that is gone"
            assert user.inputs[index] is value

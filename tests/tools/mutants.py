"""Wrong rewrites, one of them active at one node of a model, among right ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import graphs
import numpy as np
import onnx_ir as ir

from graphopt import registry
from graphopt.edit import Edit
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Rule, RulePass
from graphopt.rewriter import Rewriter

RIGHT = (
    "fold-constants",
    "eliminate-identity",
    "eliminate-dead-code",
    "deduplicate-initializers",
)

Wrong = Callable[[Edit, ir.Node], ir.Value]
"""Makes something else out of a node; returns what its output is replaced with."""


def bypass(index: int = 0) -> Wrong:
    return lambda edit, node: node.inputs[index]


def other(op_type: str, *order: int, **attributes) -> Wrong:
    """Another operator, on the inputs in another order, with other attributes."""

    def make(edit: Edit, node: ir.Node) -> ir.Value:
        inputs = [node.inputs[i] for i in order] if order else list(node.inputs)
        kept = {} if op_type != node.op_type else dict(node.attributes)
        (value,) = edit.node(
            op_type,
            inputs,
            before=node,
            attributes={**kept, **attributes},
            like=node.outputs,
            name="wrong",
        )
        return value

    return make


def weight(index: int, change: Callable[[np.ndarray], np.ndarray]) -> Wrong:
    """The same operator with another weight."""

    def make(edit: Edit, node: ir.Node) -> ir.Value:
        data = change(node.inputs[index].const_value.numpy()).astype(np.float32)
        inputs = list(node.inputs)
        inputs[index] = edit.constant(data, "wrong_weight", near=node)
        (value,) = edit.node(
            node.op_type,
            inputs,
            before=node,
            attributes=dict(node.attributes),
            like=node.outputs,
            name="wrong",
        )
        return value

    return make


def after(op_type: str) -> Wrong:
    """Something more behind it."""

    def make(edit: Edit, node: ir.Node) -> ir.Value:
        (copy,) = edit.node(
            node.op_type,
            node.inputs,
            before=node,
            attributes=dict(node.attributes),
            name="wrong",
        )
        (value,) = edit.node(op_type, [copy], before=node, like=node.outputs, name="wrong_too")
        return value

    return make


def zeroed_column(data: np.ndarray) -> np.ndarray:
    return data * (np.arange(data.shape[-1]) != 1)


# Kind -> the line that a model gets for it, and what is made of its node. ``{x}`` is the value
# so far, ``{z}`` an earlier one, ``{o}`` the new one; all are float[4,4]. ``W`` and ``b`` are
# weights of shape [4,4] and [4].
KINDS: dict[str, tuple[str, Wrong]] = {
    "relu-is-dropped": ("{o} = Relu({x})", bypass()),
    "relu-becomes-abs": ("{o} = Relu({x})", other("Abs")),
    "sigmoid-becomes-tanh": ("{o} = Sigmoid({x})", other("Tanh")),
    "neg-is-dropped": ("{o} = Neg({x})", bypass()),
    "abs-becomes-neg": ("{o} = Abs({x})", other("Neg")),
    "leaky-slope": ("{o} = LeakyRelu<alpha=0.5>({x})", other("LeakyRelu", alpha=0.1)),
    "elu-becomes-relu": ("{o} = Elu<alpha=1.0>({x})", other("Relu")),
    "sub-is-swapped": ("{o} = Sub({x}, {z})", other("Sub", 1, 0)),
    "mul-becomes-add": ("{o} = Mul({x}, b)", other("Add")),
    "max-takes-the-first": ("{o} = Max({x}, {z})", bypass()),
    "bias-is-dropped": ("{o} = Add({x}, b)", bypass()),
    "bias-is-negated": ("{o} = Add({x}, b)", weight(1, np.negative)),
    "weight-is-transposed": ("{o} = MatMul({x}, W)", weight(1, np.transpose)),
    "weight-loses-a-column": ("{o} = MatMul({x}, W)", weight(1, zeroed_column)),
    "weight-is-scaled": ("{o} = MatMul({x}, W)", weight(1, lambda data: 1.05 * data)),
    "gemm-loses-its-bias": ("{o} = Gemm({x}, W, b)", other("Gemm", 0, 1)),
    "gemm-transposes": ("{o} = Gemm({x}, W, b)", other("Gemm", transB=1)),
    "softmax-axis": ("{o} = Softmax<axis=1>({x})", other("Softmax", axis=0)),
    "transpose-is-dropped": ("{o} = Transpose<perm=[1,0]>({x})", bypass()),
    "reduction-is-a-sum": (
        "{o}_m = ReduceMean<keepdims=1>({x}) {o} = Sub({x}, {o}_m)",
        other("Add"),
    ),
    "concat-is-swapped": (
        "{o}_c = Concat<axis=1>({x}, {z}) {o} = MatMul({o}_c, V)",
        weight(1, lambda data: np.concatenate([data[4:], data[:4]])),
    ),
    "where-is-swapped": (
        "{o}_n = Less({x}, {z}) {o} = Where({o}_n, {x}, b)",
        other("Where", 0, 2, 1),
    ),
    "normalization-loses-its-scale": (
        "{o} = LayerNormalization({x}, s, b)",
        weight(1, np.ones_like),
    ),
    "rounding-is-added": ("{o} = Tanh({x})", after("Round")),
    "branch-is-wrong": (
        """{o} = If (flag) <
            then_branch = {o}_t () => (float[4,4] {o}_tv) {{ {o}_tv = Exp({x}) }},
            else_branch = {o}_e () => (float[4,4] {o}_ev) {{ {o}_ev = Neg({x}) }} >""",
        other("Abs"),
    ),
    "only-in-a-branch": (
        """{o} = If (flag) <
            then_branch = {o}_t () => (float[4,4] {o}_tv) {{
                {o}_tu = Exp({x}) {o}_tv = Tanh({o}_tu) }},
            else_branch = {o}_e () => (float[4,4] {o}_ev) {{
                {o}_eu = Tanh({x}) {o}_ev = Neg({o}_eu) }} >""",
        other("Abs"),
    ),
    "only-in-a-loop": (
        """{o}_n = Constant<value = int64 {{2}}>() {o}_c = Constant<value = bool {{1}}>()
        {o} = Loop({o}_n, {o}_c, {x}) <
            body = {o}_b (int64 {o}_i, bool {o}_bc, float[4,4] {o}_bx)
                => (bool {o}_bd, float[4,4] {o}_bv) {{
                {o}_bd = Identity({o}_bc) {o}_bu = Tanh({o}_bx) {o}_bv = Neg({o}_bu) }} >""",
        other("Abs"),
    ),
    "fused-bias-is-lost": (
        "{o}_m = MatMul({x}, W) {o}_a = Add({o}_m, b) {o} = Relu({o}_a)",
        lambda edit, node: edit.node(
            "Relu",
            [node.inputs[0].producer().inputs[0]],
            before=node,
            like=node.outputs,
            name="wrong",
        )[0],
    ),
}
INSIDE = {"branch-is-wrong": "_ev", "only-in-a-branch": "_ev", "only-in-a-loop": "_bv"}
"""Kinds that go wrong at a node inside a subgraph: the end of the name of its output."""


def in_a_subgraph(node: ir.Node, model: ir.Model) -> bool:
    return node.graph is not model.graph


def behind_a_biased_product(node: ir.Node, model: ir.Model) -> bool:
    add = node.inputs[0].producer()
    product = add.inputs[0].producer() if add is not None and add.op_type == "Add" else None
    return product is not None and product.op_type == "MatMul"


# What else must hold for a kind to go wrong; a smaller model must keep it.
NEEDS: dict[str, Callable[[ir.Node, ir.Model], bool]] = {
    "only-in-a-branch": in_a_subgraph,
    "only-in-a-loop": in_a_subgraph,
    "fused-bias-is-lost": behind_a_biased_product,
}

FILLER = (
    "{o} = Relu({x})", "{o} = Identity({x})", "{o} = Tanh({x})", "{o} = Add({x}, b)",
    "{o} = MatMul({x}, W)", "{o} = Add({x}, {z})", "{o} = Sigmoid({x})", "{o} = Identity({x})",
    "{o}_d = Exp({z}) {o} = Tanh({x})",  # one that is dead
    "{o}_k = Add(b, b2) {o} = Mul({x}, {o}_k)",  # one that is constant
    "{o}_k = Identity(W2) {o} = MatMul({x}, {o}_k)",
    "{o} = Sub({x}, {z})", "{o} = LayerNormalization({x}, s, b)",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant(RulePass):
    """Right rules, and one that is wrong at one node.

    Attributes:
        kind: What it does wrong there: a key of ``KINDS``; empty: nothing.
        at: Name of the node.
    """

    name: ClassVar[str] = "mutant"
    promise: ClassVar[Promise] = Promise.EXACT

    kind: str = ""
    at: str = ""

    def rules(self, context: Context) -> Sequence[Rule]:
        def match(node: ir.Node, facts):
            needed = NEEDS.get(self.kind)
            if node.name != self.at or (needed and not needed(node, facts.model)):
                return None

            def rewrite(edit: Edit) -> None:
                edit.replace(node.outputs[0], KINDS[self.kind][1](edit, node))
                edit.remove(node)

            return rewrite

        right = [rule for one in self._right() for rule in one.rules(context)]
        return [*right, Rule("wrong", (), match)] if self.kind else right

    def finish(self, model: ir.Model, rewriter: Rewriter) -> None:
        for one in self._right():
            one.finish(model, rewriter)

    @staticmethod
    def _right() -> list[RulePass]:
        return [registry.find(name)() for name in RIGHT]


def network(kind: str, seed: int, size: int = 24) -> tuple[ir.Model, str]:
    """Return a model and the name of the node in it at which ``kind`` goes wrong."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    place = int(rng.integers(size))
    lines, values = [], ["x"]
    for index in range(size):
        template = KINDS[kind][0] if index == place else str(rng.choice(FILLER))
        earlier = values[int(rng.integers(len(values)))]
        lines.append(template.format(o=f"v{index}", x=values[-1], z=earlier))
        values.append(f"v{index}")
    model = graphs.load(
        f"""g (float[4,4] x, bool flag) => (float[4,4] v{size})
        <float[4,4] W = {_list(rng, 16, 0.6)}, float[4,4] W2 = {_list(rng, 16, 0.6)},
         float[8,4] V = {_list(rng, 32, 0.4)}, float[4] b = {_list(rng, 4, 0.5)},
         float[4] b2 = {_list(rng, 4, 0.5)}, float[4] s = {_list(rng, 4, 1.0, 1.5)}>
        {{ {" ".join(lines)} v{size} = Add({values[-1]}, {values[place + 1]}) }}"""
    )
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.name = f"n_{node.outputs[0].name}"
    return model, f"n_v{place}{INSIDE.get(kind, '')}"


def feeds(seed: int) -> list[dict[str, np.ndarray]]:
    """Return feeds for ``network``."""
    rng = np.random.default_rng([seed, 99])
    return [
        {"x": rng.standard_normal((4, 4)).astype(np.float32), "flag": np.array(flag)}
        for flag in (True, False)
    ]


def _list(rng: np.random.Generator, count: int, scale: float, shift: float = 0.0) -> str:
    data = scale * rng.standard_normal(count) + shift
    return "{" + ", ".join(f"{value:.4f}" for value in data) + "}"

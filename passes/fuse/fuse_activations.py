"""Fuse what computes an activation into its operator.

Before -> after::

    y = Clip(x + 3, 0, 6) / 6               ->     y = HardSigmoid<alpha=1/6, beta=0.5>(x)
    y = x * Clip(x + 3, 0, 6) / 6           ->     y = HardSwish(x)      # opset 14
                                            ->     y = x * HardSigmoid<...>(x)      # below
    y = x * HardSigmoid<alpha=1/6, beta=0.5>(x)     ->     y = HardSwish(x)
    y = x * Tanh(Softplus(x))               ->     y = Mish(x)           # 18, ``mish``

However the products and sums are spelled and ordered, and for any line that ``Clip`` cuts.
onnxruntime 1.31.1, 16 to 1024 rows of 1536 elements, one thread: HardSigmoid 1.8 to 2.4 times
as fast, HardSwish 1.5 to 5.9 times; Mish, which it takes apart again, 1.00 times.

Preconditions, per match:
    1. The model imports an opset that has the operator: 6 for HardSigmoid, 14 for HardSwish,
       18 for Mish.
       ``Mish``: ``mish`` is set.
    2. What is computed is one of the formulas above, the constants to 1e-5 (float16: 1e-3).
       No constant adds a dimension.
    3. Nothing else uses what is computed on the way.
    4. The type is float32 or float16: onnxruntime has no kernels of others.

Numerics: close. Measured: rtol 1e-6 of the largest output for float32; where ``x * Clip(...)``
overflows before it is divided, HardSwish does not.
Scope: main graph and subgraphs; model-local functions are not visited.
Leaves alone: ``x * Sigmoid(x)``, which onnxruntime 1.31.1 fuses by itself; ``Swish`` of opset
24 has no kernel there and was 0.38 to 0.66 times as fast, with ``alpha`` 0.7 to 1.0.
Reference: https://onnx.ai/onnx/operators/onnx__HardSwish.html
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import onnx_ir as ir

from graphopt.analysis.constants import attribute
from graphopt.analysis.facts import Facts
from graphopt.edit import Edit, Rewrite
from graphopt.passbase import Context, Promise
from graphopt.rewrite import Reason, Rule, RulePass

from .formulas import Formula, Polynomial, arguments, formula, grow, number, outside_use

__all__ = ["FuseActivations"]

TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
HARD_SWISH = 14
MISH = 18
BOUNDS_ARE_INPUTS = 11
BROADCASTING = 7  # before, by an attribute
SWISH_LINE: Polynomial = {(1,): 1 / 6, (0,): 0.5}  # the HardSigmoid in HardSwish
PRODUCT: Polynomial = {(1, 1): 1.0}  # of x and what is made of it

Emit: TypeAlias = Callable[[Edit, ir.Value, ir.Node], ir.Value]
"""Makes the operator on x in front of a node, and returns its result."""


@dataclasses.dataclass(frozen=True)
class FuseActivations(RulePass):
    """Fuse activations; see the module docstring for the contract.

    Attributes:
        mish: Also write ``Mish``, for other runtimes than onnxruntime.
    """

    name: ClassVar[str] = "fuse-activations"
    promise: ClassVar[Promise] = Promise.CLOSE

    mish: bool = False

    def rules(self, context: Context) -> Sequence[Rule]:
        """Return one rule an activation."""
        del context
        rules = [
            Rule("hard-sigmoid", ("Clip",), _match_clip),
            Rule("hard-swish", ("HardSigmoid",), _match_hard_sigmoid),
        ]
        return [*rules, Rule("mish", ("Tanh",), _match_tanh)] if self.mish else rules


def _match_clip(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    top = _top(node, facts)
    # 1.
    if top is None or facts.opset < BROADCASTING:
        return None
    # 2. The deepest first: it takes the most nodes along.
    for x in reversed(arguments(node.inputs[0])):
        line = formula(node.inputs[0], (x,), facts)
        if line is None or line.terms.keys() != {(1,), (0,)}:
            continue
        terms = {powers: factor / top for powers, factor in line.terms.items()}
        clip, nodes = node.outputs[0], (*line.nodes, node)
        if product := grow(clip, x, {(1, 1): 1 / top}, facts):
            output, outer = product
            swish = facts.opset >= HARD_SWISH and Formula(terms).equals(SWISH_LINE, x.dtype)
            emit = _operator("HardSwish") if swish else _hard_sigmoid(terms, times_x=True)
            return _replaced(x, output, (*nodes, *outer.nodes), emit)
        if share := grow(clip, x, {(0, 1): 1 / top}, facts):
            output, outer = share
            return _replaced(x, output, (*nodes, *outer.nodes), _hard_sigmoid(terms))
        if top == 1.0:
            return _replaced(x, clip, nodes, _hard_sigmoid(terms))
    return None


def _match_hard_sigmoid(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    x = node.inputs[0]
    line: Polynomial = {
        (1,): attribute(node, "alpha", 0.2),
        (0,): attribute(node, "beta", 0.5),
    }
    if x is None or not Formula(line).equals(SWISH_LINE, x.dtype):
        return None
    found = grow(node.outputs[0], x, PRODUCT, facts)
    if found is None:
        return None
    # 1.
    if facts.opset < HARD_SWISH:
        return Reason(f"HardSwish needs opset {HARD_SWISH}; see upgrade-opset")
    output, outer = found
    return _replaced(x, output, (node, *outer.nodes), _operator("HardSwish"))


def _match_tanh(node: ir.Node, facts: Facts) -> Rewrite | Reason | None:
    soft = node.inputs[0].producer() if node.inputs[0] is not None else None
    if soft is None or soft.op_type != "Softplus" or soft.domain or soft.inputs[0] is None:
        return None
    x = soft.inputs[0]
    found = grow(node.outputs[0], x, PRODUCT, facts)
    if found is None:
        return None
    # 1.
    if facts.opset < MISH:
        return Reason(f"Mish needs opset {MISH}; see upgrade-opset")
    output, outer = found
    return _replaced(x, output, (soft, node, *outer.nodes), _operator("Mish"))


def _replaced(
    x: ir.Value, output: ir.Value, nodes: Sequence[ir.Node], emit: Emit
) -> Rewrite | Reason:
    """Let what ``emit`` makes of ``x`` replace ``output``, which ``nodes`` compute."""
    # 3.
    if reason := outside_use(nodes, output):
        return reason
    # 4.
    if x.dtype not in TYPES:
        return Reason(f"there is no kernel for {x.dtype}")
    last = output.producer()
    assert last is not None

    def rewrite(edit: Edit) -> None:
        edit.supersede(last, emit(edit, x, last))
        edit.remove(*nodes)

    return rewrite


def _operator(op_type: str) -> Emit:
    def emit(edit: Edit, x: ir.Value, last: ir.Node) -> ir.Value:
        return edit.node(op_type, [x], before=last, like=last.outputs)[0]

    return emit


def _hard_sigmoid(line: Polynomial, *, times_x: bool = False) -> Emit:
    attributes = {"alpha": line[1,], "beta": line[0,]}

    def emit(edit: Edit, x: ir.Value, last: ir.Node) -> ir.Value:
        (share,) = edit.node(
            "HardSigmoid", [x], before=last, attributes={**attributes}, like=last.outputs
        )
        if not times_x:
            return share
        return edit.node("Mul", [x, share], before=last, like=last.outputs)[0]

    return emit


def _top(clip: ir.Node, facts: Facts) -> float | None:
    """Return what ``clip`` cuts to, if it cuts to 0 and a positive number."""
    if facts.opset < BOUNDS_ARE_INPUTS:
        low, high = attribute(clip, "min"), attribute(clip, "max")
    else:
        low, high = (
            number(clip.inputs[index]) if len(clip.inputs) > index else None
            for index in (1, 2)
        )
    return high if low == 0 and high is not None and high > 0 else None

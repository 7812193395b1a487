"""Rules of operators that work element by element, with broadcasting."""

from __future__ import annotations

from graphopt.analysis.coupling.dense import align
from graphopt.analysis.coupling.rules import Axis, Op, rule

__all__: list[str] = []

# fmt: off
UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil",
    "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal",
    "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "com.microsoft::FastGelu",
    "com.microsoft::Gelu", "com.microsoft::QuickGelu",
)
NARY = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "CastLike", "Div",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
    "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor", "com.microsoft::BiasGelu",
)
# fmt: on


@rule(*UNARY)
def unary(op: Op) -> None:
    """All axes stay."""
    op.output(op.axes(0))
    # FastGelu has an optional bias.
    if op.has(1):
        align(op, op.axes(0), op.axes(1))


@rule(*NARY)
def nary(op: Op) -> None:
    """Aligned at the end: equal lengths are the same axis, length 1 stands for all."""
    if op.attr("broadcast") is not None:
        op.refuse("it broadcasts in the way of operator sets before 7")
    axes: list[Axis] = list(op.axes(0))
    for index in range(1, len(op.node.inputs)):
        if op.node.op_type == "CastLike":
            op.ignore(index)
            break
        axes = align(op, tuple(axes), op.axes(index))
    op.output(axes)


@rule("Clip", "Dropout", "Bernoulli", "RandomNormalLike", "RandomUniformLike", "Trilu")
def scalars_beside(op: Op) -> None:
    """The first input decides; the others are scalars. Trilu needs the last two axes whole."""
    x = op.axes(0)
    if op.node.op_type == "Trilu":
        op.whole(x[-2:], "masks by position")
    op.output(x)
    op.output(x, 1)


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(op: Op) -> None:
    """Scale and zero point of one axis are cut with it; blocks must stay whole."""
    x = op.axes(0)
    for index in (1, 2):
        if not op.has(index):
            continue
        scale = op.axes(index)
        if len(scale) == 1 and scale[0].size != 1:
            op.unify(scale[0], x[op.axis(op.attr_int("axis", 1), len(x))])
        elif len(scale) > 1:
            for of_scale, axis in zip(scale, x, strict=True):
                if of_scale.size == axis.size:
                    op.unify(of_scale, axis)
                else:
                    op.whole([axis, of_scale], "quantizes it in blocks")
    op.output(x)


@rule("DynamicQuantizeLinear")
def dynamic_quantize(op: Op) -> None:
    """One scale for the whole tensor, measured at run time."""
    x = op.axes(0)
    op.output(x)
    op.output([], 1)
    op.output([], 2)

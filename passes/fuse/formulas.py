"""Elementwise arithmetic, read as a formula: what a value is, not how it is spelled.

``Mul(Mul(x, 0.5), Add(Erf(u), 1))`` and ``Mul(x, Div(Add(1, Erf(u)), 2))`` are the same
polynomial of ``x`` and ``e = Erf(u)``: ``0.5 x + 0.5 x e``. A pass names the polynomial it
looks for, and every exporter's spelling of it is found.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.constants import tensor_of
from graphopt.analysis.facts import Facts
from graphopt.rewrite import Reason

__all__ = ["Formula", "Polynomial", "arguments", "formula", "grow", "number", "outside_use"]

Polynomial: TypeAlias = Mapping[tuple[int, ...], float]
"""Powers of the atoms -> coefficient: with the atoms (x, e), 0.5 x e is {(1, 1): 0.5}."""

ARITHMETIC = ("Add", "Div", "Mul", "Neg", "Pow", "Sub", "Sum")
MAX_DEPTH = 8
MAX_DEGREE = 4
MAX_CLIMB = 5


@dataclasses.dataclass(frozen=True)
class Formula:
    """A value as a polynomial of others.

    Attributes:
        terms: The polynomial.
        nodes: What computes it from the atoms.
    """

    terms: Polynomial
    nodes: tuple[ir.Node, ...] = ()

    def equals(self, terms: Polynomial, kind: ir.DataType | None) -> bool:
        """Whether this is ``terms``, within what constants of type ``kind`` are rounded to."""
        # 1e-5 for the decimals that people write: 0.79788, 1.41421.
        rtol = 1e-3 if kind == ir.DataType.FLOAT16 else 1e-5
        return self.terms.keys() == terms.keys() and all(
            abs(self.terms[powers] - factor) <= rtol * abs(factor)
            for powers, factor in terms.items()
        )


def number(value: ir.Value | None, max_rank: int | None = None) -> float | None:
    """Return the number that a constant of one element is; ``None`` for anything else."""
    tensor = tensor_of(value)
    if tensor is None or tensor.size != 1 or not _is_numeric(tensor.dtype):
        return None
    if max_rank is not None and len(tensor.shape) > max_rank:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _is_numeric(kind: ir.DataType) -> bool:
    return kind.is_floating_point() or kind.is_integer()


def formula(
    value: ir.Value | None, atoms: Sequence[ir.Value], facts: Facts, depth: int = MAX_DEPTH
) -> Formula | None:
    """Return ``value`` as a polynomial of ``atoms``; ``None`` where it is none.

    Constants have one element and do not add a dimension to the first atom.
    """
    if value is None or depth < 0:
        return None
    for index, atom in enumerate(atoms):
        if value is atom:
            return Formula({tuple(int(i == index) for i in range(len(atoms))): 1.0})
    shape = facts.shape(atoms[0])
    constant = number(value, 0 if shape is None else len(shape))
    if constant is not None:
        return Formula({(0,) * len(atoms): constant} if constant else {})
    node = value.producer()
    if node is None or node.domain or node.op_type not in ARITHMETIC:
        return None
    operands = [formula(operand, atoms, facts, depth - 1) for operand in node.inputs]
    known = [operand for operand in operands if operand is not None]
    if len(known) != len(operands):
        return None
    terms = _combined(node.op_type, [operand.terms for operand in known])
    if terms is None or any(sum(powers) > MAX_DEGREE for powers in terms):
        return None
    below = [inner for operand in known for inner in operand.nodes]
    return Formula(terms, tuple(dict.fromkeys([*below, node])))


def _combined(op_type: str, operands: list[Polynomial]) -> Polynomial | None:
    if op_type == "Neg":
        return {powers: -factor for powers, factor in operands[0].items()}
    if op_type in ("Add", "Sum"):
        return _sum(term for operand in operands for term in operand.items())
    a, b = operands
    if op_type == "Sub":
        return _sum([*a.items(), *((powers, -factor) for powers, factor in b.items())])
    if op_type == "Mul":
        return _product(a, b)
    by = _constant(b)
    if by is None:
        return None
    if op_type == "Div":
        return {powers: factor / by for powers, factor in a.items()} if by else None
    if by not in range(1, MAX_DEGREE + 1):
        return None
    power = a
    for _ in range(int(by) - 1):
        power = _product(power, a)
    return power


def _constant(terms: Polynomial) -> float | None:
    if not terms:
        return 0.0
    return next((f for p, f in terms.items() if not any(p)), None) if len(terms) == 1 else None


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    return _sum(
        (tuple(i + j for i, j in zip(p, q, strict=True)), f * g)
        for p, f in a.items()
        for q, g in b.items()
    )


def _sum(terms: Iterable[tuple[tuple[int, ...], float]]) -> Polynomial:
    total: dict[tuple[int, ...], float] = collections.defaultdict(float)
    for powers, factor in terms:
        total[powers] += factor
    return {powers: factor for powers, factor in total.items() if factor}


def arguments(value: ir.Value | None, depth: int = 3) -> list[ir.Value]:
    """Return the variables that ``value`` may be a polynomial of, itself first."""
    found: dict[ir.Value, None] = {}
    level = [value]
    for _ in range(depth + 1):
        level = [each for each in level if each is not None and tensor_of(each) is None]
        found.update(dict.fromkeys(each for each in level if each is not None))
        producers = [each.producer() for each in level if each is not None]
        level = [
            operand
            for node in producers
            if node is not None and not node.domain and node.op_type in ARITHMETIC
            for operand in node.inputs
        ]
    return list(found)


def grow(
    atom: ir.Value, x: ir.Value, terms: Polynomial, facts: Facts
) -> tuple[ir.Value, Formula] | None:
    """Return the value above ``atom`` that is ``terms`` of the atoms (``x``, ``atom``)."""
    value = atom
    for _ in range(MAX_CLIMB):
        node = facts.only_use(value)
        if node is None or node.domain or node.op_type not in ARITHMETIC:
            return None
        value = node.outputs[0]
        found = formula(value, (x, atom), facts)
        if found is None:
            return None
        if found.equals(terms, x.dtype):
            return value, found
    return None


def outside_use(nodes: Sequence[ir.Node], result: ir.Value) -> Reason | None:
    """Return the reason where something else uses what ``nodes`` compute for ``result``."""
    inside = set(nodes)
    for node in nodes:
        for value in node.outputs:
            if value is result:
                continue
            if value.is_graph_output() or any(user not in inside for user, _ in value.uses()):
                return Reason(f"{value.name!r} has another use")
    return None

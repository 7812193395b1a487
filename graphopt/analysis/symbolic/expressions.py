"""Integer polynomials over symbolic dimensions.

The size of a dimension is an ``int`` or an ``Expr``: ``batch``, ``batch*12 + 1``. Two equal
expressions are equal whatever the dimensions turn out to be; two different ones may still be
equal, so code asks for equality and never for difference. What is no polynomial (a quotient
that does not come out even, a maximum) becomes an atom whose name says what it is, so that the
same quotient computed twice is equal to itself.

A constant is always an ``int``, never an ``Expr``: ``+``, ``-`` and ``*`` see to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeAlias

__all__ = [
    "Atom",
    "Dim",
    "Expr",
    "broadcast",
    "ceil_divide",
    "divide",
    "floor_divide",
    "is_nonnegative",
    "is_positive",
    "maximum",
    "minimum",
    "modulo",
    "product",
    "symbol",
    "truncated",
]

LONGEST_NAME = 160
"""A longer name of a derived atom is replaced by its digest: towers of them stay small."""


@dataclasses.dataclass(frozen=True, order=True)
class Atom:
    """An unknown integer; equal to another one by its name.

    Attributes:
        name: What it is, in words of other atoms, or the name of a dimension.
        nonnegative: Whether it is known to be at least 0, as every dimension is.
        opaque: Whether nothing is known of where it comes from.
        given: Whether it is a size of what is fed, and so taken to be at least 1.
        at_most: Expressions that it is never larger than.
    """

    name: str
    nonnegative: bool = dataclasses.field(default=True, compare=False)
    opaque: bool = dataclasses.field(default=False, compare=False)
    given: bool = dataclasses.field(default=False, compare=False)
    at_most: tuple[Dim, ...] = dataclasses.field(default=(), compare=False)


_Monomial: TypeAlias = tuple[Atom, ...]


class Expr:
    """A polynomial that is not constant. Immutable; equal when it has the same terms.

    Attributes:
        terms: Product of atoms -> its factor.
        opaque: Whether it is one atom of which nothing is known.
    """

    __slots__ = ("_hash", "opaque", "terms")

    def __init__(self, terms: Mapping[_Monomial, int]) -> None:
        self.terms = dict(terms)
        self.opaque = self.atom is not None and self.atom.opaque
        self._hash = hash(frozenset(self.terms.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return _combine(self, other, 1)

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return _combine(self, other, -1)

    def __rsub__(self, other: int) -> Dim:
        return _combine(other, self, -1)

    def __neg__(self) -> Dim:
        return _combine(0, self, -1)

    def __mul__(self, other: Dim) -> Dim:
        terms: dict[_Monomial, int] = {}
        for left, factor in self.terms.items():
            for right, other_factor in _terms(other).items():
                monomial = tuple(sorted(left + right))
                terms[monomial] = terms.get(monomial, 0) + factor * other_factor
        return _normal(terms)

    __rmul__ = __mul__

    @property
    def atom(self) -> Atom | None:
        """The atom that is all there is to it; ``None`` where there is more."""
        if len(self.terms) != 1:
            return None
        ((monomial, factor),) = self.terms.items()
        return monomial[0] if len(monomial) == 1 and factor == 1 else None

    def __str__(self) -> str:
        parts = []
        for monomial, factor in sorted(self.terms.items()):
            names = [atom.name for atom in monomial]
            if factor != 1 or not names:
                names.insert(0, str(factor))
            parts.append("*".join(names))
        return " + ".join(parts)

    def __repr__(self) -> str:
        return f"Expr({self})"


Dim: TypeAlias = int | Expr


def symbol(
    name: str,
    *,
    nonnegative: bool = True,
    opaque: bool = False,
    given: bool = False,
    at_most: tuple[Dim, ...] = (),
) -> Expr:
    """Return the expression that is one atom; see ``Atom``."""
    return Expr({(Atom(name, nonnegative, opaque, given, at_most),): 1})


def _terms(dim: Dim) -> Mapping[_Monomial, int]:
    if isinstance(dim, Expr):
        return dim.terms
    return {(): dim} if dim else {}


def _normal(terms: Mapping[_Monomial, int]) -> Dim:
    kept = {monomial: factor for monomial, factor in terms.items() if factor}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Expr(kept)


def _combine(a: Dim, b: Dim, sign: int) -> Dim:
    terms = dict(_terms(a))
    for monomial, factor in _terms(b).items():
        terms[monomial] = terms.get(monomial, 0) + sign * factor
    return _normal(terms)


def _derived(name: str, *, nonnegative: bool, at_most: tuple[Dim, ...] = ()) -> Expr:
    if len(name) > LONGEST_NAME:
        name = f"#{hashlib.sha256(name.encode()).hexdigest()}"
    return symbol(name, nonnegative=nonnegative, at_most=at_most)


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of ``dims``; 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def is_nonnegative(dim: Dim) -> bool:
    """Whether ``dim`` is known to be at least 0."""
    if isinstance(dim, int):
        return dim >= 0
    return all(
        factor >= 0 and all(atom.nonnegative for atom in monomial)
        for monomial, factor in dim.terms.items()
    )


def is_positive(dim: Dim) -> bool:
    """Whether ``dim`` is known to be at least 1 wherever nothing that is fed is empty."""
    if isinstance(dim, int):
        return dim >= 1
    return is_nonnegative(dim) and any(
        all(atom.given for atom in monomial) for monomial in dim.terms
    )


def divide(a: Dim, b: Dim) -> Dim | None:
    """Return ``a / b`` where the division comes out even for all sizes; ``None`` elsewhere.

    Where ``b`` is symbolic, the quotient is that of sizes for which ``b`` is not 0.
    """
    if isinstance(b, int):
        if b == 0 or any(factor % b for factor in _terms(a).values()):
            return None
        return _normal({monomial: factor // b for monomial, factor in _terms(a).items()})
    if len(b.terms) != 1:
        # A sum divides only a multiple of itself.
        first = next(iter(b.terms))
        factor = _terms(a).get(first, 0)
        times, rest = divmod(factor, b.terms[first])
        return times if rest == 0 and times and b * times == a else None
    ((divisor, divisor_factor),) = b.terms.items()
    terms: dict[_Monomial, int] = {}
    for monomial, factor in _terms(a).items():
        left = list(monomial)
        for atom in divisor:
            if atom not in left:
                return None
            left.remove(atom)
        if factor % divisor_factor:
            return None
        terms[tuple(left)] = factor // divisor_factor
    return _normal(terms)


def truncated(a: Dim, b: Dim) -> Dim | None:
    """Return ``a / b`` rounded towards zero, as ONNX divides integers."""
    even = divide(a, b)
    if even is not None:
        return even
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            return None
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    if is_nonnegative(a) and is_nonnegative(b):
        return _derived(f"floor(({a})/({b}))", nonnegative=True)
    return None


def floor_divide(a: Dim, b: int, *, nonnegative: bool = False) -> Dim:
    """Return ``a / b`` rounded down, for ``b`` > 0.

    Args:
        a: Dividend.
        b: Divisor.
        nonnegative: Whether the result is known to be at least 0.
    """
    even = divide(a, b)
    if even is not None:
        return even
    if isinstance(a, int):
        return a // b
    known = nonnegative or is_nonnegative(a)
    return _derived(f"floor(({a})/({b}))", nonnegative=known)


def ceil_divide(a: Dim, b: int) -> Dim:
    """Return ``a / b`` rounded up, for ``b`` > 0."""
    return floor_divide(a + (b - 1), b)


def modulo(a: Dim, b: Dim) -> Dim | None:
    """Return ``a`` modulo ``b``, with the sign of ``b``."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b if b else None
    if isinstance(b, int) and b > 0 and divide(a, b) is not None:
        return 0
    if is_nonnegative(a) and is_nonnegative(b):
        return _derived(f"(({a})%({b}))", nonnegative=True)
    return None


def maximum(a: Dim, b: Dim) -> Dim:
    """Return the larger of two."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    if is_nonnegative(a - b):
        return a
    if is_nonnegative(b - a):
        return b
    first, second = sorted((str(a), str(b)))
    known = is_nonnegative(a) or is_nonnegative(b)
    return _derived(f"max({first}, {second})", nonnegative=known)


def minimum(a: Dim, b: Dim) -> Dim:
    """Return the smaller of two."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    if is_nonnegative(a - b):
        return b
    if is_nonnegative(b - a):
        return a
    first, second = sorted((str(a), str(b)))
    known = is_nonnegative(a) and is_nonnegative(b)
    return _derived(f"min({first}, {second})", nonnegative=known, at_most=(a, b))


def broadcast(a: Dim, b: Dim) -> Dim:
    """Return the size of two dimensions that are broadcast together.

    The model is taken to be valid: where one is a number other than 1, it is the result.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    # A table cut to min(size, length) against the size itself: were it shorter, other than by
    # being 1, the model would be invalid.
    if isinstance(a, int) or _is_at_most(b, a):
        return a
    if isinstance(b, int) or _is_at_most(a, b):
        return b
    first, second = sorted((str(a), str(b)))
    return _derived(f"bc({first}, {second})", nonnegative=True)


def _is_at_most(a: Dim, b: Dim) -> bool:
    atom = a.atom if isinstance(a, Expr) else None
    return atom is not None and b in atom.at_most

"""Makes up feeds from the inputs that a model declares.

Nothing is known of a model but the names, types and shapes of its inputs. Values are chosen to
mean something to as many models as possible: indices are small, masks begin with ones,
positions count up. Every symbolic dimension takes two sizes, so that nothing that depends on
one of them can hide.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from graphopt.errors import SamplesError
from graphopt.samples.spec import Feed, TensorSpec

__all__ = ["make_feeds", "sizes_of"]

BATCH_SIZES = (1, 2)
PAST_SIZES = (4, 8)
OTHER_SIZES = (16, 24)
IMAGE_SIZES = (64, 96)  # halved five times, as networks for images do, 2 and 3 are left

_MAX_ELEMENTS = 1 << 28  # 2 GB while they are made

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def make_feeds(specs: Sequence[TensorSpec], seed: int, count: int) -> Iterator[Feed]:
    """Yield ``count`` feeds; the same for the same arguments, each independent of the others.

    Args:
        specs: The inputs.
        seed: Seed of the values.
        count: Number of feeds; with 2 or more, each symbolic dimension has two sizes.

    Raises:
        SamplesError: An input is declared to be too large.
    """
    for index in range(count):
        shapes = sizes_of(specs, index)
        feed = {}
        for position, spec in enumerate(specs):
            if math.prod(shapes[spec.name]) > _MAX_ELEMENTS:
                raise SamplesError(
                    "too-large",
                    f"input {spec.name!r} is {spec.describe()}, too large to be made up.",
                    hint="Pass --data with samples.",
                )
            rng = np.random.default_rng([seed, index, position])
            feed[spec.name] = _values(spec, shapes[spec.name], rng)
        yield feed


def sizes_of(specs: Sequence[TensorSpec], index: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input in feed number ``index``.

    The same symbolic name has the same size everywhere. Dimensions without a name are taken to
    be the same along the same axis. Names that are sums or products of others, which exporters
    write, are computed from those.
    """
    places = [
        (_symbol(dim, axis), axis, spec)
        for spec in specs
        for axis, dim in enumerate(_dims(spec))
        if not isinstance(dim, int)
    ]
    plain = {name for name, _, _ in places if _parse(name) is None}
    symbols: dict[str, tuple[int, int]] = {}
    for name, axis, spec in places:
        # "batch-size" is a name, "past + sequence" a sum: of names that stand somewhere alone.
        if name in plain or not _names_in(name) <= plain:
            symbols.setdefault(name, _sizes(name, axis, spec))
    # Two sizes each; which symbols change together differs from pair to pair of feeds.
    chosen = {
        name: sizes[(index + index // 2 * number + number) % 2]
        for number, (name, sizes) in enumerate(symbols.items())
    }
    return {
        spec.name: tuple(
            dim if isinstance(dim, int) else _evaluate(_symbol(dim, axis), chosen)
            for axis, dim in enumerate(_dims(spec))
        )
        for spec in specs
    }


def _dims(spec: TensorSpec) -> tuple[int | str | None, ...]:
    return spec.shape if spec.ranked else (None, None)


def _symbol(dim: str | None, axis: int) -> str:
    return dim if dim else f"axis_{axis}"


def _sizes(name: str, axis: int, spec: TensorSpec) -> tuple[int, int]:
    words = name.lower()
    if "past" in words or "cache" in words:
        return PAST_SIZES
    if "batch" in words or words in ("n", "b", "bs"):
        return BATCH_SIZES
    if "seq" in words or "length" in words or "time" in words:
        return OTHER_SIZES
    if axis == 0:
        return BATCH_SIZES
    if len(spec.shape) == 4 and axis >= 2 and spec.dtype.kind != "b":
        return IMAGE_SIZES
    return OTHER_SIZES


def _parse(name: str) -> ast.expr | None:
    """Return ``name`` as an expression, where it is one and not just a name."""
    if re.fullmatch(r"\w+", name) or len(name) > 200:
        return None
    try:
        return ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _names_in(name: str) -> set[str]:
    body = _parse(name)
    return {n.id for n in ast.walk(body) if isinstance(n, ast.Name)} if body else {name}


def _evaluate(name: str, sizes: Mapping[str, int]) -> int:
    if name in sizes:
        return sizes[name]
    body = _parse(name)
    value = _compute(body, sizes) if body is not None else None
    return value if value is not None and 0 < value < 1 << 20 else OTHER_SIZES[0]


def _compute(node: ast.expr, sizes: Mapping[str, int]) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes.get(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _compute(node.left, sizes), _compute(node.right, sizes)
        divides = isinstance(node.op, ast.FloorDiv | ast.Div | ast.Mod)
        if left is None or right is None or (divides and not right):
            return None
        return _OPERATORS[type(node.op)](left, right)
    return None


def _values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    name, kind = spec.name.lower(), spec.dtype.kind
    if spec.dtype == object:
        words = np.array(["alpha", "beta", "gamma", "delta"], object)
        return words[rng.integers(0, len(words), shape)]
    if "mask" in name and kind in "iub" and shape:
        # Ones and then zeros: a row of zeros alone has no softmax.
        kept = rng.integers(1, max(shape[-1], 1) + 1, (*shape[:-1], 1))
        return (np.arange(shape[-1]) < kept).astype(spec.dtype)
    if kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind in "iu":
        if "position" in name and shape:
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(spec.dtype)
        if spec.dtype.itemsize == 1:
            return rng.integers(0, 128, shape).astype(spec.dtype)  # pixels, quantized values
        # Types of a token are 0 or 1; a vocabulary has at least ten words.
        is_token = "ids" in name and "type" not in name and "segment" not in name
        return rng.integers(0, 10 if is_token else 2, shape).astype(spec.dtype)
    values = rng.standard_normal(shape)
    if kind == "c":
        return (values + 1j * rng.standard_normal(shape)).astype(spec.dtype)
    return np.asarray(values).astype(spec.dtype)

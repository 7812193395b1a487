"""Whether a model can take the place of another: the same inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from graphopt.samples import TensorSpec

__all__ = ["difference_of"]


def difference_of(
    kind: Literal["input", "output", "overridable input"],
    original: Sequence[TensorSpec],
    candidate: Sequence[TensorSpec],
) -> str:
    """Return why ``candidate`` does not fit where ``original`` did; empty if it does.

    Names, their order and element types are the same. A dimension that varies may not become
    fixed in an input, for then some feeds are refused. In an output it may: an inferred size
    is no other size.

    Args:
        kind: What is compared.
        original: The inputs or outputs of the original, in their order.
        candidate: Those of the candidate.
    """
    names = [spec.name for spec in original]
    found = [spec.name for spec in candidate]
    if names != found:
        if sorted(names) == sorted(found):
            return f"the {kind}s are in another order: {_listed(found)}, were {_listed(names)}"
        missing = [name for name in names if name not in found]
        added = [name for name in found if name not in names]
        parts = []
        if missing:
            parts.append(f"{_listed(missing)} missing")
        if added:
            parts.append(f"{_listed(added)} added")
        return f"the {kind}s are not the same: {', '.join(parts) or 'another number'}"
    for spec, other in zip(original, candidate, strict=True):
        if spec.dtype != other.dtype:
            return f"{kind} {spec.name!r} has type {other.dtype} and had {spec.dtype}"
        if not _fits(kind, spec, other):
            return f"{kind} {spec.name!r} is {_shape(other)} and was {_shape(spec)}"
    return ""


def _fits(kind: str, spec: TensorSpec, other: TensorSpec) -> bool:
    if not other.ranked:
        return True
    if not spec.ranked:
        return kind == "output"
    if len(spec.shape) != len(other.shape):
        return False
    for dim, now in zip(spec.shape, other.shape, strict=True):
        if isinstance(now, int) and dim != now and (isinstance(dim, int) or kind != "output"):
            return False
    return True


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _shape(spec: TensorSpec) -> str:
    if not spec.ranked:
        return "of any shape"
    return f"[{', '.join('?' if dim is None else str(dim) for dim in spec.shape)}]"

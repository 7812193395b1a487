"""What an input is declared to be, and what it is fed."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Feed", "TensorSpec"]

Feed: TypeAlias = dict[str, np.ndarray]
"""Input name -> array: what a model is given for one run."""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input as the model declares it.

    Attributes:
        name: Its name.
        dtype: Type of its elements; ``object`` for strings.
        shape: One entry a dimension: its size, the name of a symbolic one, or ``None`` where
            nothing is said.
        ranked: Whether the number of dimensions is known; if not, ``shape`` is empty.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    ranked: bool = True

    def describe(self) -> str:
        """Return type and shape as text: ``float32[N, 3, ?]``."""
        kind = "string" if self.dtype == object else self.dtype.name
        if not self.ranked:
            return f"{kind}[...]"
        return f"{kind}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"

"""One thing that is wrong with a model."""

from __future__ import annotations

import dataclasses
from typing import Self

from graphopt.errors import GraphoptError

__all__ = ["Finding"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model.

    Attributes:
        code: Stable identifier; that of the error with which the model is refused, if it is.
        message: One line: what was found where, and what was expected.
        hint: What to do about it; may be empty.
        graph: Where that is: empty for the main graph, else the nodes and attributes that lead
            to the subgraph, e.g. ``"loop.body"``.
        name: Name of the node, tensor, input or output; empty where it is the model.
        is_error: Whether the model cannot be used so; a warning is allowed and rarely meant.
    """

    code: str
    message: str
    hint: str = ""
    graph: str = ""
    name: str = ""
    is_error: bool = True

    @classmethod
    def of(cls, error: GraphoptError, graph: str = "", name: str = "") -> Self:
        """Return what ``error`` says."""
        return cls(error.code, error.message, error.hint, graph, name)

"""What recovery is given of a feed, and what it says of a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

__all__ = ["HOLD_OUT", "Pair", "Recovered", "recovery_summary"]

HOLD_OUT = 2
"""Every so-many-th row is held out, where there are few."""

Pair: TypeAlias = tuple[np.ndarray, np.ndarray, np.random.Generator]
"""What goes into a layer now, what the original made there, and the dice of this feed."""


@dataclasses.dataclass(frozen=True)
class Recovered:
    """One layer that was fitted, or left as it was.

    Attributes:
        layer: Name of the node.
        method: What gave the best weights.
        error_before, error: Mean square error on rows held out, relative to the mean square of
            the original outputs.
    """

    layer: str
    method: str
    error_before: float
    error: float


def recovery_summary(recovered: Sequence[Recovered]) -> str:
    """Return one line about what recovery did."""
    fitted = [one for one in recovered if one.method != "as it was"]
    return f"recovered {len(fitted)} of {len(recovered)} layers"

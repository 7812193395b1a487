"""What the patterns become in other releases of onnxruntime than the one they are written for.

One row for each minor release from which on something is different, newest first; a release
has the row of the newest that is not newer than itself.
"""

from __future__ import annotations

__all__ = ["SINCE", "expected_in"]

SINCE: dict[tuple[int, int], dict[str, tuple[str, str]]] = {
    (1, 27): {},
    (1, 25): {"Resize linear": ("int8-move", "Resize, Q, DQ")},
    (1, 23): {
        "Resize linear": ("int8-move", "Resize, Q, DQ"),
        "weight-only MatMul per channel": ("float", "MatMul, DQ"),
        "weight-only MatMul per tensor": ("float", "MatMul, DQ"),
        "weight-only Gemm per channel": ("float", "Gemm, DQ"),
    },
}
"""First minor release -> pattern -> (verdict, nodes of the optimized graph)."""


def expected_in(version: str) -> dict[str, tuple[str, str]]:
    """Return the patterns that are something else in a release, and what they are there."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return next((row for since, row in SINCE.items() if (major, minor) >= since), {})

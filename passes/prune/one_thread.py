"""numpy's products of matrices on one thread.

The threads of a BLAS spin while they wait for each other. Where other programs run, too, most
of the time goes there: a system of 2,305 unknowns took 7.6 s with two threads on a busy
machine of two cores, 0.7 s with one (OpenBLAS 0.3). And sums that each thread does a part of
depend on how many cores there are; the same samples should give the same bytes on all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import threadpoolctl

__all__ = ["one_thread"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy use one thread in the block; a BLAS without a way to say so is left."""
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        yield

"""Looks at the values of a model while it runs; used in the child process only.

What a run returns stays where it was computed: to send the activations to the parent would
take as long as many a model does. While the values of a large feed are looked at, the next one
runs, so that those of two are in memory at most.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from graphopt.runtime.loaded import Loaded, size_of
from graphopt.runtime.wire import Opaque

__all__ = ["Observer"]


_GROUP_BYTES = 1 << 21
"""Small values are looked at so many at a time: a look takes 20 us, however small they are."""


class Observer:
    """Runs a model, and hands the values it takes to accumulators.

    Args:
        loaded: The model.
        accumulators: Name of an input or output -> its accumulator, pickled.
    """

    def __init__(self, loaded: Loaded, accumulators: bytes) -> None:
        self._loaded = loaded
        self._accumulators: dict[str, Any] = pickle.loads(accumulators)
        self._names = [name for name, _, _ in loaded.outputs]
        self._pool = ThreadPoolExecutor(1)
        self._group: list[tuple[int, dict[str, Any]]] = []
        self._bytes = 0
        self._looking: Future[None] | None = None

    def observe(self, feeds: Mapping[str, Any], index: int) -> None:
        """Run one feed; what its values do is known when a later call returns."""
        values = dict(feeds)
        values.update(zip(self._names, self._loaded.run(feeds), strict=True))
        # Nothing else is held: an image is large next to the few numbers a layer takes.
        watched = {name: values[name] for name in self._accumulators}
        self._group.append((index, watched))
        self._bytes += sum(map(size_of, watched.values()))
        del values, watched
        if self._bytes >= _GROUP_BYTES:
            self._flush()

    def close(self) -> tuple[bytes, list[Any]]:
        """Return the accumulators, pickled; the observer is of no use any more.

        The arrays in them come apart, as uint8: second moments may take 500 MB, and each copy
        of them as much again.
        """
        buffers: list[pickle.PickleBuffer] = []
        try:
            self._flush()
            self._wait()
            head = pickle.dumps(self._accumulators, 5, buffer_callback=buffers.append)
            return head, [np.asarray(buffer.raw()) for buffer in buffers]
        finally:
            self._pool.shutdown()

    def _flush(self) -> None:
        group, self._group, self._bytes = self._group, [], 0
        self._wait()
        if len(group) > 1:
            # Runs are short here: two threads would wait for the interpreter more than for
            # each other.
            self._look(group)
        else:
            self._looking = self._pool.submit(self._look, group)

    def _wait(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.result()

    def _look(self, group: list[tuple[int, dict[str, Any]]]) -> None:
        feeds = [index for index, _ in group]
        for name, accumulator in self._accumulators.items():
            arrays = [_plain(values[name]) for _, values in group]
            if hasattr(accumulator, "update_many"):
                accumulator.update_many(arrays, feeds)
                continue
            for array, feed in zip(arrays, feeds, strict=True):
                accumulator.update(array, feed)


def _plain(value: Any) -> Any:
    if not isinstance(value, Opaque):
        return value
    from graphopt.runtime.arrays import decode  # brings all of onnx with it

    return decode(value)

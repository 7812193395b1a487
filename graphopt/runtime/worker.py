"""The child process: the only one in which onnxruntime is imported.

Started as ``python -m graphopt.runtime.worker SOCKET``; answers one request at a time. A
request is ``(operation, keywords)`` with arrays, an answer ``("ok", value)`` with arrays or
``("error", case, text)``; before an answer may come any number of ``("progress", value)``. It
imports numpy, onnxruntime and the accumulators it is sent, and ends when its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from graphopt.runtime import rounds
from graphopt.runtime.loaded import Loaded, RefusedError, load, size_of, text_of
from graphopt.runtime.observer import Observer
from graphopt.runtime.wire import Channel, ClosedError

__all__ = ["main"]

Answer: TypeAlias = "tuple[tuple[Any, ...], Sequence[Any]]"

# What onnxruntime itself needs for a small node, threads and code included.
_SPARE_BYTES = 1 << 28


class _Server:
    """The operations: each public method is one, and returns a value and arrays."""

    def __init__(self, report: Callable[[Any], None]) -> None:
        self._report = report
        self._sessions: dict[int, Loaded] = {}
        self._observers: dict[int, Observer] = {}
        self._nodes: dict[int, Loaded] = {}
        self._base_bytes = _address_space()
        self._limit_bytes = 0

    def hello(self, values: Sequence[Any]) -> Answer:
        del values
        return ("ok", ort.__version__), ()

    def load(
        self,
        values: Sequence[Any],
        key: int,
        model: str | None,
        level: str,
        threads: int,
        config: Mapping[str, str],
    ) -> Answer:
        """Load the model at a path, or the one whose bytes are the only value."""
        loaded = load(values[0].tobytes() if model is None else model, level, threads, config)
        self._sessions[key] = loaded
        return ("ok", (loaded.inputs, loaded.outputs, loaded.overridable)), ()

    def run(self, values: Sequence[Any], key: int, names: Sequence[str]) -> Answer:
        outputs = self._sessions[key].run(dict(zip(names, values, strict=True)))
        return ("ok", None), outputs

    def watch(self, values: Sequence[Any], key: int, accumulators: bytes) -> Answer:
        """Begin to collect statistics of the values of a model."""
        del values
        self._forget_observer(key)
        self._observers[key] = Observer(self._sessions[key], accumulators)
        return ("ok", None), ()

    def observe(
        self, values: Sequence[Any], key: int, names: Sequence[str], feed_index: int
    ) -> Answer:
        """Run a model that is watched on the feed of this index."""
        self._observers[key].observe(dict(zip(names, values, strict=True)), feed_index)
        return ("ok", None), ()

    def observed(self, values: Sequence[Any], key: int) -> Answer:
        """Return the statistics of a model that is watched."""
        del values
        accumulators, buffers = self._observers.pop(key).close()
        return ("ok", accumulators), buffers

    def unload(self, values: Sequence[Any], key: int) -> Answer:
        del values
        self._sessions.pop(key, None)
        self._forget_observer(key)
        gc.collect()
        _give_back_memory()
        return ("ok", None), ()

    def _forget_observer(self, key: int) -> None:
        if (observer := self._observers.pop(key, None)) is not None:
            with contextlib.suppress(Exception):  # told already, or of no interest any more
                observer.close()

    def evaluate(
        self,
        values: Sequence[Any],
        jobs: Sequence[tuple[int, bytes | None, Sequence[str]]],
        forget: Sequence[int],
        max_bytes: int,
    ) -> Answer:
        """Run one-node models, given as (key, the model the first time, names of its inputs).

        The value is one entry a job: how many of the arrays are its outputs, or the case and
        the text of its error.
        """
        for key in forget:
            self._nodes.pop(key, None)
        self._limit(2 * max_bytes + 4 * sum(map(size_of, values)))
        supply = iter(values)
        answers: list[int | tuple[str, str]] = []
        results: list[Any] = []
        for key, model, names in jobs:
            feeds = {name: next(supply) for name in names}
            try:
                if model is not None:
                    self._nodes[key] = load(model, "disable", 1, {}, arena=False)
                outputs = self._nodes[key].run(feeds)
            except Exception as error:
                answers.append(_case(error))
                continue
            size = sum(map(size_of, outputs))
            if size > max_bytes:
                text = f"the result has {size} bytes, and {max_bytes} are allowed"
                answers.append(("refused", text))
                continue
            answers.append(len(outputs))
            results += outputs
        return ("ok", answers), results

    def _limit(self, wanted: int) -> None:
        """Let this process take ``wanted`` bytes more than it took when it started.

        What a node unfolds to cannot be foreseen in general; beyond this the allocation fails,
        and the machine does not start to swap.
        """
        if not self._base_bytes or wanted <= self._limit_bytes:
            return
        self._limit_bytes = wanted
        with contextlib.suppress(ValueError, OSError):
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            limit = self._base_bytes + _SPARE_BYTES + wanted
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

    def latency(
        self,
        values: Sequence[Any],
        keys: Sequence[int],
        names: Sequence[Sequence[str]],
        plan: rounds.Plan,
    ) -> Answer:
        """Time models in turn; the values are those of all the feeds, one after the other."""
        supply = iter(values)
        feeds = [{name: next(supply) for name in feed} for feed in names]
        sessions = [self._sessions[key] for key in keys]
        runs = [lambda at, s=loaded: s.run(feeds[at % len(feeds)]) for loaded in sessions]
        return ("ok", None), [rounds.measure(runs, plan, self._report)]

    def misbehave(self, values: Sequence[Any], how: str) -> Answer:
        """Die, hang, or use up the memory: for the tests of the parent."""
        del values
        if how == "hang":
            time.sleep(3600)
        if how == "allocate":
            self._limit(1 << 30)
            return ("ok", None), [np.ones(1 << 31, np.uint8)]
        os.kill(os.getpid(), signal.Signals[how])
        return ("ok", None), ()


def _give_back_memory() -> None:
    """Let the system have what was freed: the next model would come on top of it."""
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def _address_space() -> int:
    """Return the bytes of address space in use; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _case(error: Exception) -> tuple[str, str]:
    if isinstance(error, MemoryError):
        return "failed", "it needs more memory than it may use"
    return "refused" if isinstance(error, RefusedError) else "failed", text_of(error)


def _watch(end: socket.socket, parent: int) -> None:
    """End this process when the parent has ended, even in the middle of a run."""
    poll = select.poll()
    poll.register(end, 0)  # errors and the end of the connection are always told
    # The parent's id is looked at too: a process that it forked may hold the connection open.
    while not poll.poll(2000) and os.getppid() == parent:
        pass
    os._exit(1)


def main(descriptor: int) -> None:
    """Answer requests until the parent closes the connection or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        # Where memory runs out, let it be this process that is killed and not the parent.
        file.write("500")
    end = socket.socket(fileno=descriptor)
    threading.Thread(target=_watch, args=(end, os.getppid()), daemon=True).start()
    channel = Channel(end)
    server = _Server(lambda value: channel.send(("progress", value)))
    with contextlib.suppress(ClosedError):
        while True:
            (operation, keywords), values = channel.receive()
            try:
                answer, results = getattr(server, operation)(values, **keywords)
            except Exception as error:
                answer, results = ("error", *_case(error)), ()
            channel.send(answer, results)
            del values, results  # not held until the next request has come


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""The child process: the only place where onnxruntime is imported.

Started as ``python -m graphopt.runtime.worker SOCKET``; answers one request at a time. A
request is ``(operation, keywords)`` with arrays, an answer ``("ok", value)`` with arrays or
``("error", case, text)``; before an answer may come any number of ``("progress", value)``. It
imports numpy and onnxruntime only, and ends when its parent does.
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
from graphopt.runtime.wire import Channel, ClosedError, Opaque

__all__ = ["main"]

Answer: TypeAlias = "tuple[tuple[Any, ...], Sequence[Any]]"

_LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# The element types that numpy does not have, as onnxruntime calls them.
_OPAQUE = {
    f"tensor({name})"
    for name in (
        "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
        "float8e8m0", "float4e2m1", "uint4", "int4", "uint2", "int2",
    )
}  # fmt: skip
# What onnxruntime itself needs for a small node, threads and code included.
_SPARE_BYTES = 1 << 28


class _RefusedError(Exception):
    """onnxruntime does not load a model."""


class _Loaded:
    """A session and what running it needs to know."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.inputs = [(i.name, i.type, i.shape) for i in session.get_inputs()]
        self.outputs = [(o.name, o.type, o.shape) for o in session.get_outputs()]
        self.overridable = [
            (o.name, o.type, o.shape) for o in session.get_overridable_initializers()
        ]
        self._names = [name for name, _, _ in self.outputs]
        self._opaque = any(kind in _OPAQUE for _, kind, _ in self.outputs)

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        if not self._opaque and not any(isinstance(v, Opaque) for v in feeds.values()):
            return list(self._session.run(self._names, feeds))
        values = {name: _to_ort(value) for name, value in feeds.items()}
        results = self._session.run_with_ort_values(self._names, values)
        return [_from_ort(value) for value in results]


def _to_ort(value: Any) -> ort.OrtValue:
    if not isinstance(value, Opaque):
        return ort.OrtValue.ortvalue_from_numpy(value)
    # Allocated and filled: the constructor from an array knows no packed types.
    out = ort.OrtValue.ortvalue_from_shape_and_type(list(value.shape), value.element_type)
    size = out.tensor_size_in_bytes()
    if size != value.data.nbytes:
        raise ValueError(f"{value.data.nbytes} bytes of data for a tensor of {size}")
    if size:
        ctypes.memmove(out.data_ptr(), value.data.ctypes.data, size)
    return out


def _from_ort(value: ort.OrtValue) -> Any:
    if not value.is_tensor() or value.data_type() not in _OPAQUE:
        return value.numpy()
    data = np.empty(value.tensor_size_in_bytes(), np.uint8)
    if data.nbytes:
        ctypes.memmove(data.ctypes.data, value.data_ptr(), data.nbytes)
    return Opaque(value.element_type(), tuple(value.shape()), data)


def _load(
    model: bytes | str, level: str, threads: int, config: Mapping[str, str], arena: bool = True
) -> _Loaded:
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    try:
        for key, value in config.items():
            if key == "optimized_model_filepath":
                options.optimized_model_filepath = value
            else:
                options.add_session_config_entry(key, value)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:
        raise _RefusedError(_text(error)) from error
    return _Loaded(session)


class _Server:
    """The operations: each public method is one, and returns a value and arrays."""

    def __init__(self, report: Callable[[Any], None]) -> None:
        self._report = report
        self._sessions: dict[int, _Loaded] = {}
        self._nodes: dict[int, _Loaded] = {}
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
        loaded = _load(values[0].tobytes() if model is None else model, level, threads, config)
        self._sessions[key] = loaded
        return ("ok", (loaded.inputs, loaded.outputs, loaded.overridable)), ()

    def run(self, values: Sequence[Any], key: int, names: Sequence[str]) -> Answer:
        outputs = self._sessions[key].run(dict(zip(names, values, strict=True)))
        return ("ok", None), outputs

    def unload(self, values: Sequence[Any], key: int) -> Answer:
        del values
        self._sessions.pop(key, None)
        gc.collect()
        return ("ok", None), ()

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
        self._limit(2 * max_bytes + 4 * sum(map(_size, values)))
        supply = iter(values)
        answers: list[int | tuple[str, str]] = []
        results: list[Any] = []
        for key, model, names in jobs:
            feeds = {name: next(supply) for name in names}
            try:
                if model is not None:
                    self._nodes[key] = _load(model, "disable", 1, {}, arena=False)
                outputs = self._nodes[key].run(feeds)
            except Exception as error:
                answers.append(_case(error))
                continue
            size = sum(map(_size, outputs))
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


def _size(value: Any) -> int:
    if isinstance(value, Opaque):
        return value.data.nbytes
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return sum(_size(item) for item in value) if isinstance(value, list) else 0


def _address_space() -> int:
    """Return the bytes of address space in use; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _case(error: Exception) -> tuple[str, str]:
    if isinstance(error, MemoryError):
        return "failed", "it needs more memory than it may use"
    return "refused" if isinstance(error, _RefusedError) else "failed", _text(error)


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

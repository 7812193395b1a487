"""The child process: the only place where onnxruntime is imported.

Started as ``python -m graphopt.runtime.worker``; answers one request at a time. A request is
``(operation, arguments)``, an answer ``("ok", value)``, ``("error", case, text)``, or, before
the answer, any number of ``("progress", value)``. It imports numpy and onnxruntime only, and
ends when its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from graphopt.runtime.wire import ELEMENT_TYPES, Channel, ClosedError, Opaque

__all__ = ["main"]

_LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# onnxruntime's names of the element types that numpy does not have.
_OPAQUE = {
    "tensor(bfloat16)",
    "tensor(float8e4m3fn)",
    "tensor(float8e4m3fnuz)",
    "tensor(float8e5m2)",
    "tensor(float8e5m2fnuz)",
    "tensor(float8e8m0)",
    "tensor(float4e2m1)",
    "tensor(uint4)",
    "tensor(int4)",
    "tensor(uint2)",
    "tensor(int2)",
}


class _RefusedError(Exception):
    """onnxruntime does not load a model."""


class _Loaded:
    """A session and what running it needs to know."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.inputs = [(i.name, i.type, i.shape) for i in session.get_inputs()]
        self.outputs = [(o.name, o.type, o.shape) for o in session.get_outputs()]
        self.opaque = any(kind in _OPAQUE for _, kind, _ in self.outputs)

    def run(self, feeds: Mapping[str, Any], names: Sequence[str] | None = None) -> list[Any]:
        if not self.opaque and not any(isinstance(v, Opaque) for v in feeds.values()):
            return list(self.session.run(names, feeds))
        values = {name: _to_ort(value) for name, value in feeds.items()}
        wanted = names or [name for name, _, _ in self.outputs]
        return [_from_ort(v) for v in self.session.run_with_ort_values(wanted, values)]


def _to_ort(value: Any) -> ort.OrtValue:
    if not isinstance(value, Opaque):
        return ort.OrtValue.ortvalue_from_numpy(value)
    # Allocated and filled: onnxruntime's own constructor takes no 4-bit types.
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


def _size(value: Any) -> int:
    if isinstance(value, Opaque):
        return value.data.nbytes
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return sum(_size(item) for item in value) if isinstance(value, list) else 0


class _Server:
    """The operations; each method is one."""

    def __init__(self, report: Callable[[Any], None]) -> None:
        self._report = report
        self._sessions: dict[int, _Loaded] = {}
        self._nodes: dict[int, _Loaded] = {}

    def hello(self) -> dict[str, Any]:
        return {"onnxruntime": ort.__version__, "pid": os.getpid()}

    def load(
        self,
        key: int,
        model: bytes | str,
        folder: str = "",
        level: str = "all",
        threads: int = 1,
        spinning: bool = False,
        optimized_path: str = "",
    ) -> tuple[list[Any], list[Any]]:
        """Load a model; returns (name, type, shape) of its inputs and of its outputs."""
        loaded = _load(model, folder, level, threads, spinning, optimized_path)
        self._sessions[key] = loaded
        return loaded.inputs, loaded.outputs

    def run(
        self, key: int, feeds: dict[str, Any], names: Sequence[str] | None = None
    ) -> list[Any]:
        return self._sessions[key].run(feeds, names)

    def unload(self, key: int) -> None:
        self._sessions.pop(key, None)
        gc.collect()

    def evaluate(
        self, requests: Sequence[tuple[int, bytes | None, dict[str, Any]]], max_bytes: int
    ) -> list[tuple[Any, ...]]:
        """Run one-node models; an error of one is its answer, and the others go on."""
        answers: list[tuple[Any, ...]] = []
        for key, model, feeds in requests:
            try:
                if model is not None:
                    self._nodes[key] = _load(model, "", "disable", 1, False, "")
                outputs = self._nodes[key].run(feeds)
                size = sum(_size(output) for output in outputs)
                if size > max_bytes:
                    text = f"the result has {size} bytes, and {max_bytes} are allowed"
                    answers.append(("error", "refused", text))
                else:
                    answers.append(("ok", outputs))
            except Exception as error:
                answers.append(_answer(error))
        return answers

    def forget(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._nodes.pop(key, None)

    def latency(
        self, keys: Sequence[int], feeds: Sequence[dict[str, Any]], repetitions: int
    ) -> list[list[float]]:
        sessions = [self._sessions[key] for key in keys]
        for loaded in sessions:
            for _ in range(3):
                loaded.run(feeds[0])
        times: list[list[float]] = [[] for _ in sessions]
        gc.disable()
        try:
            for index in range(repetitions):
                order = range(len(sessions))
                for at in order if index % 2 == 0 else reversed(order):
                    feed = feeds[index % len(feeds)]
                    start = time.perf_counter()
                    sessions[at].run(feed)
                    times[at].append(time.perf_counter() - start)
                self._report((index + 1, repetitions, statistics.median(times[0])))
        finally:
            gc.enable()
        return times

    def misbehave(self, how: str) -> None:
        """Die, hang, or use up the memory: what the tests of the parent need."""
        if how == "hang":
            time.sleep(3600)
        elif how == "memory":
            held = []
            while True:
                held.append(np.ones(1 << 24))
        else:
            os.kill(os.getpid(), signal.Signals[how])


def _load(
    model: bytes | str,
    folder: str,
    level: str,
    threads: int,
    spinning: bool,
    optimized_path: str,
) -> _Loaded:
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if folder:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", folder
        )
    if optimized_path:
        options.optimized_model_filepath = optimized_path
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:
        raise _RefusedError(_text(error)) from error
    return _Loaded(session)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _answer(error: Exception) -> tuple[str, str, str]:
    return ("error", "refused" if isinstance(error, _RefusedError) else "failed", _text(error))


def _watch(descriptor: int, parent: int) -> None:
    """End this process when the parent has ended, even in the middle of a run."""
    poll = select.poll()
    poll.register(descriptor, 0)
    while not poll.poll(2000) and os.getppid() == parent:
        pass
    os._exit(1)


def main() -> None:
    """Answer requests until the parent closes the pipe or ends."""
    requests = os.dup(0)
    answers = os.dup(1)
    # Native code that prints must not end up in the middle of an answer.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(requests, os.getppid()), daemon=True).start()
    channel = Channel(requests, answers)
    server = _Server(lambda value: channel.send(("progress", value)))
    assert set(_OPAQUE).isdisjoint(ELEMENT_TYPES)
    with contextlib.suppress(ClosedError):
        while True:
            operation, arguments = channel.receive()
            try:
                answer: tuple[Any, ...] = ("ok", getattr(server, operation)(*arguments))
            except Exception as error:
                answer = _answer(error)
            channel.send(answer)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

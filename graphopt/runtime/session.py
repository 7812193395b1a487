"""A model loaded by onnxruntime in a child process."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
import onnx_ir as ir

from graphopt.errors import ExecutionError, SamplesError
from graphopt.runtime import arrays
from graphopt.runtime.process import Process

__all__ = ["Level", "Loaded", "Model", "Session", "describe", "run_together"]

Model: TypeAlias = "ir.Model | str | os.PathLike[str]"
A = TypeVar("A")
Level: TypeAlias = Literal["disable", "basic", "extended", "all"]
"""How much onnxruntime optimizes the graph when it loads it; ``"all"`` is its default."""
_Declared: TypeAlias = "list[tuple[str, str, list[Any]]]"
Loaded: TypeAlias = "tuple[int, _Declared, _Declared, _Declared]"
"""Key of a model in its process; name, type and shape of its inputs, its outputs and the
initializers that may be fed."""

# Feeds that are sent before the answer to the first has come: the child never waits for one.
_AHEAD = 4


class Session:
    """A loaded model; made by ``Runtime.session``, closed at the end of a ``with`` block.

    Attributes:
        input_specs: Inputs that have to be fed, as onnxruntime declares them.
        output_specs: Outputs: the model's own, then those asked for.
        overridable_specs: Initializers that may be fed.
    """

    def __init__(
        self,
        process: Process,
        release: Callable[[Process], None],
        model: Model,
        loaded: Loaded,
        timeout: float | None,
    ) -> None:
        self._process: Process | None = process
        self._generation = process.generation
        self._release = release
        self._what = describe(model)
        self._key, inputs, outputs, overridable = loaded
        self._timeout = timeout
        self.input_specs = tuple(map(arrays.spec_of, inputs))
        self.output_specs = tuple(map(arrays.spec_of, outputs))
        self.overridable_specs = tuple(map(arrays.spec_of, overridable))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs: the model's own, then those asked for."""
        return tuple(spec.name for spec in self.output_specs)

    @property
    def is_open(self) -> bool:
        """Whether the model is still loaded: not closed, and its process alive."""
        process = self._process
        return (
            process is not None
            and process.pid is not None
            and process.generation == self._generation
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            feeds: Input name -> array.

        Returns:
            Output name -> array. What is no tensor comes as onnxruntime returns it: a sequence
            as a list, a map as a dict.

        Raises:
            ExecutionError: onnxruntime failed, died or took too long; after the last two the
                session is closed.
        """
        (result,) = run_together([self], feeds)
        if isinstance(result, ExecutionError):
            raise result
        return result

    def observe(
        self,
        feeds: Iterable[tuple[int, Mapping[str, np.ndarray]]],
        watched: Mapping[str, A],
        advance: Callable[[], object] = lambda: None,
    ) -> dict[str, A]:
        """Run the model on feeds and take in its values, in the child process.

        Args:
            feeds: Index and values of each feed.
            watched: Name of an input or output -> an accumulator, with a method
                ``update(values, index of the feed)``; it can be pickled, and is not changed.
            advance: Called after each feed.

        Returns:
            The accumulators that have taken in all feeds.

        Raises:
            ExecutionError: As of ``run``.
        """
        self._request("watch", accumulators=pickle.dumps(dict(watched), protocol=5))
        process = self._opened()
        waiting = 0
        with process.lock:
            try:
                for index, feed in feeds:
                    if waiting == _AHEAD:
                        waiting -= 1
                        process.receive(what=self._what)
                        advance()
                    self._send(process, "observe", feed, feed_index=index)
                    waiting += 1
                while waiting:
                    waiting -= 1
                    process.receive(what=self._what)
                    advance()
            except (ExecutionError, SamplesError):
                # Answers that are still to come would be taken for those of later requests.
                while waiting and self.is_open:
                    waiting -= 1
                    with contextlib.suppress(ExecutionError):
                        process.receive(what=self._what)
                raise
            except BaseException:
                process.kill()
                raise
        pickled, buffers = self._request("observed")
        taken: dict[str, A] = pickle.loads(pickled, buffers=buffers)
        return taken

    def close(self) -> None:
        """Unload the model; one whose process dies of that is unloaded as well."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            with process.lock, contextlib.suppress(ExecutionError):
                if process.pid is not None and process.generation == self._generation:
                    process.request("unload", what=self._what, key=self._key)
        finally:
            self._release(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, feeds: Mapping[str, np.ndarray]) -> Process:
        """Send a request to run; the caller holds the lock of the process."""
        process = self._opened()
        self._send(process, "run", feeds)
        return process

    def _send(
        self, process: Process, operation: str, feed: Mapping[str, np.ndarray], **keywords: Any
    ) -> None:
        process.send(
            operation,
            self._encoded(feed),
            what=self._what,
            timeout=self._timeout,
            key=self._key,
            names=list(feed),
            **keywords,
        )

    def _request(self, operation: str, **keywords: Any) -> tuple[Any, list[Any]]:
        return self._opened().request(
            operation, what=self._what, timeout=self._timeout, key=self._key, **keywords
        )

    def _opened(self) -> Process:
        if self._process is None or not self.is_open:
            raise ExecutionError("closed", f"{self._what} is not loaded any more.")
        return self._process

    def _encoded(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        try:
            return [arrays.encode(value) for value in feeds.values()]
        except TypeError as error:
            raise ExecutionError("failed", f"{self._what} cannot be fed: {error}.") from error

    def _finish(self, process: Process) -> dict[str, np.ndarray]:
        _, values = process.receive(what=self._what)
        return {
            name: arrays.decode(value)
            for name, value in zip(self.output_names, values, strict=True)
        }


def run_together(
    sessions: Sequence[Session], feeds: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray] | ExecutionError]:
    """Run several sessions on the same feed, those of different processes at the same time.

    Returns:
        What ``Session.run`` returns or raises, one entry a session.
    """
    results: list[Any] = [None] * len(sessions)
    # In one order for all threads, so that two of them cannot wait for each other.
    order = sorted(range(len(sessions)), key=lambda at: id(sessions[at]._process))
    running: list[tuple[int, Process]] = []

    def finish() -> None:
        at, process = running[0]
        try:
            results[at] = sessions[at]._finish(process)
        except ExecutionError as error:
            results[at] = error
        running.pop(0)
        process.lock.release()

    try:
        for at in order:
            owner = sessions[at]._process
            if running and running[-1][1] is owner:
                finish()
            lock = owner.lock if owner is not None else None
            if lock is not None:
                lock.acquire()
            try:
                running.append((at, sessions[at]._start(feeds)))
            except BaseException as error:
                if lock is not None:
                    lock.release()
                if not isinstance(error, ExecutionError):
                    raise
                results[at] = error
        while running:
            finish()
    finally:
        for _, process in running:
            process.kill()
            process.lock.release()
    return results


def describe(model: Model) -> str:
    """Return the words for ``model`` in the text of an error."""
    if isinstance(model, ir.Model):
        return f"the model {model.graph.name!r}" if model.graph.name else "the model"
    return os.fspath(model)

"""Runs functions in a child process, so that whatever happens there is a result here.

Every function gets a ``Runtime`` as its first argument, which lives as long as the process it
runs in: starting onnxruntime takes longer than most of what is asked of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol, Self, TypeVar, cast

from graphopt.errors import ExecutionError
from graphopt.runtime import Runtime

__all__ = ["Direct", "Isolated", "Workplace"]

T = TypeVar("T")


class Workplace(Protocol):
    """Where functions are run."""

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what ``function(runtime, *arguments)`` returns; raise what it raises.

        Raises:
            ExecutionError: It did not come back.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Direct:
    """Runs functions here: faster, but a crash is a crash.

    Attributes:
        runtime: What they get.
    """

    runtime: Runtime

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what ``function(runtime, *arguments)`` returns; raise what it raises."""
        return function(self.runtime, *arguments)


class Isolated:
    """Runs functions, one at a time, in a child process that is started anew after a death.

    Functions, arguments and results are sent with pickle, so functions are those of modules.
    What the child prints goes to stderr.

    Args:
        timeout: Seconds after which the child is killed, with all it started; ``None``: never.
        memory_bytes: Address space that the child, and each process it starts, may take;
            ``None``: any. What goes beyond gets a ``MemoryError``, or dies.
    """

    def __init__(self, timeout: float | None = None, memory_bytes: int | None = None) -> None:
        self._timeout = timeout
        self._memory_bytes = memory_bytes
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Connection | None = None

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what ``function(runtime, *arguments)`` returns; raise what it raises.

        Raises:
            ExecutionError: The child died (case ``crashed``) or took too long (``timeout``).
        """
        if self._process is None:
            self._start()
        assert self._pipe is not None
        answer: tuple[T | None, Exception | None] | None = None
        try:
            self._pipe.send((function, arguments))
            if self._pipe.poll(self._timeout):
                answer = self._pipe.recv()
        except (EOFError, OSError):
            raise ExecutionError("crashed", f"the process {self._end()}.") from None
        except BaseException:
            self.close()  # an answer that still comes would be taken for that of the next call
            raise
        if answer is None:
            self.close()
            raise ExecutionError("timeout", f"no result within {self._timeout:g} s.")
        value, error = answer
        if error is not None:
            raise error
        return cast("T", value)

    def close(self) -> None:
        """End the child and all that it started."""
        if self._process is None:
            return
        assert self._pipe is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # before it had a group of its own
        self._process.join()
        self._pipe.close()
        self._process = self._pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        self._pipe, there = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(there, self._timeout, self._memory_bytes), daemon=True
        )
        self._process.start()
        there.close()

    def _end(self) -> str:
        """Return how the child ended, in words."""
        process = self._process
        process.join(5)
        code = process.exitcode
        self.close()
        if code is not None and code < 0:
            return f"died of {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _serve(pipe: Connection, timeout: float | None, memory_bytes: int | None) -> None:
    os.setsid()
    if memory_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with Runtime(timeout) as runtime:
        while True:
            try:
                function, arguments = pipe.recv()
            except EOFError:
                return
            answer: tuple[Any, Exception | None]
            try:
                answer = (function(runtime, *arguments), None)
            except Exception as error:
                answer = (None, error)
            try:
                pipe.send(answer)
            except Exception as error:  # it cannot be pickled
                said = (
                    f"{type(error).__name__}: {error}. It was to say: {answer[1] or answer[0]}"
                )
                refusal = ExecutionError("failed", f"the answer cannot be sent: {said}")
                pipe.send((None, refusal))

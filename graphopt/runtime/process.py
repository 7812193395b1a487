"""The parent's side of the child process: start it, ask it, survive it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from graphopt.errors import ExecutionError
from graphopt.runtime.wire import Channel, ClosedError

__all__ = ["Process"]

_START_TIMEOUT = 60.0


class Process:
    """A child process that runs onnxruntime; started at the first request.

    After it has died (of a signal, of a timeout, of an interrupt here) the next request starts
    a new one: ``generation`` then counts up, and nothing that was loaded is there any more.
    Requests of several threads wait for each other.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._noise: IO[bytes] | None = None
        self._owner = 0

    @property
    def lock(self) -> threading.RLock:
        """Held by a request; hold it around several that belong together."""
        return self._lock

    @property
    def pid(self) -> int | None:
        """Process id of the child; ``None`` when there is none."""
        return self._child.pid if self._child is not None else None

    def ensure(self) -> int:
        """Start the child if it does not run, and return its generation."""
        with self._lock:
            if self._owner != os.getpid():
                # A copy made by fork: the child belongs to the process we were copied from.
                self._child, self._channel, self._noise = None, None, None
            if self._child is None:
                self._start()
            return self.generation

    def request(
        self,
        operation: str,
        *arguments: Any,
        what: str,
        timeout: float | None = None,
        progress: Callable[[Any], None] | None = None,
    ) -> Any:
        """Ask the child for one operation and return its answer.

        Args:
            operation: Name of a method of the worker's server.
            *arguments: Its arguments.
            what: What is run, for the text of an error, e.g. ``"model 'a.onnx'"``.
            timeout: Seconds after which the child is killed; ``None``: never.
            progress: Called with what the child reports before it answers.

        Raises:
            ExecutionError: See ``graphopt.runtime``.
        """
        with self._lock:
            self.ensure()
            deadline = None if timeout is None else time.monotonic() + timeout
            noise_start = self._noise_size()
            try:
                answer = self._exchange(operation, arguments, deadline, progress)
            except ClosedError:
                raise self._crashed(what, noise_start) from None
            except TimeoutError:
                self.kill()
                raise ExecutionError(
                    "timeout",
                    f"{what} did not finish within {timeout:g} s in onnxruntime.",
                    hint="Allow more time, or look for a loop that does not end.",
                ) from None
            except BaseException:
                # The answer would be taken for that of the next request.
                self.kill()
                raise
            if answer[0] == "ok":
                return answer[1]
            _, case, text = answer
            raise error_of(what, case, text)

    def _exchange(
        self,
        operation: str,
        arguments: tuple[Any, ...],
        deadline: float | None,
        progress: Callable[[Any], None] | None,
    ) -> tuple[Any, ...]:
        assert self._channel is not None
        self._channel.send((operation, arguments), deadline)
        while True:
            answer: tuple[Any, ...] = self._channel.receive(deadline)
            if answer[0] != "progress":
                return answer
            if progress is not None:
                progress(answer[1])

    def kill(self) -> int | None:
        """End the child at once and return its exit status; loaded models are gone."""
        with self._lock:
            child, channel = self._child, self._channel
            self._child, self._channel = None, None
            if self._noise is not None:
                self._noise.close()
                self._noise = None
            if child is None or self._owner != os.getpid():
                return None
            if channel is not None:
                channel.close()
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            return child.wait()

    def _start(self) -> None:
        self._owner = os.getpid()
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        request_reader, request_writer = os.pipe()
        answer_reader, answer_writer = os.pipe()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "graphopt.runtime.worker"],
                stdin=request_reader,
                stdout=answer_writer,
                stderr=self._noise,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                # Ctrl-C is for the parent, which then decides.
                start_new_session=True,
            )
        except BaseException:
            os.close(request_writer)
            os.close(answer_reader)
            raise
        finally:
            os.close(request_reader)
            os.close(answer_writer)
        os.set_blocking(request_writer, False)
        self._channel = Channel(answer_reader, request_writer)
        self.generation += 1
        self.request("hello", what="the onnxruntime process", timeout=_START_TIMEOUT)

    def _noise_size(self) -> int:
        return os.fstat(self._noise.fileno()).st_size if self._noise is not None else 0

    def _crashed(self, what: str, noise_start: int) -> ExecutionError:
        noise = b""
        if self._noise is not None:
            noise = os.pread(self._noise.fileno(), 1 << 16, noise_start)
        if self._child is not None:
            # It has closed its pipe; give it a moment to end by itself, so that its own
            # status is read and not that of our SIGKILL.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
        status = self.kill()
        line = meaningful_line(noise.decode(errors="replace"))
        return ExecutionError(
            "crashed",
            f"onnxruntime died of {_cause(status)} while running {what}."
            + (f" It said: {line}" if line else ""),
            hint=_advice(status),
        )


def error_of(what: str, case: str, text: str) -> ExecutionError:
    """Return the error for a refusal or a failure that onnxruntime has put into words."""
    verb = "does not load" if case == "refused" else "failed to run"
    line = meaningful_line(text) or text
    return ExecutionError(case, f"onnxruntime {verb} {what}: {line}")


def meaningful_line(text: str) -> str:
    """Return the first line of onnxruntime's words that says something, without its marks."""
    for line in text.splitlines():
        clean = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
        clean = re.sub(r"^[\d\-: .,]+\[[A-Z]:[^\]]*\]\s*", "", clean)
        clean = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", clean)
        if clean and not clean.startswith(("Traceback", "File ")):
            return clean if len(clean) <= 400 else clean[:397] + "..."
    return ""


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"


def _advice(status: int | None) -> str:
    if status == -signal.SIGKILL:
        return "The system may have killed it for lack of memory."
    if status == -signal.SIGFPE:
        return "An integer is divided by zero."
    return "This is a defect of onnxruntime; another version may run the model."

"""The parent's side of the child process: start it, ask it, survive it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any

from graphopt.errors import ExecutionError
from graphopt.runtime.wire import Channel, ClosedError

__all__ = ["Process", "error_of", "meaningful_line"]

# Starting takes 0.2 s; a machine under heavy load may take a hundred times as long.
_START_SECONDS = 60.0
_NOISE_BYTES = 1 << 20


class _Child:
    """One running child process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.noise: IO[bytes] = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - has no name
        ours, theirs = socket.socketpair()
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "graphopt.runtime.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self.noise,
                stderr=self.noise,
                pass_fds=[theirs.fileno()],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    # From 1.29 on it sends names and hashes of models to its maker.
                    "ORT_DISABLE_TELEMETRY": "1",
                },
                # Ctrl-C is for the parent, which then decides.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            self.noise.close()
            raise
        finally:
            theirs.close()
        self.channel = Channel(ours)
        self.pid = self._popen.pid

    def strike(self) -> None:
        """Kill it, if it is ours."""
        if self.owner == os.getpid():
            self._popen.kill()

    def end(self, patience: float = 0.0) -> int:
        """Wait ``patience`` seconds for its end, kill it, and return its exit status."""
        self.channel.close()
        self.noise.close()
        if self.owner != os.getpid():
            # We are a copy made by fork; the child is not ours to wait for.
            self._popen.returncode = 0
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(patience)
        self.strike()
        return self._popen.wait()


class Process:
    """A child process that runs onnxruntime; started at the first request.

    After it has died (of a signal, of a timeout, of an interrupt here) the next request starts
    a new one: ``generation`` then counts up, and nothing that was loaded is there any more.
    Requests of several threads wait for each other.

    Attributes:
        lock: Held during a request; hold it around several that belong together.
        generation: How often a child was started.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.generation = 0
        self._child: _Child | None = None
        self._finalizer: weakref.finalize[..., Process] | None = None
        self._timeout: float | None = None
        self._deadline: float | None = None
        self._noise_start = 0

    @property
    def pid(self) -> int | None:
        """Process id of the child; ``None`` when there is none."""
        return self._child.pid if self._child is not None else None

    def ensure(self) -> int:
        """Start the child if it does not run, and return its generation."""
        with self.lock:
            if self._child is not None and self._child.owner != os.getpid():
                self.kill()
            if self._child is None:
                self._child = _Child()
                # An owner that forgets to close leaves no process behind.
                self._finalizer = weakref.finalize(self, self._child.end)
                self.generation += 1
                self.request("hello", what="its first request", timeout=_START_SECONDS)
            return self.generation

    def request(
        self,
        operation: str,
        values: Sequence[Any] = (),
        *,
        what: str,
        timeout: float | None = None,
        progress: Callable[[Any], None] | None = None,
        **keywords: Any,
    ) -> tuple[Any, list[Any]]:
        """Ask the child for one operation and return its answer: a value, and arrays.

        Args:
            operation: Name of a method of the worker's server.
            values: Arrays to send (see ``graphopt.runtime.wire``).
            what: What is run, for the text of an error.
            timeout: Seconds after which the child is killed; ``None``: never.
            progress: Called with what the child reports before it answers.
            **keywords: Arguments of the operation.

        Raises:
            ExecutionError: See ``graphopt.runtime.Runtime``.
        """
        with self.lock:
            self.send(operation, values, what=what, timeout=timeout, **keywords)
            return self.receive(what=what, progress=progress)

    def send(
        self,
        operation: str,
        values: Sequence[Any] = (),
        *,
        what: str,
        timeout: float | None = None,
        **keywords: Any,
    ) -> None:
        """Do the first half of ``request``; the caller holds the lock until the second."""
        self.ensure()
        assert self._child is not None
        self._timeout = timeout
        self._start_clock()
        size = os.fstat(self._child.noise.fileno()).st_size
        if size > _NOISE_BYTES:
            self._child.noise.truncate(0)
            size = 0
        self._noise_start = size
        with self._surviving(what):
            self._child.channel.send((operation, keywords), values, self._deadline)

    def receive(
        self, *, what: str, progress: Callable[[Any], None] | None = None
    ) -> tuple[Any, list[Any]]:
        """Do the second half of ``request``."""
        assert self._child is not None
        with self._surviving(what):
            while True:
                answer, values = self._child.channel.receive(self._deadline)
                if answer[0] != "progress":
                    break
                if progress is not None:
                    progress(answer[1])
        # A request that was sent ahead begins now.
        self._start_clock()
        if answer[0] == "error":
            raise error_of(what, answer[1], answer[2])
        return answer[1], values

    def _start_clock(self) -> None:
        seconds = self._timeout
        self._deadline = None if seconds is None else time.monotonic() + seconds

    @contextlib.contextmanager
    def _surviving(self, what: str) -> Any:
        try:
            yield
        except ClosedError:
            raise self._crashed(what) from None
        except TimeoutError:
            self.kill()
            raise ExecutionError(
                "timeout",
                f"onnxruntime did not finish running {what} within {self._timeout:g} s.",
                hint="Allow more time, or look for a loop that does not end.",
            ) from None
        except BaseException:
            # An answer that is still to come would be taken for that of the next request.
            self.kill()
            raise

    def kill(self, patience: float = 0.0) -> int:
        """End the child and return its exit status; what it had loaded is gone.

        May be called by another thread than the one that waits for an answer, which then gets
        an error.
        """
        if (running := self._child) is not None and not patience:
            running.strike()
        with self.lock:
            child, self._child = self._child, None
            if self._finalizer is not None:
                self._finalizer.detach()
                self._finalizer = None
            return child.end(patience) if child is not None else 0

    def _crashed(self, what: str) -> ExecutionError:
        assert self._child is not None
        noise = os.pread(self._child.noise.fileno(), 1 << 16, self._noise_start)
        # It has closed its end; in a moment it has ended, with its own status and not with
        # that of our SIGKILL.
        status = self.kill(patience=5.0)
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        said = meaningful_line(noise.decode(errors="replace"))
        return ExecutionError(
            "crashed",
            f"onnxruntime died of {cause} while running {what}."
            + (f" It said: {said}" if said else ""),
            hint=_ADVICE.get(-status, "This is a defect of onnxruntime; try another version."),
        )


_ADVICE: dict[int, str] = {
    signal.SIGKILL: "The system may have ended it for lack of memory.",
    signal.SIGFPE: "Look for an integer division by zero.",
    signal.SIGABRT: "It may have run out of memory.",
}


def error_of(what: str, case: str, text: str) -> ExecutionError:
    """Return the error for a refusal or a failure that onnxruntime has put into words."""
    verb = "does not load" if case == "refused" else "failed to run"
    return ExecutionError(case, f"onnxruntime {verb} {what}: {meaningful_line(text) or text}")


# What stands before the words: colours, the time and place of a log line, the error's number.
_MARKS = (
    re.compile(r"\x1b\[[0-9;]*m"),
    re.compile(r"^[\d.:-]+ [\d.:-]+ \[[A-Z]:[^\]]*\]\s*"),
    re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "),
    re.compile(r"^Non-zero status code returned while running .* Status Message: "),
    re.compile(r"^\S+\.(cc|h|cpp):\d+ "),
)


def meaningful_line(text: str) -> str:
    """Return the first line of onnxruntime's words that says something, without its marks."""
    lines = text.splitlines()
    if lines and lines[0].startswith("Traceback"):
        lines.reverse()  # Python says it last
    for line in lines:
        clean = line.strip()
        for mark in _MARKS:
            clean = mark.sub("", clean)
        if clean:
            return clean if len(clean) <= 400 else clean[:397] + "..."
    return ""

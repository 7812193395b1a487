"""Checks: is this model right? By its answers, or by what any command says."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
from collections.abc import Sequence
from typing import Protocol

from graphopt.answers import Answers, answers, first_feeds, objection, tolerance_for
from graphopt.errors import ExecutionError, GraphoptError, ValidationError
from graphopt.passbase import Promise
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model
from graphopt.samples import Feed, Samples
from graphopt.scores import ScoreMeter, UserMetric, metric_of
from graphopt.validation import Tolerance

__all__ = ["Check", "CommandCheck", "NumericCheck", "Verdict", "verdict_of"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check said.

    Attributes:
        kind: ``"passed"``, or how it failed: ``"differs"`` (wrong answers), ``"refused"``
            (onnxruntime does not load it), ``"failed"`` (it does not run), ``"crashed"`` (a
            process died), ``"timeout"``, ``"memory"``, ``"exception"`` (a pass raised),
            ``"command"`` (a command said no), ``"interrupted"`` (nobody came back to tell).
        detail: The reason, in one line; empty where it passed.
    """

    kind: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the model is right."""
        return self.kind == "passed"

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


def verdict_of(error: Exception) -> Verdict:
    """Return what ``error``, raised while a model was made or run, says about it."""
    if isinstance(error, ExecutionError):
        case = error.code.partition("/")[2]
        return Verdict("failed" if case == "closed" else case, error.message)
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return Verdict("memory", " ".join(str(error).split()))
    text = error.message if isinstance(error, GraphoptError) else str(error)
    return Verdict("exception", " ".join(f"{type(error).__name__}: {text}".split()))


class CommandError(GraphoptError):
    """What is to check the model is no command."""

    family = "command"


class Check(Protocol):
    """Says whether a model is right. Can be sent to another process."""

    def __call__(self, model: pathlib.Path, runtime: Runtime) -> Verdict:
        """Return the verdict on the model in a file."""
        ...


@dataclasses.dataclass(frozen=True)
class NumericCheck:
    """The model gives the answers that were given before, in onnxruntime as it is deployed.

    Attributes:
        feeds: What it is run on.
        reference: The answers of the original, run without optimization.
        promise: How much the answers may differ.
        tolerance: For ``Promise.CLOSE``.
        metric: For ``Promise.LOSSY``: what ``target`` is measured in; ``module:function`` is
            looked up where the check is made (see ``graphopt.scores``).
        target: The least that ``metric`` must be; ``None``: finite answers are enough.
    """

    feeds: list[Feed]
    reference: Answers
    promise: Promise
    tolerance: Tolerance
    metric: str = "cosine"
    target: float | None = None

    @classmethod
    def of(
        cls,
        original: Model,
        samples: Samples,
        runtime: Runtime,
        count: int = 8,
        promise: Promise = Promise.CLOSE,
        tolerance: Tolerance | None = None,
        metric: str = "cosine",
        target: float | None = None,
    ) -> NumericCheck:
        """Run ``original`` on the first ``count`` samples and return the check.

        Raises:
            ValidationError: The original cannot be run, so that nothing can be said.
        """
        feeds = first_feeds(samples, count)
        try:
            reference = answers(original, feeds, runtime)
        except ExecutionError as error:
            raise ValidationError("not-runnable", f"the original: {error.message}") from error
        tolerance = tolerance or tolerance_for(original)
        return cls(feeds, reference, promise, tolerance, metric, target)

    def __call__(self, model: pathlib.Path, runtime: Runtime) -> Verdict:
        """Return the verdict on the model in a file."""
        # onnxruntime's own optimizations re-associate: no deployed model is exact.
        promise = Promise.CLOSE if self.promise is Promise.EXACT else self.promise
        try:
            found = answers(model, self.feeds, runtime, optimize=True)
        except GraphoptError as error:
            return verdict_of(error)
        metric = metric_of(self.metric)
        if isinstance(metric, UserMetric):
            wrong = objection(self.reference, found, promise, self.tolerance)
            wrong = wrong or self._shortfall(metric, promise, found)
        else:
            wrong = objection(
                self.reference, found, promise, self.tolerance, metric, self.target
            )
        return Verdict("differs", wrong) if wrong else Verdict("passed")

    def _shortfall(self, metric: UserMetric, promise: Promise, found: Answers) -> str:
        """Return by how much a metric of the user's misses the target, or ``""``."""
        if self.target is None or promise is not Promise.LOSSY:
            return ""
        meter = ScoreMeter(metric)
        every = zip(self.feeds, self.reference, found, strict=True)
        for index, (feed, reference, outputs) in enumerate(every):
            meter.add(index, feed, reference, outputs)
        score = meter.quality()
        if score >= self.target:
            return ""
        return f"{metric.name} is {score:.6g}, and the target is {self.target:g}"


@dataclasses.dataclass(frozen=True)
class CommandCheck:
    """A command says it: exit code 0 for a right model, anything else for a wrong one.

    Attributes:
        command: The command and its arguments; ``{model}`` stands for the path of the model,
            which is appended where it is not mentioned.
        timeout: Seconds after which the command, with all it started, is killed and the model
            is taken for wrong; ``None``: never.
    """

    command: Sequence[str]
    timeout: float | None = None

    @classmethod
    def parse(cls, text: str, timeout: float | None = None) -> CommandCheck:
        """Return the check of a command line, split as a shell does.

        Raises:
            CommandError: A quote is not closed.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise CommandError("syntax", f"the command {text!r}: {error}.") from error
        return cls(words, timeout)

    def __call__(self, model: pathlib.Path, runtime: Runtime) -> Verdict:
        """Return the verdict on the model in a file."""
        del runtime
        words = [word.replace("{model}", str(model)) for word in self.command]
        if words == list(self.command):
            words.append(str(model))
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ValidationError(
                "command", f"{words[0]!r} cannot be run: {error.strerror}."
            ) from error
        try:
            output, _ = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            return Verdict("timeout", f"{words[0]} did not end within {self.timeout:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if process.returncode == 0:
            return Verdict("passed")
        last = output.decode(errors="replace").strip().splitlines()[-1:]
        said = f": {last[0].strip()}" if last else ""
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            return Verdict("crashed", f"{words[0]} died of {name}{said}")
        return Verdict("command", f"{words[0]} returned {process.returncode}{said}")

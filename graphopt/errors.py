"""Every error a user can meet: a stable code, one line of text, what to do.

An error is raised where it is noticed and printed once, by the command line. The text names
the file, node or tensor, what was found and what was expected; ``hint`` says what to do.
The code never changes its meaning, so that scripts can rely on it.

Exit codes: 0 done; 1 the model did not validate or a target was not met; 2 bad input or
usage; 70 a defect of graphopt itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from graphopt.api import Result

__all__ = [
    "EXIT_DEFECT",
    "EXIT_INVALID",
    "EXIT_OK",
    "EXIT_USAGE",
    "ExecutionError",
    "GraphoptError",
    "MetricError",
    "ModelError",
    "OutputError",
    "PassError",
    "PipelineError",
    "SamplesError",
    "ValidationError",
    "error_json",
    "nearest",
]

EXIT_OK = 0
EXIT_INVALID = 1
EXIT_USAGE = 2
EXIT_DEFECT = 70


class GraphoptError(Exception):
    """Base of every error of graphopt.

    Attributes:
        code: Stable identifier, e.g. ``"model/truncated"``: the family, then the case.
        message: One line: what was found where, and what was expected.
        hint: One line: what to do about it; may be empty.
    """

    family: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_USAGE

    def __init__(self, case: str, message: str, *, hint: str = "") -> None:
        self.code = f"{self.family}/{case}"
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())
        super().__init__(case, message, hint)

    def __str__(self) -> str:
        hint = f" {self.hint}" if self.hint else ""
        return f"[{self.code}] {self.message}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions travel between processes; the default would lose the keyword.
        return (_rebuild, (type(self), self.code.split("/", 1)[1], self.message, self.hint))


def _rebuild(cls: type[GraphoptError], case: str, message: str, hint: str) -> GraphoptError:
    return cls(case, message, hint=hint)


class ModelError(GraphoptError):
    """The input file is not a usable ONNX model."""

    family = "model"


class SamplesError(GraphoptError):
    """The samples do not fit the model, or there are none."""

    family = "samples"


class MetricError(GraphoptError):
    """The metric of the user's cannot be found, raises, or returns no number."""

    family = "metric"


class PipelineError(GraphoptError):
    """The text or the options of a pipeline are wrong."""

    family = "pipeline"


class OutputError(GraphoptError):
    """The result cannot be written where it was asked for."""

    family = "output"


class PassError(GraphoptError):
    """A pass failed or left an invalid graph: a defect of that pass."""

    family = "pass"
    exit_code = EXIT_DEFECT


class ExecutionError(GraphoptError):
    """onnxruntime refused a model, failed while running it, or died of a signal."""

    family = "runtime"
    exit_code = EXIT_INVALID


class ValidationError(GraphoptError):
    """The candidate differs from the original by more than was promised.

    Attributes:
        result: What ``optimize`` made and did not write; ``None`` where there is nothing.
    """

    family = "validation"
    exit_code = EXIT_INVALID
    result: Result | None = None


def error_json(code: str, message: str, status: int) -> dict[str, object]:
    """Return what a command prints to stdout in place of its result, with ``--json``."""
    return {
        "schema": "graphopt/error/1",
        "code": code,
        "message": message,
        "exit_code": status,
    }


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint with the valid name nearest to ``name``, or all the valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Valid: {', '.join(names)}." if names else "There is none."

"""What a pass is, and what it is given.

A pass is a value: a frozen dataclass whose fields are its options. It keeps nothing between
runs; what a run shares comes in the ``Context``.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import enum
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import onnx_ir as ir

from graphopt.errors import SamplesError
from graphopt.ledger import Ledger
from graphopt.rewriter import Guard, Observer, Rewriter

if TYPE_CHECKING:
    import pathlib

    from graphopt.runtime import Runtime
    from graphopt.samples import Samples
    from graphopt.scores import Metric

__all__ = ["Context", "Pass", "PassResult", "Progress", "Promise", "Target"]


class Promise(enum.Enum):
    """What a pass promises about the answers of the model."""

    EXACT = "exact"
    """Bit for bit the same."""
    CLOSE = "close"
    """The same but for the order of floating-point operations."""
    LOSSY = "lossy"
    """Another function, judged by a metric."""


class Target(enum.Enum):
    """Which operators a pass may emit."""

    STANDARD = "standard"
    """Operators of the ONNX standard only."""
    ONNXRUNTIME = "onnxruntime"
    """Operators of onnxruntime's ``com.microsoft`` domain too."""


@dataclasses.dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        model: The model after the pass; usually the one it was given, edited in place.
        modified: True if and only if the serialized model differs.
        summary: One line with numbers, e.g. ``"fused 3 of 5 Conv+BatchNormalization"``.
        details: Values for the report that can be written as JSON (a plan, a table).
    """

    model: ir.Model
    modified: bool
    summary: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Progress(Protocol):
    """Where long work says how far it is."""

    def track(self, description: str, total: int | None = None) -> _Task:
        """Start a task of ``total`` steps (``None``: unknown)."""
        ...


class _Task(Protocol):
    def advance(self, steps: int = 1) -> None: ...
    def close(self) -> None: ...


class _Silent:
    """Progress that nobody looks at."""

    def track(self, description: str, total: int | None = None) -> _Task:
        del description, total
        return self

    def advance(self, steps: int = 1) -> None:
        del steps

    def close(self) -> None:
        pass


@dataclasses.dataclass
class Context:
    """What a run shares between its passes.

    Attributes:
        samples: What the model is run on, or ``None``.
        ledger: The record of the run.
        target: Which operators may be emitted.
        seed: Seed of everything random.
        quality: What the user wants a lossy result to keep by ``metric``; ``None``: nothing
            was said.
        metric: What that is measured in (see ``graphopt.scores``).
        original: The model as it was before the first pass, if there is a file of it.
        journal: File in which long searches remember how far they are; ``None``: nowhere.
        executor: Where work that can be spread is sent; ``None``: done here.
        progress: Where long work reports.
        guards: Checks made after each application (see ``graphopt.edit.Guard``).
        observers: Called after each application that stands (``graphopt.edit.Observer``).
        artifacts: What passes publish for later passes and the report, under their name.
    """

    samples: Samples | None = None
    ledger: Ledger = dataclasses.field(default_factory=Ledger)
    target: Target = Target.STANDARD
    seed: int = 0
    quality: float | None = None
    metric: Metric = "cosine"
    original: pathlib.Path | None = None
    journal: pathlib.Path | None = None
    executor: Executor | None = None
    progress: Progress = dataclasses.field(default_factory=_Silent)
    guards: list[Guard] = dataclasses.field(default_factory=list)
    observers: list[Observer] = dataclasses.field(default_factory=list)
    artifacts: dict[str, Any] = dataclasses.field(default_factory=dict)
    _runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The way to onnxruntime, in a process of its own; started at the first use."""
        if self._runtime is None:
            from graphopt.runtime import Runtime

            self._runtime = Runtime()
        return self._runtime

    def share(self, runtime: Runtime) -> None:
        """Use a runtime that the caller owns and closes."""
        self._runtime = runtime

    def rewriter(self, model: ir.Model, pass_: Pass) -> Rewriter:
        """Return what ``pass_`` edits ``model`` with."""
        return Rewriter(model, pass_.name, self.ledger, self.guards, observers=self.observers)

    def required_samples(self, pass_: Pass) -> Samples:
        """Return the samples.

        Raises:
            SamplesError: There are none.
        """
        if self.samples is None:
            raise SamplesError(
                "missing",
                f"{pass_.name} measures the model on samples, and none were given.",
                hint="Pass --data with an .npz file or a folder of them.",
            )
        return self.samples

    @contextlib.contextmanager
    def closing(self) -> Iterator[Context]:
        """Stop the runtime's process at the end of the block."""
        try:
            yield self
        finally:
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None


class Pass(abc.ABC):
    """Base of every pass. Subclasses are frozen dataclasses; the fields are the options.

    Attributes:
        name: Name on the command line, kebab-case.
        promise: What the answers of the model are worth afterwards.
        needs_samples: Whether it cannot run without samples.
        after: Names of passes that, where they are in the same pipeline, must come earlier.
    """

    name: ClassVar[str]
    promise: ClassVar[Promise]
    needs_samples: ClassVar[bool] = False
    after: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Run the pass on ``model``, which is edited in place."""

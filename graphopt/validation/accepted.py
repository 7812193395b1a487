"""Made-up samples that a model runs on, in place of those that it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from graphopt.errors import ExecutionError, ValidationError
from graphopt.runtime import Runtime
from graphopt.runtime.session import Model, Session
from graphopt.samples import Feed, Samples
from graphopt.validation.redraw import Redraw

__all__ = ["AcceptedSamples", "accepted"]


class AcceptedSamples(Samples):
    """Samples that were tried on a model; made by ``accepted``."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was replaced, and why; complete after the first time through."""
        assert isinstance(self._factory, _Trial)
        return self._factory.notes()


def accepted(samples: Samples, model: Model, runtime: Runtime) -> Samples:
    """Return ``samples`` with those that ``model`` refuses replaced by others.

    Samples of the user are what they are. Made-up ones are tried when they are first asked
    for, and what was found is remembered; pass the result on to whatever runs the model.

    Args:
        samples: Any samples.
        model: What has to run on them.
        runtime: Where it is tried.
    """
    specs = samples.specs
    if not samples.is_synthetic or specs is None or isinstance(samples, AcceptedSamples):
        return samples
    return AcceptedSamples(
        _Trial(samples, model, runtime), specs, samples.describe(), is_synthetic=True
    )


class _Trial:
    """Starts the samples again, each time the same."""

    def __init__(self, samples: Samples, model: Model, runtime: Runtime) -> None:
        self._samples = samples
        self._model = model
        self._runtime = runtime
        self._redraw = Redraw(samples.specs or ())
        self._runs: dict[int, bool] = {}  # as it is, or in its place another one
        self._session: Session | None = None
        self._refusal: ExecutionError | None = None
        self._left_out: set[int] = set()

    def __call__(self) -> Iterator[Feed]:
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            for index, feed in enumerate(self._samples.feeds()):
                found = self._found(index, feed)
                if found is not None:
                    yield found
        if self._refusal is not None and len(self._left_out) == len(self._runs):
            raise ValidationError(
                "not-runnable",
                f"the original runs on no made-up sample: {self._refusal.message}",
                hint="Pass --data with samples that it accepts.",
            )

    def notes(self) -> tuple[str, ...]:
        if self._refusal is None:
            return ()
        note = f"the original refuses some made-up samples ({self._refusal.message})"
        if found := self._redraw.describe():
            note += f"; in their place are some with {found}"
        if self._left_out:
            note += f"; {len(self._left_out)} were left out"
        return (note,)

    def _found(self, index: int, feed: Feed) -> Feed | None:
        if index in self._left_out:
            return None
        if index not in self._runs:
            error = self._try(feed)
            self._runs[index] = error is None
            self._refusal = self._refusal or error
        if self._runs[index]:
            return feed
        other = self._redraw.find(feed, index, lambda feed: self._try(feed) is None)
        if other is None:
            self._left_out.add(index)
        return other

    def _try(self, feed: Feed) -> ExecutionError | None:
        if self._session is None or not self._session.is_open:
            self._close()
            self._session = _open(self._runtime, self._model)
        try:
            self._session.run(feed)
        except ExecutionError as error:
            return error
        return None

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _open(runtime: Runtime, model: Model) -> Session:
    """Load the model as the reference of a comparison is loaded.

    Raises:
        ValidationError: It is not loaded.
    """
    try:
        return runtime.session(model, optimize=False)
    except ExecutionError:
        pass
    try:
        return runtime.session(model)
    except ExecutionError as error:
        raise ValidationError(
            "not-runnable",
            f"the original is not loaded: {error.message}",
            hint="Nothing can be said about a candidate without a reference that runs.",
        ) from error

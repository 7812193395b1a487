"""Runs a model on samples and accumulates what is asked about its activations, feed by feed.

The accumulators live in the process that runs the model, so that activations never leave it.
Those of two feeds are in memory at most: one is looked at while the next one runs. The feeds
may be spread over the workers of an executor: each runs its share and returns accumulators,
which are merged in the order of the shares, so that the result does not depend on the number
of workers or on which is faster.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar

import numpy.typing as npt
import onnx_ir as ir

from graphopt import model_io
from graphopt.calibration.statistics import TensorStatistics
from graphopt.model_io.staging import scratch_folder

if TYPE_CHECKING:
    from graphopt.passbase import Context
    from graphopt.samples import Samples

__all__ = ["Accumulator", "accumulate", "collect"]

Feed: TypeAlias = Mapping[str, npt.NDArray[Any]]


class Accumulator(Protocol):
    """Takes in the values of a tensor, and can be added to another of its kind.

    It travels to the process that runs the model and back, so that it has to be picklable, its
    class importable. With a method ``update_many(arrays, feeds)`` it is given small arrays of
    several feeds at a time.
    """

    def update(self, values: npt.NDArray[Any], feed: int) -> None:
        """Take in an array that came from the feed of this index."""
        ...

    def merge(self, other: Self, /) -> None:
        """Add what ``other`` has taken in."""
        ...


A = TypeVar("A", bound=Accumulator)


def collect(
    model: ir.Model, values: Sequence[str], samples: Samples, context: Context
) -> dict[str, TensorStatistics]:
    """Return statistics of ``values`` over all ``samples``; see ``accumulate``."""
    return accumulate(model, {name: TensorStatistics() for name in values}, samples, context)


def accumulate(
    model: ir.Model, empty: Mapping[str, A], samples: Samples, context: Context
) -> dict[str, A]:
    """Run ``model`` on all ``samples`` and return an accumulator for each value asked for.

    Args:
        model: The model.
        empty: Name of a value of the main graph (graph inputs are allowed) -> an accumulator
            that has seen nothing; not changed itself.
        samples: What to run it on.
        context: Gives the runtime and the executor, and takes the progress.

    Raises:
        SamplesError: There is no sample, or one does not fit the model.
        ExecutionError: onnxruntime does not run the model.
    """
    task = context.progress.track("calibrating")
    if context.executor is None:
        with context.runtime.session(model, outputs=_inner(model, empty)) as session:
            feeds = enumerate(samples.feeds())
            result = session.observe(feeds, empty, task.advance)
    else:
        result = {name: copy.deepcopy(accumulator) for name, accumulator in empty.items()}
        for size, part in _spread(model, empty, samples, context.executor):
            for name, accumulator in part.items():
                result[name].merge(accumulator)
            task.advance(size)
    task.close()
    return result


_SHARE = 16
"""Feeds that a worker gets at a time: loading the model is paid once for so many."""
_WAITING = 8
"""Shares that are handed out and not merged yet: the feeds of these are in memory."""


def _spread(
    model: ir.Model, empty: Mapping[str, A], samples: Samples, executor: Executor
) -> Iterator[tuple[int, dict[str, A]]]:
    """Yield (number of feeds, accumulators) of each share, in order."""
    waiting: deque[Future[tuple[int, dict[str, A]]]] = deque()
    with scratch_folder() as folder:
        path = os.fspath(folder / "model.onnx")
        model_io.save(model, path, durable=False)
        outputs = _inner(model, empty)
        feeds = enumerate(samples.feeds())
        try:
            while True:
                share = list(itertools.islice(feeds, _SHARE))
                if share:
                    waiting.append(
                        executor.submit(_observe_share, path, dict(empty), outputs, share)
                    )
                if not waiting:
                    return
                if not share or len(waiting) >= _WAITING:
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _observe_share(
    path: str,
    accumulators: dict[str, A],
    outputs: list[str],
    share: Sequence[tuple[int, Feed]],
) -> tuple[int, dict[str, A]]:
    """Take in some feeds; runs in a worker, which got copies of all its arguments."""
    from graphopt.runtime import Runtime

    with Runtime() as runtime, runtime.session(path, outputs=outputs) as session:
        return len(share), session.observe(share, accumulators)


def _inner(model: ir.Model, values: Iterable[str]) -> list[str]:
    """Return those of ``values`` that the model has to be asked for: not its inputs."""
    inputs = {value.name for value in model.graph.inputs}
    return [name for name in values if name not in inputs]

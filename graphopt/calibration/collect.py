"""Runs a model on samples and takes statistics of its activations, feed by feed.

Only one feed's activations are ever in memory. The feeds may be spread over the workers of an
executor: each runs its share and returns statistics, and merging these gives what one worker
would have found.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx_ir as ir

from graphopt import model_io
from graphopt.calibration.statistics import TensorStatistics
from graphopt.errors import SamplesError

if TYPE_CHECKING:
    from graphopt.passbase import Context
    from graphopt.runtime import Session
    from graphopt.samples import Samples

__all__ = ["collect", "inner"]

Statistics = dict[str, TensorStatistics]
Feed = Mapping[str, npt.NDArray[Any]]


def collect(
    model: ir.Model, values: Sequence[str], samples: Samples, context: Context
) -> Statistics:
    """Return statistics of ``values`` over all ``samples``.

    Args:
        model: The model.
        values: Names of float32 values of the main graph; graph inputs are allowed.
        samples: What to run it on.
        context: Gives the runtime, and takes the progress.

    Raises:
        SamplesError: There is no sample, or all of them are empty.
        ExecutionError: onnxruntime does not run the model.
    """
    task = context.progress.track("calibrating")
    statistics = {name: TensorStatistics() for name in values}
    feeds = 0
    if context.executor is None:
        with context.runtime.session(model, outputs=inner(model, values)) as session:
            for index, feed in enumerate(samples.feeds()):
                _observe(session, feed, index, statistics)
                feeds += 1
                task.advance()
    else:
        for size, part in _spread(model, values, samples, context.executor):
            for name, stats in part.items():
                statistics[name].merge(stats)
            feeds += size
            task.advance(size)
    task.close()
    _check(statistics, feeds)
    return statistics


_SHARE = 16
"""Feeds that a worker gets at a time: loading the model is paid once for so many."""
_WAITING = 8
"""Shares that are handed out and not answered yet: the feeds of these are in memory."""


def _spread(
    model: ir.Model, values: Sequence[str], samples: Samples, executor: Executor
) -> Iterator[tuple[int, Statistics]]:
    """Yield (number of feeds, statistics) of each share, as the workers finish them."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = os.path.join(folder, "model.onnx")
        model_io.save(model, path)
        wanted = list(values), inner(model, values)
        feeds = enumerate(samples.feeds())
        running: set[Future[tuple[int, Statistics]]] = set()
        while True:
            share = list(itertools.islice(feeds, _SHARE))
            if share:
                running.add(executor.submit(_observe_share, path, *wanted, share))
            if not running:
                return
            if share and len(running) < _WAITING:
                continue
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _observe_share(
    path: str, values: list[str], outputs: list[str], share: Sequence[tuple[int, Feed]]
) -> tuple[int, Statistics]:
    """Take the statistics of some feeds; runs in a worker, next to nothing else."""
    from graphopt.runtime import Runtime

    statistics = {name: TensorStatistics() for name in values}
    with Runtime() as runtime, runtime.session(path, outputs=outputs) as session:
        for index, feed in share:
            _observe(session, feed, index, statistics)
    return len(share), statistics


def inner(model: ir.Model, values: Iterable[str]) -> list[str]:
    """Return those of ``values`` that the model has to be asked for: not its inputs."""
    inputs = {value.name for value in model.graph.inputs}
    return [name for name in values if name not in inputs]


def _observe(session: Session, feed: Feed, index: int, statistics: Statistics) -> None:
    """Run one feed and take the values that ``statistics`` has entries for."""
    results = session.run(feed)
    for name, stats in statistics.items():
        array = results[name] if name in results else feed[name]
        stats.update(array, index)


def _check(statistics: Statistics, feeds: int) -> None:
    if not feeds:
        raise SamplesError(
            "none",
            "the samples are empty; ranges of activations need at least one.",
            hint="A few dozen typical inputs are enough.",
        )
    if statistics and not any(stats.count for stats in statistics.values()):
        raise SamplesError(
            "empty",
            f"all {feeds} samples have a size of 0; the activations took no value.",
        )

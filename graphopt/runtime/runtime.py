"""``Runtime``: what the rest of graphopt knows of onnxruntime."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from graphopt.errors import ExecutionError
from graphopt.runtime import arrays, optimized
from graphopt.runtime.evaluation import Evaluator, Result
from graphopt.runtime.latency import Latency, summarize
from graphopt.runtime.loading import load_into
from graphopt.runtime.process import Process
from graphopt.runtime.rounds import Plan
from graphopt.runtime.session import Level, Model, Session, describe

__all__ = ["Runtime"]

# Processes that wait for the next session: as many as validation uses at the same time.
# Starting one takes 0.2 s, keeping one 60 MB.
_MAX_IDLE = 4


class Runtime:
    """Runs models and nodes with onnxruntime, in child processes.

    Whatever happens to a child (a signal, a hang, no memory) is an ``ExecutionError`` here,
    and the next call starts a new child. Cases of the error: ``refused`` (the model is not
    loaded, the node not evaluated), ``failed`` (it does not run), ``crashed`` (native code
    died), ``timeout``, ``closed`` (the session is not loaded any more).

    Can be used by several threads, and is of no use after ``close`` or a ``with`` block.

    Args:
        timeout: Seconds that loading a model, or running it once, may take; ``None``: any.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._busy: list[Process] = []
        self._idle: list[Process] = []
        self._evaluator: Evaluator | None = None

    def evaluate(
        self,
        node: ir.Node,
        inputs: Sequence[np.ndarray | None],
        opset: Mapping[str, int],
        max_bytes: int = 1 << 30,
        timeout: float = 10.0,
    ) -> list[np.ndarray]:
        """Return the outputs of ``node`` for constant ``inputs``, without any optimization.

        Args:
            node: Its operator, attributes and number of outputs are looked at, not its inputs.
            inputs: One array an input, ``None`` for an omitted one. Types that numpy lacks are
                those of ml_dtypes; strings are arrays of objects.
            opset: Operator set versions, domain -> version.
            max_bytes: What all the outputs together may take.
            timeout: Seconds it may take.

        Returns:
            One array an output, also for outputs that have no name.

        Raises:
            ExecutionError: The node is refused, fails, or takes too long or too much memory.
        """
        (result,) = self.evaluate_many([(node, inputs)], opset, max_bytes, timeout)
        if isinstance(result, ExecutionError):
            raise result
        return result

    def evaluate_many(
        self,
        requests: Sequence[tuple[ir.Node, Sequence[np.ndarray | None]]],
        opset: Mapping[str, int],
        max_bytes: int = 1 << 30,
        timeout: float = 10.0,
    ) -> list[Result]:
        """Evaluate several nodes with one message, a third of the time for small tensors.

        Args:
            requests: Nodes and their inputs, as of ``evaluate``.
            opset: Operator set versions, domain -> version.
            max_bytes: What all the outputs of one node may take.
            timeout: Seconds they may take together; if they do not, each alone.

        Returns:
            The outputs of each node, or the error of it.
        """
        with self._lock:
            if self._evaluator is None:
                self._evaluator = Evaluator(Process())
        return self._evaluator.evaluate(requests, opset, max_bytes, timeout)

    def session(
        self,
        model: Model,
        outputs: Sequence[str] = (),
        optimize: bool | Level = True,
        threads: int = 1,
        config: Mapping[str, str] | None = None,
    ) -> Session:
        """Load ``model``.

        Args:
            model: A model in memory, or the path of one, which is opened where it is.
            outputs: Names of further values of the main graph to return.
            optimize: Let onnxruntime optimize the graph, as it does by default; or its level.
            threads: Threads of an operator.
            config: Session configuration entries of onnxruntime.

        Raises:
            ExecutionError: onnxruntime does not load it.
            ModelError: There is no such file.
        """
        process = self._acquire()
        try:
            loaded = load_into(
                process,
                model,
                outputs=outputs,
                level=_level(optimize),
                threads=threads,
                config=config,
                timeout=self._timeout,
            )
        except BaseException:
            self._give_back(process)
            raise
        return Session(process, self._give_back, model, loaded, self._timeout)

    def optimized_nodes(
        self, model: Model, level: Level = "all", config: Mapping[str, str] | None = None
    ) -> list[optimized.OptimizedNode]:
        """Return the nodes of the graph that onnxruntime makes of ``model``, in its order.

        Args:
            model: A model in memory, or the path of one.
            level: How much onnxruntime optimizes.
            config: Session configuration entries of onnxruntime.

        Raises:
            ExecutionError: onnxruntime does not load it.
        """
        process = self._acquire()
        try:
            return optimized.nodes_of(process, model, level, config, self._timeout)
        finally:
            self._give_back(process)

    def latency(
        self,
        models: Sequence[Model],
        feeds: Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
        repetitions: int = 30,
        threads: int = 1,
        max_seconds: float = 20.0,
        optimize: bool | Level = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Latency]:
        """Measure ``models`` in turn, in one process, with threads that do not spin.

        Measures on beyond ``repetitions`` until the ratios are known to 1 %, within limits.

        Args:
            models: At least one; the ratios are to the first.
            feeds: One feed, or several that are used in turn.
            repetitions: Rounds; in each, every model is measured once.
            threads: Threads of an operator.
            max_seconds: Time to stop after, warm-up aside.
            optimize: As of ``session``.
            progress: Called with (rounds done, rounds planned) a few times a second.

        Returns:
            One entry a model.

        Raises:
            ExecutionError: onnxruntime does not load or run one of them.
        """
        many = [feeds] if isinstance(feeds, Mapping) else list(feeds)
        plan = Plan(repetitions, max_repetitions=10 * repetitions, max_seconds=max_seconds)
        process = self._acquire()
        try:
            with process.lock:
                keys = [
                    load_into(
                        process,
                        model,
                        level=_level(optimize),
                        threads=threads,
                        timeout=self._timeout,
                    )[0]
                    for model in models
                ]
                _, (times,) = process.request(
                    "latency",
                    [arrays.encode(value) for feed in many for value in feed.values()],
                    what=" and ".join(map(describe, models)),
                    progress=None if progress is None else lambda value: progress(*value),
                    keys=keys,
                    names=[list(feed) for feed in many],
                    plan=plan,
                )
        finally:
            # Ended, and not used again: what was loaded goes with it.
            self._discard(process)
        return summarize(times)

    @functools.cached_property
    def version(self) -> str:
        """Release of onnxruntime, e.g. ``"1.31.1"``."""
        process = self._acquire()
        try:
            version, _ = process.request("hello", what="its first request")
        finally:
            self._give_back(process)
        return str(version)

    def close(self) -> None:
        """End the child processes."""
        with self._lock:
            processes = [*self._busy, *self._idle]
            if self._evaluator is not None:
                processes.append(self._evaluator.process)
            self._busy, self._idle, self._evaluator = [], [], None
        for process in processes:
            process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process gets a runtime of its own.
        return (Runtime, (self._timeout,))

    def _acquire(self) -> Process:
        with self._lock:
            process = self._idle.pop() if self._idle else Process()
            self._busy.append(process)
            return process

    def _give_back(self, process: Process) -> None:
        with self._lock:
            if process in self._busy:
                self._busy.remove(process)
                if len(self._idle) < _MAX_IDLE:
                    self._idle.append(process)
                    return
        process.kill()

    def _discard(self, process: Process) -> None:
        with self._lock:
            if process in self._busy:
                self._busy.remove(process)
        process.kill()


def _level(optimize: bool | Level) -> Level:
    if isinstance(optimize, bool):
        return "all" if optimize else "disable"
    return optimize

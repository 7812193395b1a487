"""``Runtime``: what the rest of graphopt knows of onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from graphopt.runtime import arrays
from graphopt.runtime.evaluation import Evaluator
from graphopt.runtime.latency import Latency, summarize
from graphopt.runtime.process import Process
from graphopt.runtime.session import Session, load_into

__all__ = ["Runtime"]


class Runtime:
    """Runs models and nodes with onnxruntime, in child processes.

    Whatever happens to a child (a signal, a hang, no memory) is an ``ExecutionError``, and the
    next call starts a new one. Its cases: ``refused`` (the model does not load), ``failed``
    (it does not run), ``crashed`` (native code died), ``timeout``. Can be used by several
    threads. Close it, or use it in a ``with`` statement.
    """

    def __init__(self) -> None:
        self._processes: list[Process] = []
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
            node: The node; only its operator, attributes and number of outputs are looked at.
            inputs: One array an input, ``None`` for an omitted one.
            opset: Operator set versions, domain -> version.
            max_bytes: More than this the outputs together must not take.
            timeout: Seconds after which the evaluation is given up.

        Raises:
            ExecutionError: The node is refused, fails, takes too long or too much memory.
        """
        if self._evaluator is None:
            self._evaluator = Evaluator(self._acquire())
        return self._evaluator.evaluate(node, inputs, opset, max_bytes, timeout)

    def session(
        self,
        model: ir.Model | str | os.PathLike[str],
        outputs: Sequence[str] = (),
        optimize: bool = True,
        threads: int = 1,
    ) -> Session:
        """Load ``model``.

        Args:
            model: A model in memory, or the path of one, which is opened where it is.
            outputs: Names of further values of the main graph to return.
            optimize: Let onnxruntime optimize the graph, as it does by default.
            threads: Threads of an operator.

        Raises:
            ExecutionError: onnxruntime does not load it.
        """
        process = self._acquire()
        try:
            key, ins, outs = load_into(
                process, model, outputs, "all" if optimize else "disable", threads
            )
        except BaseException:
            self._release(process)
            raise
        from graphopt.runtime.session import describe

        return Session(process, self._release, key, describe(model), ins, outs)

    def latency(
        self,
        models: Sequence[ir.Model | str | os.PathLike[str]],
        feeds: Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
        repetitions: int = 30,
        threads: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Latency]:
        """Measure ``models`` side by side in one process, run by run in turn.

        Args:
            models: At least one; the ratios are to the first.
            feeds: One feed, or several that are used in turn.
            repetitions: Rounds; in each, every model runs once.
            threads: Threads of an operator. They do not spin.
            progress: Called with (rounds done, rounds in all).

        Returns:
            One entry a model.
        """
        many = [feeds] if isinstance(feeds, Mapping) else list(feeds)
        process = self._acquire()
        try:
            keys = [load_into(process, model, threads=threads)[0] for model in models]

            def report(value: Any) -> None:
                if progress is not None:
                    progress(value[0], value[1])

            times = process.request(
                "latency",
                keys,
                [{k: arrays.encode(v) for k, v in feed.items()} for feed in many],
                repetitions,
                what="the models",
                progress=report,
            )
            for key in keys:
                process.request("unload", key, what="the models")
        finally:
            self._release(process)
        return summarize(times)

    def close(self) -> None:
        """End the child processes."""
        for process in self._processes:
            process.kill()
        self._processes.clear()
        self._idle.clear()
        self._evaluator = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _acquire(self) -> Process:
        if self._idle:
            return self._idle.pop()
        process = Process()
        self._processes.append(process)
        return process

    def _release(self, process: Process) -> None:
        if process in self._processes:
            self._idle.append(process)

"""A model loaded by onnxruntime in a child process."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.errors import ExecutionError, ModelError
from graphopt.model_io.staging import scratch_folder
from graphopt.runtime import arrays
from graphopt.runtime.process import Process

__all__ = ["Level", "Model", "Session", "describe", "load_into", "run_together"]

Model: TypeAlias = "ir.Model | str | os.PathLike[str]"
A = TypeVar("A")
Level: TypeAlias = Literal["disable", "basic", "extended", "all"]
"""How much onnxruntime optimizes the graph when it loads it; ``"all"`` is its default."""
_Declared: TypeAlias = "list[tuple[str, str, list[Any]]]"
Loaded: TypeAlias = "tuple[int, _Declared, _Declared, _Declared]"
"""Key of a model in its process; name, type and shape of its inputs, its outputs and the
initializers that may be fed."""

# Up to this many bytes of weights travel in the message; more go through a file, which
# onnxruntime maps, and which has no limit of 2 GB.
_INLINE_BYTES = 1 << 24
_keys = itertools.count()


class Session:
    """A loaded model; made by ``Runtime.session``, closed at the end of a ``with`` block.

    Attributes:
        input_specs: Inputs that have to be fed, as onnxruntime declares them.
        output_specs: Outputs: the model's own, then those asked for.
        overridable_specs: Initializers that may be fed.
    """

    def __init__(
        self,
        process: Process,
        release: Callable[[Process], None],
        model: Model,
        loaded: Loaded,
        timeout: float | None,
    ) -> None:
        self._process: Process | None = process
        self._generation = process.generation
        self._release = release
        self._what = describe(model)
        self._key, inputs, outputs, overridable = loaded
        self._timeout = timeout
        self.input_specs = tuple(map(arrays.spec_of, inputs))
        self.output_specs = tuple(map(arrays.spec_of, outputs))
        self.overridable_specs = tuple(map(arrays.spec_of, overridable))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs: the model's own, then those asked for."""
        return tuple(spec.name for spec in self.output_specs)

    @property
    def is_open(self) -> bool:
        """Whether the model is still loaded: not closed, and its process alive."""
        process = self._process
        return (
            process is not None
            and process.pid is not None
            and process.generation == self._generation
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            feeds: Input name -> array.

        Returns:
            Output name -> array. What is no tensor comes as onnxruntime returns it: a sequence
            as a list, a map as a dict.

        Raises:
            ExecutionError: onnxruntime failed, died or took too long; after the last two the
                session is closed.
        """
        (result,) = run_together([self], feeds)
        if isinstance(result, ExecutionError):
            raise result
        return result

    def observe(
        self,
        feeds: Iterable[tuple[int, Mapping[str, np.ndarray]]],
        watched: Mapping[str, A],
        advance: Callable[[], object] = lambda: None,
    ) -> dict[str, A]:
        """Run the model on feeds and take in its values, in the child process.

        Args:
            feeds: Index and values of each feed.
            watched: Name of an input or output -> an accumulator, with a method
                ``update(values, index of the feed)``; it can be pickled, and is not changed.
            advance: Called after each feed.

        Returns:
            The accumulators that have taken in all feeds.

        Raises:
            ExecutionError: As of ``run``.
        """
        self._request("watch", accumulators=pickle.dumps(dict(watched), protocol=5))
        for index, feed in feeds:
            self._request("observe", self._encoded(feed), names=list(feed), feed=index)
            advance()
        taken: dict[str, A] = pickle.loads(self._request("observed"))
        return taken

    def close(self) -> None:
        """Unload the model; one whose process dies of that is unloaded as well."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            with process.lock, contextlib.suppress(ExecutionError):
                if process.pid is not None and process.generation == self._generation:
                    process.request("unload", what=self._what, key=self._key)
        finally:
            self._release(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, feeds: Mapping[str, np.ndarray]) -> Process:
        """Send a request to run; the caller holds the lock of the process."""
        process = self._opened()
        process.send(
            "run",
            self._encoded(feeds),
            what=self._what,
            timeout=self._timeout,
            key=self._key,
            names=list(feeds),
        )
        return process

    def _request(self, operation: str, values: Sequence[Any] = (), **keywords: Any) -> Any:
        answer, _ = self._opened().request(
            operation,
            values,
            what=self._what,
            timeout=self._timeout,
            key=self._key,
            **keywords,
        )
        return answer

    def _opened(self) -> Process:
        if self._process is None or not self.is_open:
            raise ExecutionError("closed", f"{self._what} is not loaded any more.")
        return self._process

    def _encoded(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        try:
            return [arrays.encode(value) for value in feeds.values()]
        except TypeError as error:
            raise ExecutionError("failed", f"{self._what} cannot be fed: {error}.") from error

    def _finish(self, process: Process) -> dict[str, np.ndarray]:
        _, values = process.receive(what=self._what)
        return {
            name: arrays.decode(value)
            for name, value in zip(self.output_names, values, strict=True)
        }


def run_together(
    sessions: Sequence[Session], feeds: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray] | ExecutionError]:
    """Run several sessions on the same feed, those of different processes at the same time.

    Returns:
        What ``Session.run`` returns or raises, one entry a session.
    """
    results: list[Any] = [None] * len(sessions)
    # In one order for all threads, so that two of them cannot wait for each other.
    order = sorted(range(len(sessions)), key=lambda at: id(sessions[at]._process))
    running: list[tuple[int, Process]] = []

    def finish() -> None:
        at, process = running[0]
        try:
            results[at] = sessions[at]._finish(process)
        except ExecutionError as error:
            results[at] = error
        running.pop(0)
        process.lock.release()

    try:
        for at in order:
            owner = sessions[at]._process
            if running and running[-1][1] is owner:
                finish()
            lock = owner.lock if owner is not None else None
            if lock is not None:
                lock.acquire()
            try:
                running.append((at, sessions[at]._start(feeds)))
            except BaseException as error:
                if lock is not None:
                    lock.release()
                if not isinstance(error, ExecutionError):
                    raise
                results[at] = error
        while running:
            finish()
    finally:
        for _, process in running:
            process.kill()
            process.lock.release()
    return results


def describe(model: Model) -> str:
    """Return the words for ``model`` in the text of an error."""
    if isinstance(model, ir.Model):
        return f"the model {model.graph.name!r}" if model.graph.name else "the model"
    return os.fspath(model)


def load_into(
    process: Process,
    model: Model,
    *,
    outputs: Sequence[str] = (),
    level: Level = "all",
    threads: int = 1,
    config: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Loaded:
    """Load ``model`` in ``process``."""
    key = next(_keys)
    # Threads that spin while they wait for work take time from every other process.
    entries = {"session.intra_op.allow_spinning": "0", **(config or {})}
    with contextlib.ExitStack() as stack:
        path, data, base = _payload(model, outputs, stack)
        if base:
            entries["session.model_external_initializers_file_folder_path"] = base
        declared, _ = process.request(
            "load",
            [np.frombuffer(data, np.uint8)] if path is None else [],
            what=describe(model),
            timeout=timeout,
            key=key,
            model=path,
            level=level,
            threads=threads,
            config=entries,
        )
    return key, *declared


def _payload(
    model: Model, outputs: Sequence[str], stack: contextlib.ExitStack
) -> tuple[str | None, bytes, str]:
    """Return the path of the model, or its bytes and the folder of its external data."""
    if isinstance(model, ir.Model):
        tensors = [
            value.const_value
            for graph in model.graphs()
            for value in graph.initializers.values()
            if value.const_value is not None
        ]
        external = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
        bases = {os.path.abspath(tensor.base_dir) for tensor in external}
        inside = sum(tensor.nbytes for tensor in tensors) - sum(t.nbytes for t in external)
        if len(bases) <= 1 and inside <= _INLINE_BYTES:
            proto = ir.to_proto(model)
            return None, _with_outputs(proto, outputs), next(iter(bases), "")
        path = stack.enter_context(scratch_folder()) / "model.onnx"
        model_io.save(model, path, external_data="always", durable=False)
    else:
        path = pathlib.Path(model).absolute()
        if not path.is_file():
            raise ModelError("missing-file", f"{os.fspath(model)} does not exist.")
    if not outputs:
        return str(path), b"", ""
    if path.stat().st_size > _INLINE_BYTES and not isinstance(model, ir.Model):
        # Its weights are in it: left where they are, and not parsed and written again.
        return _payload(model_io.load(path), outputs, stack)
    proto = onnx.load(path, load_external_data=False)
    return None, _with_outputs(proto, outputs), str(path.parent)


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """Serialize ``proto`` with further outputs; onnxruntime infers their types."""
    present = {value.name for value in proto.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            proto.graph.output.add().name = name
    return bytes(proto.SerializeToString())

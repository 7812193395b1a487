"""A model loaded by onnxruntime in a child process."""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.errors import ExecutionError, ModelError
from graphopt.runtime import arrays
from graphopt.runtime.process import Process

__all__ = ["Session", "describe", "load_into"]

# Up to this many bytes of weights travel in the message; more go through a file.
_INLINE_BYTES = 1 << 30
_keys = itertools.count()


class Session:
    """A loaded model; made by ``Runtime.session``, closed at the end of a ``with`` block.

    Attributes:
        input_specs: Inputs that have to be fed.
        output_names: Names of the outputs: the model's own, then those asked for.
    """

    def __init__(
        self,
        process: Process,
        release: Callable[[Process], None],
        key: int,
        what: str,
        inputs: Sequence[tuple[str, str, Sequence[Any]]],
        outputs: Sequence[tuple[str, str, Sequence[Any]]],
    ) -> None:
        self._process: Process | None = process
        self._generation = process.generation
        self._release = release
        self._key = key
        self._what = what
        self.input_specs = tuple(map(arrays.spec_of, inputs))
        self.output_names = tuple(name for name, _, _ in outputs)

    def run(
        self, feeds: Mapping[str, np.ndarray], timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            feeds: Input name -> array.
            timeout: Seconds after which the run is given up; ``None``: never.

        Returns:
            Output name -> array. An output that is a sequence is a list.

        Raises:
            ExecutionError: onnxruntime failed, died or took too long. After a death the
                session is closed.
        """
        process = self._process
        if process is None:
            raise ExecutionError("closed", f"the session of {self._what} is closed.")
        with process.lock:
            if process.ensure() != self._generation:
                self._process = None
                raise ExecutionError("closed", f"the process of {self._what} has ended.")
            values = process.request(
                "run",
                self._key,
                {name: arrays.encode(value) for name, value in feeds.items()},
                what=self._what,
                timeout=timeout,
            )
        return {
            name: arrays.decode(value)
            for name, value in zip(self.output_names, values, strict=True)
        }

    def close(self) -> None:
        """Unload the model."""
        process, self._process = self._process, None
        if process is None:
            return
        with process.lock:
            if process.pid is not None and process.generation == self._generation:
                process.request("unload", self._key, what=self._what)
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


def describe(model: ir.Model | str | os.PathLike[str]) -> str:
    """Return the words for ``model`` in the text of an error."""
    if isinstance(model, ir.Model):
        return f"the model {model.graph.name!r}" if model.graph.name else "the model"
    return f"{os.fspath(model)}"


def load_into(
    process: Process,
    model: ir.Model | str | os.PathLike[str],
    outputs: Sequence[str] = (),
    level: str = "all",
    threads: int = 1,
    timeout: float | None = None,
    optimized_path: str = "",
) -> tuple[int, list[Any], list[Any]]:
    """Load ``model`` in ``process`` and return its key, its inputs and its outputs."""
    key = next(_keys)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        payload, base = _payload(model, outputs, pathlib.Path(folder))
        result = process.request(
            "load",
            key,
            payload,
            base,
            level,
            threads,
            False,
            optimized_path,
            what=describe(model),
            timeout=timeout,
        )
    return key, *result


def _payload(
    model: ir.Model | str | os.PathLike[str], outputs: Sequence[str], folder: pathlib.Path
) -> tuple[bytes | str, str]:
    """Return the model as bytes or a path, and the folder of its external data."""
    if not isinstance(model, ir.Model):
        path = pathlib.Path(model)
        if not path.is_file():
            raise ModelError("missing-file", f"{path} does not exist.")
        if not outputs:
            return str(path), ""
        return path.read_bytes() + _extra_outputs(outputs), str(path.resolve().parent)
    tensors = [
        value.const_value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    external = {
        os.fspath(tensor.base_dir)
        for tensor in tensors
        if isinstance(tensor, ir.ExternalTensor)
    }
    inline = sum(t.nbytes for t in tensors if not isinstance(t, ir.ExternalTensor))
    if len(external) <= 1 and inline <= _INLINE_BYTES:
        names = {value.name for value in model.graph.outputs}
        new = [name for name in outputs if name not in names]
        data = ir.to_proto(model).SerializeToString()
        base = os.path.abspath(*external) if external else ""
        return data + _extra_outputs(new), base
    path = folder / "model.onnx"
    model_io.save(model, path, external_data="always")
    return _payload(path, outputs, folder)


def _extra_outputs(names: Sequence[str]) -> bytes:
    """Return bytes that, appended to a serialized model, add outputs to its graph.

    Concatenated messages are merged (protobuf encoding, "Last One Wins"): repeated fields are
    appended, so that a model of any size gets outputs without being parsed. onnxruntime infers
    the types.
    """
    if not names:
        return b""
    fragment = onnx.ModelProto()
    for name in names:
        fragment.graph.output.add().name = name
    return bytes(fragment.SerializePartialToString())

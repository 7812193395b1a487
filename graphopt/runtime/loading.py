"""Loads a model in a child process: what is sent there, and what is left in files."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.errors import ModelError
from graphopt.model_io.staging import scratch_folder
from graphopt.runtime.process import Process
from graphopt.runtime.session import Level, Loaded, Model, describe

__all__ = ["load_into"]

# Up to this many bytes of weights travel in the message; more go through a file, which
# onnxruntime maps, and which has no limit of 2 GB.
_INLINE_BYTES = 1 << 24
_keys = itertools.count()


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

"""A model loaded by onnxruntime; used in the child process only."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from graphopt.runtime.wire import Opaque

__all__ = ["Loaded", "RefusedError", "load", "size_of", "text_of"]

_LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# The element types that numpy does not have, as onnxruntime calls them.
_OPAQUE = {
    f"tensor({name})"
    for name in (
        "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
        "float8e8m0", "float4e2m1", "uint4", "int4", "uint2", "int2",
    )
}  # fmt: skip


class RefusedError(Exception):
    """onnxruntime does not load a model."""


class Loaded:
    """A session and what running it needs to know.

    Attributes:
        inputs, outputs, overridable: Name, type and shape of each, as onnxruntime says them.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.inputs = [(i.name, i.type, i.shape) for i in session.get_inputs()]
        self.outputs = [(o.name, o.type, o.shape) for o in session.get_outputs()]
        self.overridable = [
            (o.name, o.type, o.shape) for o in session.get_overridable_initializers()
        ]
        self._names = [name for name, _, _ in self.outputs]
        self._opaque = any(kind in _OPAQUE for _, kind, _ in self.outputs)

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Run the model once; returns its outputs in their order."""
        if not self._opaque and not any(isinstance(v, Opaque) for v in feeds.values()):
            return list(self._session.run(self._names, feeds))
        values = {name: _to_ort(value) for name, value in feeds.items()}
        results = self._session.run_with_ort_values(self._names, values)
        return [_from_ort(value) for value in results]


def _to_ort(value: Any) -> ort.OrtValue:
    if not isinstance(value, Opaque):
        return ort.OrtValue.ortvalue_from_numpy(value)
    # Allocated and filled: the constructor from an array knows no packed types.
    out = ort.OrtValue.ortvalue_from_shape_and_type(list(value.shape), value.element_type)
    size = out.tensor_size_in_bytes()
    if size != value.data.nbytes:
        raise ValueError(f"{value.data.nbytes} bytes of data for a tensor of {size}")
    if size:
        ctypes.memmove(out.data_ptr(), value.data.ctypes.data, size)
    return out


def _from_ort(value: ort.OrtValue) -> Any:
    if not value.is_tensor() or value.data_type() not in _OPAQUE:
        return value.numpy()
    data = np.empty(value.tensor_size_in_bytes(), np.uint8)
    if data.nbytes:
        ctypes.memmove(data.ctypes.data, value.data_ptr(), data.nbytes)
    return Opaque(value.element_type(), tuple(value.shape()), data)


def load(
    model: bytes | str, level: str, threads: int, config: Mapping[str, str], arena: bool = True
) -> Loaded:
    """Load a model.

    Args:
        model: Its bytes, or its path.
        level: How much to optimize; a key of ``_LEVELS``.
        threads: Threads of an operator.
        config: Session configuration entries, ``optimized_model_filepath``, and
            ``enable_cpu_mem_arena``: ``"0"`` is as without ``arena``.
        arena: Keep memory that was used for the next run.

    Raises:
        RefusedError: It is not loaded.
    """
    # Random numbers without a seed of their own start from here: the same in every session.
    # Not from 0, which the generator takes for 1: two nodes would draw the same.
    ort.set_seed(7)
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    try:
        for key, value in config.items():
            if key == "optimized_model_filepath":
                options.optimized_model_filepath = value
            elif key == "enable_cpu_mem_arena":
                options.enable_cpu_mem_arena = arena and value != "0"
            else:
                options.add_session_config_entry(key, value)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:
        raise RefusedError(text_of(error)) from error
    return Loaded(session)


def size_of(value: Any) -> int:
    """Return the bytes of an array, or of those in a sequence."""
    if isinstance(value, Opaque):
        return value.data.nbytes
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return sum(size_of(item) for item in value) if isinstance(value, list) else 0


def text_of(error: BaseException) -> str:
    """Return the words of an error, or at least its name."""
    return str(error) or type(error).__name__

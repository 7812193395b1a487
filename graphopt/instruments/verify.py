"""Checks the model after every pass that changed it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from graphopt import model_io
from graphopt.errors import PassError
from graphopt.manager import Step
from graphopt.passbase import Pass

__all__ = ["VerifyEach", "structural_fault"]


class VerifyEach:
    """Instrument: stops at the first pass after which the model is not valid.

    Args:
        check: A further check of the model, e.g. a numeric one; returns what is wrong, or
            ``""``.
    """

    def __init__(self, check: Callable[[ir.Model], str] | None = None) -> None:
        self._check = check

    def __call__(self, previous: Step | None, model: ir.Model, next_: Pass | None) -> None:
        """Check the model.

        Raises:
            PassError: It is not valid; the text names the pass and its rewrites.
        """
        del next_
        if previous is None or not previous.result.modified:
            return
        fault = structural_fault(model)
        if not fault and self._check is not None:
            fault = self._check(model)
        if fault:
            numbers = previous.rewrites
            span = f" (rewrites {numbers.start} to {numbers.stop - 1})" if numbers else ""
            raise PassError(
                "invalid-graph",
                f"the model is not valid after {previous.label}{span}: {fault}",
                hint="Find the rewrite to blame with python -m graphopt.tools.bisect_passes.",
            )


def structural_fault(model: ir.Model) -> str:
    """Return what the official checker finds wrong with ``model``, in one line, or ``""``.

    Full check: operators, types, order, names, and shapes that contradict each other. Large
    weights are replaced by inputs of their type and shape, so that none is read or copied.
    """
    proto = model_io.skeleton(model)
    _weights_to_inputs(proto.graph, proto.graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())
    return ""


def _weights_to_inputs(graph: onnx.GraphProto, main: onnx.GraphProto) -> None:
    """Turn initializers whose data is elsewhere into inputs of the main graph."""
    inputs = {value.name for value in main.input}
    kept = []
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            kept.append(tensor)
        elif tensor.name not in inputs:
            main.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _weights_to_inputs(inner, main)

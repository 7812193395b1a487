"""Checks the model after every pass that changed it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from graphopt.errors import PassError
from graphopt.manager import Step
from graphopt.passbase import Pass

__all__ = ["VerifyEach", "structural_fault"]

SMALL_BYTES = 1024
"""Initializers up to this size keep their data in the check: shape inference reads shapes,
axes and the like from it. The larger ones are weights, of which only type and shape matter."""


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
    try:
        onnx.checker.check_model(_skeleton(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())
    return ""


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    source = model.graph
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.functions.extend(ir.to_proto(function) for function in model.functions.values())
    graph = proto.graph
    graph.name = source.name or "graph"
    graph.input.extend(ir.to_proto(value) for value in source.inputs)
    graph.output.extend(ir.to_proto(value) for value in source.outputs)
    for value in source.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.nbytes <= SMALL_BYTES:
            graph.initializer.append(ir.to_proto(tensor))
            graph.initializer[-1].name = value.name or ""
        elif not value.is_graph_input():
            dims = [int(dim) for dim in tensor.shape.numpy()]
            graph.input.append(
                onnx.helper.make_tensor_value_info(value.name or "", tensor.dtype.value, dims)
            )
    for node in source:
        graph.node.append(ir.to_proto(node))
        graph.value_info.extend(
            ir.to_proto(value)
            for value in node.outputs
            if value.name and value.type is not None and not value.is_graph_output()
        )
    return proto
